"""Peak memory of a metric against the number of images: its numbers, and nothing of the size of an image.

Each metric has a process of its own, which measures the smaller number first, because a peak never falls. docs/scale.md
states the measurements.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from ccvae_eval.evaluation.metric import metric_named
from ccvae_eval.evaluation.runner import measure
from tests.support.growth import growing_subject

def peak(images):
    run = measure(growing_subject(images), [metric_named(sys.argv[1])])
    assert [m.status for m in run] == ["ok"], run.measurements
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

print(peak(20_000), peak(40_000))
"""
KIB_PER_IMAGE = {"accuracy": 2, "locality": 2, "drift": 2, "diversity": 2, "reconstruction": 2, "density": 2}
"""Most KiB of an image with three labels and ten latent dimensions; an image has 3 KiB, its codes have 40 bytes."""


@pytest.mark.soak
@pytest.mark.parametrize("metric", KIB_PER_IMAGE)
def test_only_numbers_grow_with_the_images(metric: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, metric], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    small, large = map(int, done.stdout.split())
    each = (large - small) / 20_000
    print(
        f"{metric}: {small / 1024:.0f} and {large / 1024:.0f} MiB for 20,000 and 40,000 images: {each:.1f} KiB an image"
    )
    assert each <= KIB_PER_IMAGE[metric]
