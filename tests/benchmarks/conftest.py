"""Budgets of benchmarks: asked for by ``make bench``, while ``make test`` runs each benchmark once without a clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

Budget = Callable[[str, Callable[[], float], float], None]


@pytest.fixture
def budget(benchmark: BenchmarkFixture) -> Budget:
    """Holds a ratio to its budget and records both for docs/performance.md; computes nothing where nothing is timed."""

    def hold(what: str, ratio: Callable[[], float], most: float) -> None:
        if benchmark.disabled:
            return
        found = ratio()
        benchmark.extra_info.setdefault("budgets", {})[what] = (found, most)
        assert found <= most, f"{what}: {found:.3g}, budget {most:g}"

    return hold
