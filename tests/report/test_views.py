"""Views of a run in Python: one line, the terminal's table, rows, figures."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from ccvae_eval.core.errors import InputError, UsageError
from ccvae_eval.core.results import Measurement, Reason
from ccvae_eval.evaluation.storage import read
from tests.support.runs import LABELS, measurement, pictured_run, run_of, undefined, value


def test_repr_is_one_line_and_print_shows_the_table() -> None:
    run = pictured_run()
    assert repr(run) == "<Run of ccvae on 60 images of squares: locality, density, drift (failed)>"
    assert "\n" not in repr(run)
    assert "0.500 [0.400, 0.600]" in str(run)
    assert "CE010 drift failed: the decoder gave NaN." in str(run)
    assert "\x1b" not in str(run)


def test_of_notes_the_text_has_titles_and_codes() -> None:
    needs_judge = undefined("selectivity", "Smiling", "needs a judge")
    unavailable = Measurement("drift", 1, {}, "spill", status="unsupported", reason=Reason("unsupported", "points"))
    metric = measurement("locality", "focus", [*(value("focus", 0.5, name) for name in LABELS), needs_judge])
    run = run_of(metric, unavailable, replace(unavailable, metric="diversity"))
    assert str(run).splitlines()[-1] == "3 notes: metric not applicable (CE014); values without a judge (CE015)"
    assert str(run_of(metric)).splitlines()[-1] == "1 note: values without a judge (CE015)"


def test_a_warning_ends_with_its_remedy() -> None:
    mse = replace(value("mse", 0.5), chance=0.1)
    text = " ".join(str(run_of(measurement("reconstruction", "mse", [mse]))).split())
    assert (
        "CE016 The reconstruction MSE is 0.500; the mean image of the data has 0.100. Train longer. Of a model" in text
    )


def test_a_run_is_written_as_by_the_command(tmp_path: Path) -> None:
    run, folder = pictured_run(), tmp_path / "runs/mine"
    run.write(folder)
    assert {file.name for file in folder.iterdir()} == {"run.json", "values.csv", "evidence.npz", "pictures.npz"}
    again = read(folder)
    assert again["locality.focus"] == run["locality.focus"]
    with pytest.raises(InputError, match="contains a run already"):
        run.write(folder)
    run.write(str(folder), force=True)


def test_python_reads_arguments_in_place_of_options() -> None:
    rare = replace(undefined("focus", "Smiling", "3 of 60 are smiling; see --judge FILE"), remedy="--sample 640")
    untrained = replace(undefined("focus", "Eyeglasses", "blurred"), remedy="ccvae-eval train x --steps 9 --data a:b")
    text = " ".join(str(run_of(measurement("locality", "focus", [rare, untrained]))).split())
    assert "3 of 60 are smiling; see judge=FILE -> sample=640" in text
    assert "-> ccvae-eval train x --steps 9 --data a:b" in text
    logits = replace(value("mse", 0.05), chance=0.04)
    worse = run_of(measurement("reconstruction", "mse", [logits]))
    shown = str(replace(worse, header=replace(worse.header, warnings=("See --limit 900.",))))
    assert "See limit=900." in shown
    assert "settings={'images.range': [-1, 1]}" in shown
    page = run_of(measurement("locality", "focus", [rare]))._repr_html_()
    assert "sample=640" in page
    assert "--sample" not in page


def test_a_metric_without_a_headline_is_named_so() -> None:
    mean = undefined("focus", None, "undefined for every characteristic: has no region")
    run = run_of(measurement("locality", "focus", [mean, value("changed", 0.9)]))
    assert repr(run) == "<Run of ccvae on 60 images of squares: locality (no focus)>"
    assert "has no region" in str(run)


def test_the_images_of_each_metric_are_counted() -> None:
    run = run_of(*(measurement(metric, "v", [value("v", 0.5)]) for metric in ("density", "locality", "accuracy")))
    assert "60 images of split test\n" in "\n".join(line.rstrip() for line in str(run).splitlines())
    run = replace(run, ids={**run.ids, "locality": run.ids["locality"][:28]})
    assert "60 images of split test (28 for locality; 60 for density, accuracy)" in str(run)


def test_a_mean_says_how_many_labels_it_covers() -> None:
    rows = [value("focus", 0.5), value("focus", 0.5, "Smiling", in_mean=True), undefined("focus", "Eyeglasses", "rare")]
    run = run_of(measurement("locality", "focus", rows))
    assert "· locality: over 1 of 2 labels" in str(run)
    assert "over 1 of 2 labels" in run._repr_html_()
    rows[2] = value("focus", 0.5, "Eyeglasses", in_mean=True)
    assert "of 2 labels" not in str(run_of(measurement("locality", "focus", rows)))


def test_a_notebook_shows_the_report() -> None:
    assert "<table" in pictured_run()._repr_html_()


def test_a_frame_is_a_list_of_rows_or_of_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    run = pictured_run()
    assert run.frame() == run.rows()
    pandas = ModuleType("pandas")
    vars(pandas)["DataFrame"] = lambda rows: SimpleNamespace(rows=rows)
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    assert run.frame(pandas=True).rows == run.rows()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pandas is not installed"):
        run.frame(pandas=True)


def test_a_figure_of_one_characteristic_shows_no_other() -> None:
    run = pictured_run()
    assert [axes.get_title().split()[0] for axes in run.figure("density").axes] == list(LABELS)
    alone = run.figure("density@Smiling")
    assert len(alone.axes) == 1
    assert alone.get_suptitle().startswith("Smiling: AUC 0.80 [0.70, 0.90], chance 0.50")
    assert "Smiling" in run.figure("locality@Smiling", "strips").get_suptitle()


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("densty", None, "Did you mean 'density'"),
        ("density@Smilin", None, "Did you mean 'Smiling'"),
        ("locality", "strip", "Did you mean 'strips'"),
        ("drift", None, "The run carries no pictures"),
    ],
)
def test_a_figure_that_does_not_exist_is_an_error(address: str, kind: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pictured_run().figure(address, kind)
