"""Views of a run in Python: one line, the terminal's table, rows, figures."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import Measurement, Reason
from tests.support.runs import LABELS, measurement, pictured_run, run_of, undefined, value


def test_repr_is_one_line_and_print_shows_the_table() -> None:
    run = pictured_run()
    assert repr(run) == "<Run of ccvae on 60 images of squares: locality, density, drift (failed)>"
    assert "\n" not in repr(run)
    assert "0.500 [0.400, 0.600]" in str(run)
    assert "CE010 drift failed: the decoder gave NaN." in str(run)
    assert "\x1b" not in str(run)


def test_of_notes_the_text_has_the_number_and_the_codes() -> None:
    needs_judge = undefined("selectivity", "Smiling", "needs a judge")
    unavailable = Measurement("drift", 1, {}, "spill", status="unsupported", reason=Reason("unsupported", "points"))
    metric = measurement("locality", "focus", [*(value("focus", 0.5, name) for name in LABELS), needs_judge])
    run = run_of(metric, unavailable, replace(unavailable, metric="diversity"))
    assert str(run).splitlines()[-1] == "3 notes: CE014, CE015"
    assert str(run_of(metric)).splitlines()[-1] == "1 note: CE015"


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
