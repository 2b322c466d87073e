"""The page is valid HTML, requests nothing, keeps hostile names inert, and is the same from memory and from files."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ccvae_eval import read
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.storage import write
from ccvae_eval.report.page import notebook_html, page_html, runs_html, write_page
from ccvae_eval.report.page.pictures import image_numbers, outline, reduced
from tests.support.html import Elements, require_accessible, require_no_request, require_policy
from tests.support.runs import LABELS, measurement, pictured_run, run_of, undefined, value

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><b>",
    "a\x1b[31mred",
    "' onmouseover='x",
    "{{ 7*7 }}",
    "x" * 300,
)


@pytest.fixture(scope="module")
def run() -> Run:
    return pictured_run()


@pytest.fixture(scope="module")
def html(run: Run) -> str:
    return page_html(run)


def test_the_page_has_its_sections_in_reading_order(html: str) -> None:
    page = Elements(html)
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == ["answer", "checks", "move", "metrics", "leaks", "images", "provenance"]
    assert {f"#{section}" for section in sections} <= {link["href"] for link in page.all("a")}


def test_the_policy_has_the_hashes_of_what_is_inlined_and_allows_nothing_else(html: str) -> None:
    require_policy(html)


def test_the_page_requests_nothing(html: str) -> None:
    require_no_request(html)


def test_every_image_has_a_text_and_every_column_a_head(html: str) -> None:
    require_accessible(html)


def test_hostile_names_are_text() -> None:
    names = HOSTILE
    # without density's figure, whose pictures are named by label and part, separated by a slash
    run, harmless = (
        replace(made, measurements=tuple(m for m in made if m.metric != "density"))
        for made in (pictured_run(names), pictured_run(tuple(f"label{k}" for k in range(len(names)))))
    )
    plain, page = Elements(page_html(harmless)), Elements(page_html(run))
    tags = [[tag for tag, _ in found.elements if tag != "wbr"] for found in (plain, page)]
    assert tags[0] == tags[1]
    assert "\x1b" not in page_html(run)
    assert "a\\x1b[31mred" in page.text
    for name in names:
        if "\x1b" not in name:
            assert name in page.text
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page_html(run), re.DOTALL)[0])
    assert {column["of"] for column in data["columns"]} >= {name for name in names if "\x1b" not in name}


def test_a_page_from_the_folder_is_the_page_of_the_run(run: Run, tmp_path: Path) -> None:
    write(run, tmp_path)
    page = write_page(read(tmp_path), tmp_path).read_text()
    assert page == page_html(read(tmp_path / "run.json"))
    assert [tag for tag, _ in Elements(page).elements] == [tag for tag, _ in Elements(page_html(run)).elements]


def test_a_run_without_pictures_or_values_has_a_page() -> None:
    single = run_of(measurement("locality", "focus", [undefined("focus", note="has no region")]))
    page = Elements(page_html(single))
    assert [s["id"] for s in page.all("section")] == ["answer", "checks", "metrics", "provenance"]
    assert "has no region" in page.text
    assert not page.all("img")


def test_a_value_without_a_number_stands_with_its_remedy() -> None:
    lacking = replace(undefined("focus", "Hat", note="7 of 64 images are of class absent"), remedy="--sample 640")
    page = Elements(page_html(run_of(measurement("locality", "focus", [lacking]))))
    assert "7 of 64 images are of class absent → --sample 640" in page.text


def test_a_metric_that_is_not_installed_is_shown_without_its_definition() -> None:
    page = Elements(page_html(run_of(measurement("mine", "score", [value("score", 0.5)]))))
    assert "mine" in page.text
    assert "Definition and pitfalls" not in page.text


def test_the_definition_of_another_version_says_so() -> None:
    old = replace(measurement("locality", "focus", [value("focus", 0.5)]), version=99)
    assert "made by version 99 of this metric" in Elements(page_html(run_of(old))).text


def test_the_profile_places_a_value_between_chance_and_reference() -> None:
    lower = measurement("drift", "spill", [value("spill", 0.25, chance=1.0, reference=0.0)])
    (circle,) = Elements(page_html(run_of(lower))).all("circle")
    assert circle["cx"] == f"{6 + 0.75 * 88:.1f}%"


def test_numbers_of_single_images_come_from_the_evidence(run: Run) -> None:
    column = next(c for c in image_numbers(run) if c["value"] == "locality.focus" and c["of"] == LABELS[0])
    expected = run.measurement("locality").evidence[f"focus/{LABELS[0]}/numerator"][run.gallery["ids"].astype(int)]
    np.testing.assert_allclose(column["numbers"], expected, rtol=1e-2)
    assert column["headline"]


def test_terms_of_a_weighted_mean_are_no_number_of_an_image(run: Run) -> None:
    first, *others = run.measurements
    evidence = dict(first.evidence) | {f"focus/{LABELS[0]}/numerator": np.full(60, 1.3)}
    weighted = replace(run, measurements=(replace(first, evidence=evidence), *others))
    assert "locality.focus" in {column["value"] for column in image_numbers(run)}
    assert "locality.focus" not in {column["value"] for column in image_numbers(weighted)}


def test_an_image_outside_the_sample_of_a_metric_has_no_number(run: Run) -> None:
    ids = dict(run.ids) | {"locality": np.arange(60) + 7}
    fewer = Run(run.header, run.measurements, run.specs, ids, gallery=run.gallery)
    column = next(c for c in image_numbers(fewer) if c["value"] == "locality.focus")
    assert [x is None for x in column["numbers"]] == [i < 7 for i in run.gallery["ids"]]


def test_the_outline_surrounds_the_region() -> None:
    region = np.zeros((4, 4))
    region[1:3, 1:3] = 0.7
    assert len(re.findall("[hv]1", outline(region))) == 8
    assert outline(np.zeros((4, 4))) == ""


def test_large_pictures_are_reduced_by_averaging() -> None:
    picture = np.zeros((1, 192, 192, 3), np.uint8)
    picture[:, ::2] = 200
    assert reduced(picture).shape == (1, 96, 96, 3)
    np.testing.assert_array_equal(reduced(picture), 100)


def test_the_table_of_runs_links_every_page(run: Run) -> None:
    page = Elements(runs_html({"a/b": run, 'c"><script>': run}))
    links = [link["href"] for link in page.all("a") if not (link["href"] or "").startswith("#")]
    assert links == ["a/b/report.html", "c%22%3E%3Cscript%3E/report.html"]
    assert "0.500 [0.400, 0.600]" in page.text


def test_title_and_heading_name_the_checkpoint(run: Run) -> None:
    other = replace(run, header=replace(run.header, checkpoint={**run.header.checkpoint, "path": "models/b.pt"}))
    codes = replace(run, header=replace(run.header, checkpoint={}))
    for found, title in ((run, "ccvae on squares: model.pt"), (other, "ccvae on squares: b.pt"),
                         (codes, "codes on squares")):  # fmt: skip
        page = page_html(found)
        assert f"<title>{title}</title>" in page
        assert f"<h1>{title}</h1>" in page


def test_a_notebook_gets_answer_checks_and_metrics_without_a_script(run: Run) -> None:
    page = Elements(notebook_html(run))
    assert not page.all("script")
    assert not page.all("dialog")
    for text in ("CE010", "Definition and pitfalls", "0.500 [0.400, 0.600]"):
        assert text in page.text
