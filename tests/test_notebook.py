"""docs/notebook.ipynb runs from top to bottom, and is stored without outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(of: Any) -> list[Any]:
    return [cell for cell in of.cells if cell.cell_type == "code"]


def test_the_notebook_is_stored_without_outputs() -> None:
    nbformat.validate(notebook())
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(notebook()))


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    done = notebook()
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(done, timeout=600, kernel_name="python3", resources=place).execute()
    report, printed, rows, figure, compared, scores = code_cells(done)
    assert "<table" in report.outputs[-1].data["text/html"]
    assert [output.output_type for output in printed.outputs] == ["stream", "execute_result"]
    assert printed.outputs[0].text.startswith("checkpoint  ")
    assert "('focus', 'Eyeglasses', 0.5" in rows.outputs[-1].data["text/plain"]
    assert "image/png" in figure.outputs[-1].data
    assert compared.outputs[-1].data["text/plain"].startswith("('A better'")
    assert "'mig': 0.8" in scores.outputs[-1].data["text/plain"]
