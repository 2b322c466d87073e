"""Budgets of benchmarks: ``make bench`` checks them, ``make test`` runs each benchmark once without timing it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

Budget = Callable[[str, Callable[[], float], float], None]


@pytest.fixture
def budget(benchmark: BenchmarkFixture) -> Budget:
    """Assert that a ratio is within its budget and record both for docs/performance.md; without timing, do nothing."""

    def hold(what: str, ratio: Callable[[], float], most: float) -> None:
        if benchmark.disabled:
            return
        found = ratio()
        benchmark.extra_info.setdefault("budgets", {})[what] = (found, most)
        assert found <= most, f"{what}: {found:.3g}, budget {most:g}"

    return hold
