"""The leakage matrices: what stands on the diagonal and beside it."""

from __future__ import annotations

import pytest

from ccvae_eval.report.matrices import matrices_of
from tests.support.runs import LABELS, measurement, value


@pytest.mark.parametrize(
    ("metric", "beside", "on"), [("intervention", "change", "effect"), ("density", "cross_auc", "auc")]
)
def test_the_headline_of_a_label_is_on_the_diagonal(metric: str, beside: str, on: str) -> None:
    first, second = LABELS
    values = [value(on, 0.9, first), value(on, 0.8, second)]
    values += [value(beside, 0.6, first, at={"judged": second}), value(beside, 0.5, second, at={"judged": first})]
    (found,) = matrices_of(measurement(metric, on, values))
    assert found.rows == found.columns == LABELS
    assert [[cell.text for cell in row] for row in found.cells] == [["0.90", "0.60"], ["0.50", "0.80"]]
    assert found.cells[0][0].value == f"{metric}.{on}"
    assert matrices_of(measurement(metric, on, values[:2])) == []
