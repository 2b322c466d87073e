"""Style of figures: colours, text that fits, formats, and axes with names."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ccvae_eval.core.errors import UsageError
from ccvae_eval.evaluation.run import Run
from ccvae_eval.rendering.figures import CLASS_COLOURS, NEUTRAL, fitted, label_colours, save, style, text_width
from ccvae_eval.report.figures import INDEX, _all_figures, draw_figures, file_name, named
from tests.support.runs import LABELS, pictured_run

LONG = ("A_label_with_a_rather_long_name_of_many_words", "Smiling")
LEAST_DIFFERENCE = 12.0
"""Between two colours in CIELAB; 2.3 is just noticeable."""
TOLERANCE = 0.01
"""Inches by which text may touch the edge."""


def drawn(run: Run) -> dict[str, Figure]:
    return {"-".join(parts): sheet for _, parts, sheet in _all_figures(run)}


def lab(colour: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear RGB as CIELAB (D65)."""
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(matrix @ colour / np.array([0.9505, 1.0, 1.089]) + 1e-9)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def deuteranope(name: str) -> NDArray[np.float64]:
    """A colour as people without green cones see it, linear RGB (Machado, Oliveira and Fernandes 2009, severity 1)."""
    seen = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    channels = np.array(to_rgb(name))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return np.clip(seen @ linear, 0, 1)


def test_colours_differ_for_people_who_cannot_see_green() -> None:
    for a, b in combinations(CLASS_COLOURS, 2):
        assert np.linalg.norm(lab(deuteranope(a)) - lab(deuteranope(b))) > LEAST_DIFFERENCE, (a, b)


def test_a_label_has_one_colour_by_its_position_in_the_schema() -> None:
    run = pictured_run(("Hat", *LABELS))
    whole = [label_colours(named(run, m)) for m in run if m.status == "ok"]
    assert all(colours == whole[0] for colours in whole)
    assert list(whole[0].values()) == list(CLASS_COLOURS[:3])
    fewer = run.measurement("density")
    fewer = replace(fewer, values=tuple(v for v in fewer.values if v.characteristic == "Smiling"))
    assert label_colours(named(run, fewer))["Smiling"] == CLASS_COLOURS[2]
    curves = run.figure("density@Smiling").axes[0]
    assert [line.get_color() for line in curves.lines] == [NEUTRAL, CLASS_COLOURS[2]]


def test_drawing_changes_no_setting_of_matplotlib() -> None:
    before = dict(rcParams)
    run = pictured_run()
    for _ in _all_figures(run):
        assert dict(rcParams) == before
    run.figure("profile", width=3.25)
    assert dict(rcParams) == before


@pytest.mark.parametrize("labels", [LABELS, LONG])
def test_all_text_lies_inside_its_figure_and_no_legend_on_data(labels: tuple[str, ...]) -> None:
    for name, sheet in drawn(pictured_run(labels)).items():
        with style():
            sheet.draw_without_rendering()
            sheet.draw_without_rendering()
        box, (width, height) = sheet.get_tightbbox(), sheet.get_size_inches()
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -TOLERANCE, (name, box)
        for axes in sheet.axes:
            legend = axes.get_legend()
            for line in axes.lines if legend else ():
                points = line.get_transform().transform(line.get_xydata())
                assert not legend.get_window_extent().count_contains(points), name


def test_axes_have_names_or_are_images() -> None:
    for name, sheet in drawn(pictured_run()).items():
        first: Any = None
        for axes in sheet.axes:
            if "colorbar" in str(axes.get_label()):
                assert axes.get_ylabel(), name
            elif axes.axison and not (axes.images and axes.get_xticklabels()):
                first = first or axes.get_ylabel()
                assert axes.get_xlabel(), name
                assert first, name  # the panels of a row share the axis of the labels


def test_titles_state_the_value_and_strips_name_their_ends() -> None:
    run = pictured_run()
    sheets = drawn(run)
    assert "Mean AUC 0.80 [0.70, 0.90], chance 0.50" in sheets["density-curves"].get_suptitle()
    strip = sheets["locality-strips-Smiling"]
    assert "Smiling: focus 0.50 [0.40, 0.60], chance 0.00" in strip.get_suptitle()
    assert [text.get_text() for text in strip.axes[0].get_xticklabels()] == ["absent", "present"]
    assert [text.get_text() for text in strip.axes[0].get_yticklabels()] == [f"image {k}" for k in range(8)]
    assert "mean 0.90 on the diagonal, mean 0.10 off" in sheets["locality-effects"].get_suptitle().replace("\n", " ")
    value = [text.get_text() for text in sheets["profile"].axes[0].texts]
    assert "0.500 [0.400, 0.600]" in value


def test_files_have_no_digest_and_an_index_lists_them(tmp_path: Path) -> None:
    files = draw_figures(pictured_run(("a/b", "a:b")), tmp_path)
    names = [file.name for file in files]
    assert len({name.casefold() for name in names}) == len(names)
    assert {"locality-strips-a-b.png", "locality-strips-a-b-2.png", "profile.png", "labels.png"} <= set(names)
    index = (tmp_path / INDEX).read_text()
    assert all(f"[{name}]({name})" in index for name in names)
    assert "`locality@a:b`" in index
    assert file_name("x", suffix="pdf", taken=["X.pdf"]) == "x-2.pdf"


def test_a_figure_is_as_wide_as_asked_and_keeps_its_text_as_text(tmp_path: Path) -> None:
    sheet = pictured_run().figure("density@Smiling", width=3.25)
    assert sheet.get_figwidth() == 3.25
    pdf, svg = save(sheet, tmp_path / "a.pdf").read_bytes(), save(sheet, tmp_path / "a.svg").read_text()
    assert b"/Type3" not in pdf
    assert b"/CIDFontType2" in pdf or b"/TrueType" in pdf
    assert re.search(r"<text[^>]*>.*present", svg)
    assert save(sheet, tmp_path / "b.svg").read_text() == svg


def test_single_images_are_chosen_by_their_ids() -> None:
    run = pictured_run()
    strip = run.figure("locality@Smiling", "strips", images=(5, 2))
    assert [text.get_text() for text in strip.axes[0].get_yticklabels()] == ["image 5", "image 2"]
    with pytest.raises(UsageError, match="locality has no picture of image 12") as error:
        run.figure("locality@Smiling", images=(12,))
    assert "Images with pictures: 0, 1, 2, 3, 4, 5, 6, 7" in str(error.value)
    with pytest.raises(UsageError, match="density has no picture of image 1"):
        run.figure("density", images=(1,))


def test_text_is_broken_at_spaces_and_underscores() -> None:
    lines = fitted("Wearing_Necktie and a_word_without_any_space", 0.8).split("\n")
    assert "".join(lines).replace(" ", "") == "Wearing_Necktieanda_word_without_any_space"
    assert max(map(text_width, lines)) <= 0.8
    assert fitted("$x_1$", 3) == "$x_1$"
    assert text_width(fitted("w" * 100, 1.0)) <= 1.0
