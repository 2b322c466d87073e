"""Views of a run in Python: one line, the terminal's table, rows, figures."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from ccvae_eval.core.errors import UsageError
from tests.support.runs import LABELS, pictured_run


def test_repr_is_one_line_and_print_shows_the_table() -> None:
    run = pictured_run()
    assert repr(run) == "<Run of ccvae on 60 images of squares: locality, density, drift (failed)>"
    assert "\n" not in repr(run)
    assert "0.500 [0.400, 0.600]" in str(run)
    assert "CE010 drift failed: the decoder gave NaN." in str(run)
    assert "\x1b" not in str(run)


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
    assert [axes.get_title().split()[0] for axes in run.figure("density@Smiling").axes] == ["Smiling"]
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
