"""Every value of a fixed set of small runs is what it was when tests/regression/expected.json was recorded.

``python tools/regression.py record --portable tests/regression/expected.json`` records it anew; do so only for a change
that is meant to change numbers, and say so in CHANGELOG.md.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.paths import ROOT
from tools import regression

EXPECTED = json.loads((ROOT / "tests/regression/expected.json").read_text())


@pytest.mark.parametrize("case", EXPECTED)
@pytest.mark.slow
def test_numbers_are_as_recorded(case: str) -> None:
    found = regression.measured([case])[case]
    assert not list(regression.differences(EXPECTED[case], found, exact=False, where=case))


def _record(value: float | None) -> dict[str, Any]:
    return {"status": {"locality": "ok"}, "rows": [["locality.focus@[]", value, None, None, 0.0, None, 1000, 0]]}


@pytest.mark.parametrize(("value", "exact", "differs"), [
    (0.5, True, False), (0.5000001, True, True), (0.5000001, False, False), (0.51, False, True), (None, False, True),
])  # fmt: skip
def test_a_changed_number_is_reported(value: float | None, exact: bool, differs: bool) -> None:
    found = list(regression.differences(_record(0.5), _record(value), exact=exact, where="run"))
    assert bool(found) == differs


def test_missing_and_new_values_and_a_changed_status_are_reported() -> None:
    empty: dict[str, Any] = {"status": {"locality": "undefined"}, "rows": []}
    assert len(list(regression.differences(_record(0.5), empty, exact=False, where="run"))) == 2
    assert len(list(regression.differences(empty, _record(0.5), exact=False, where="run"))) == 2
