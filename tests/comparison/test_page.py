"""The page of a comparison is valid HTML, requests nothing, keeps hostile names inert, and shows what it was given."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ccvae_eval.comparison.compare import compare
from ccvae_eval.comparison.page import MOST_PIXELS, page_html
from ccvae_eval.evaluation.result_table import Mean
from ccvae_eval.evaluation.run import Run
from ccvae_eval.report.page.pictures import MOVED
from tests.support.comparisons import GALLERY, STATIONS, model, pictured, run_of
from tests.support.html import Elements, require_accessible, require_no_request, require_policy

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</script><b>", "{{ 7*7 }}", "x" * 300)
SECTIONS = ["answer", "where", "move", "images", "checks", "provenance"]


def page_of(*runs: Run) -> str:
    found = compare(*runs)
    return page_html(found, {label: [run] for label, run in zip(found.models, runs, strict=True)}, "ccvae-eval compare")


def data_of(html: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(re.findall(r'id="data">(.*?)</script>', html, re.DOTALL)[0])
    return found


def text_of(html: str) -> str:
    return " ".join(Elements(html).text.split())


@pytest.fixture(scope="module")
def html() -> str:
    return page_of(pictured(model(1, 1.0, path="ours.pt")), pictured(model(2, path="theirs.pt"), 50))


def test_the_page_keeps_to_the_rules_of_every_page(html: str) -> None:
    require_policy(html)
    require_no_request(html)
    require_accessible(html)
    page = Elements(html)
    assert [section["id"] for section in page.all("section")] == SECTIONS
    assert {f"#{section}" for section in SECTIONS} <= {link["href"] for link in page.all("a")}


def test_the_verdict_comes_first(html: str) -> None:
    text = text_of(html)
    verdict = "A is better in locality.focus, drift.spill, accuracy.balanced_accuracy and density.auc."
    assert text.index(verdict) < text.index("adjusted p")
    assert "ours.pt" in text
    assert "ccvae-eval compare" in text
    assert "Models were compared on the same images" in text


def test_the_right_half_of_a_line_is_better_for_the_first_model(html: str) -> None:
    points = [float((c["cx"] or "").rstrip("%")) for c in Elements(html).all("circle")]
    assert len(points) == 10
    assert min(points) > 50  # also of drift.spill, of which less is better


def test_a_run_and_itself() -> None:
    run = pictured(model(1))
    html = page_of(run, run)
    text = text_of(html)
    assert "No evidence of a difference between A and B in any of 4 values; they are equal on all images." in text
    assert text.count("no evidence of a difference (equal throughout)") == 10
    assert "0 of 6 differences have evidence" in text
    assert "The models do not differ in any value of these images." in text
    assert not re.findall("[AB] better(?! →)(?<!← B better)", text)
    assert data_of(html)["columns"] == []


def test_both_models_show_the_same_images(html: str) -> None:
    strips = [f for f in Elements(html).all("figure") if "data-label" in f]
    assert [(f["data-label"], f["data-columns"]) for f in strips] == [(str(k // 2), str(STATIONS)) for k in range(6)]
    data = data_of(html)
    assert data["moved"] == list(range(MOVED))
    assert data["ids"] == [5 * k for k in range(GALLERY)]


def test_images_in_common_are_shown_if_the_runs_picture_different_ones() -> None:
    later = pictured(model(2))
    later = replace(later, ids={**later.ids, "locality": np.arange(200) + 3})
    both = pictured(model(1)), later
    found = {label: [run] for label, run in zip("AB", both, strict=True)}
    data = data_of(page_html(compare(model(1), model(2)), found))
    assert data["moved"] == [3, 4, 5, 6, 7]
    other = pictured(model(2), every=7)
    data = data_of(page_of(pictured(model(1)), other))
    assert data["ids"] == [0, 35]


def test_a_page_without_pictures_says_why() -> None:
    text = text_of(page_of(pictured(model(1)), model(2)))
    assert "No traversals are shown: none are stored for B" in text
    assert "No single images are shown: none are stored for B" in text
    other = pictured(model(2))
    other = replace(other, gallery={**other.gallery, "ids": other.gallery["ids"] + 1})
    assert "No single images are shown: the runs have stored pictures of different images" in text_of(
        page_of(pictured(model(1)), other)
    )


def test_a_value_that_is_not_compared_shows_its_reason() -> None:
    whole = {"m": ("v", {"x": Mean(np.linspace(0, 1, 60)), "y": "has no region"})}
    html = page_of(run_of(whole), run_of(whole))
    text = text_of(html)
    assert "mean over 1 of 2 characteristics" in text[: text.index("unit: images")]
    assert "m.v: mean over 1 of 2 characteristics, without y" in text
    assert "not compared undefined in A and B: has no region" in text
    assert "0 of 1 differences have evidence" in text
    matrix = html[html.index('<table class="matrix') :].partition("</table>")[0]
    assert ">x<" in matrix
    assert ">y<" not in matrix


def test_values_that_are_not_compared_come_last() -> None:
    both = {"a": ("v", {"x": "has no region"}), "b": ("w", {"x": Mean(np.linspace(0, 1, 60))})}
    table = text_of(page_of(run_of(both), run_of(both))).partition("95% CI")[2]
    assert table.index("no evidence of a difference") < table.index("not compared")


def test_pictures_that_do_not_belong_to_the_images_are_left_out() -> None:
    run, other = pictured(model(1)), pictured(model(2))
    odd = replace(run, gallery={**run.gallery, "do/Hat": run.gallery["do/Hat"][:3]})
    assert "do(Hat)" not in page_of(odd, other)
    assert "do(Tie)" in page_of(odd, other)
    without = replace(run, gallery={name: array for name, array in run.gallery.items() if name != "image"})
    assert "none are stored for A" in text_of(page_of(without, other))


def test_numbers_of_single_images_are_those_of_the_evidence(html: str) -> None:
    column = next(c for c in data_of(html)["columns"] if (c["value"], c["of"]) == ("locality.focus", "Hat"))
    runs = model(1, 1.0), model(2)
    each = [run.measurement("locality").evidence["focus/Hat/numerator"][:60:5] for run in runs]
    np.testing.assert_allclose(column["each"], each, rtol=1e-2)
    np.testing.assert_allclose(column["numbers"], np.abs(each[0] - each[1]), rtol=2e-2, atol=2e-3)


def test_hostile_names_are_text() -> None:
    tags = []
    for names in (HOSTILE, tuple(f"label{k}" for k in range(len(HOSTILE)))):
        page = Elements(page_of(*(pictured(model(k, k, path=names[0], names=names)) for k in (1, 2))))
        tags.append([tag for tag, _ in page.elements if tag != "wbr"])
        for name in names:
            assert name in page.text
    assert tags[0] == tags[1]


def test_methods_over_training_seeds_have_a_dot_for_each_seed() -> None:
    groups = {
        "<b>ours": [pictured(model(k, 1.0, path=f"o{k}.pt")) for k in range(3)],
        "csvae": [pictured(model(10 + k, path=f"c{k}.pt")) for k in range(4)],
    }
    html = page_html(compare(groups), groups)
    page = Elements(html)
    require_accessible(html)
    images = [svg.get("aria-label") or "" for svg in page.all("svg")]
    assert sum("3 seeds of <b>ours" in text for text in images) == 4
    assert sum("4 seeds of csvae" in text for text in images) == 4
    assert "unit: training seeds (7)" in page.text
    assert "The pictures are those of the first run of each method." in text_of(html)
    assert data_of(html)["models"] == ["<b>ours", "csvae"]


@pytest.mark.parametrize("count", [3, 4])
def test_more_than_two_models(count: int) -> None:
    html = page_of(*(pictured(model(k, k)) for k in range(count)))
    require_accessible(html)
    assert len([f for f in Elements(html).all("figure") if "data-label" in f]) == 3 * count
    assert "A − C" in text_of(html)
    assert len(Elements(html).all("table")) == (2 + 3 if count == 3 else 2) + 1


def test_the_page_of_many_labels_stays_below_three_megabytes() -> None:
    rng = np.random.default_rng(0)
    names = tuple(f"label{k}" for k in range(16))
    small = rng.integers(0, 256, (8, 11, 8, 8, 3))
    noise = np.kron(small, np.ones((1, 1, 12, 12, 1))).astype(np.uint8)
    runs = []
    for k in (1, 2):
        run = pictured(model(k, names=names))
        strips = {f"strip/{name}": noise for name in names}
        gallery = {key: noise[:4].reshape(-1, 96, 96, 3)[:GALLERY] if array.ndim == 4 else array
                   for key, array in run.gallery.items()}  # fmt: skip
        measurements = tuple(replace(m, pictures=strips) if m.metric == "locality" else m for m in run)
        runs.append(replace(run, measurements=measurements, gallery=gallery))
    html = page_of(*runs)
    shown = len(data_of(html)["moved"])
    assert 1 <= shown < MOVED
    assert shown * 2 * 16 * 11 * 96 * 96 <= MOST_PIXELS
    assert len(html) < 3_000_000
