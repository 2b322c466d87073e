"""Peak memory does not grow with the images: of every metric, at most a tenth from 10,000 to 200,000 of them.

Each measurement has a process of its own, because the peak of a process never falls. docs/scale.md states the figures.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from ccvae_eval.plugins.registry import BUILTIN_DISTRIBUTION, metrics

PROGRAM = """
import resource, sys
from ccvae_eval.evaluation.metric import metric_named
from ccvae_eval.evaluation.runner import measure
from tests.support.growth import growing_subject

run = measure(growing_subject(int(sys.argv[2])), [metric_named(sys.argv[1])])
assert [m.status for m in run] == ["ok"], run.measurements
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
FEW, MANY, MOST_GROWTH = 10_000, 200_000, 1.1
BUILTIN = sorted(r.name for r in metrics.registrations() if r.distribution == BUILTIN_DISTRIBUTION)


def peak(metric: str, images: int) -> float:
    """Peak memory of a process that measures one metric, in MiB."""
    arguments = [sys.executable, "-c", PROGRAM, metric, str(images)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / 1024


@pytest.mark.soak
@pytest.mark.parametrize("metric", BUILTIN)
def test_memory_does_not_grow_with_the_images(metric: str) -> None:
    few, many = peak(metric, FEW), peak(metric, MANY)
    print(f"{metric}: {few:.0f} and {many:.0f} MiB for {FEW:,} and {MANY:,} images: {many / few:.3f}")
    assert many <= MOST_GROWTH * few
