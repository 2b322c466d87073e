"""Larger batches, as on a GPU, give the same values of the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ccvae_eval
from ccvae_eval import evaluate
from ccvae_eval.core.results import Estimate
from ccvae_eval.evaluation import subject as subjects
from ccvae_eval.evaluation.run import Run
from ccvae_eval.judge import artifact
from ccvae_eval.model import checks
from ccvae_eval.model.fixed_batches import CUDA_BATCH, FIXED_BATCH, fixed_batch
from ccvae_eval.plugins.registry import metrics
from tests.support.growth import growing_subject

CHECKPOINT = Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt"
IMAGES = 96
FIRST: dict[str, dict[str, Any]] = {
    "drift": {"table_images": 32},
    "diversity": {"redrawn": 32},
    "generation": {"asked_images": 32, "chance_images": 64},
    "intervention": {"axiom_images": 32, "rendered": 32, "feature_images": 64},
    "reconstruction": {"chance_images": 32},
}
"""Numbers of first images that end within a batch of ``IMAGES``."""


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((3, 64, 64), 512), ((1, 28, 28), 512), ((2,), 512), ((3, 65, 65), 256), ((3, 256, 256), 32), ((3, 512, 512), 32)],
)
def test_a_gpu_is_given_at_most_as_many_numbers_as_512_images_of_64_pixels_have(
    shape: tuple[int, ...], rows: int
) -> None:
    assert fixed_batch(torch.device("cuda:1"), shape) == rows
    assert CUDA_BATCH % rows == 0  # blocks of 1,024 images consist of whole batches
    assert fixed_batch(torch.device("cpu"), shape) == FIXED_BATCH


def test_the_run_records_the_size() -> None:
    assert evaluate(CHECKPOINT, metrics=["density"], limit=8, judge="none").header.environment["fixed_batch"] == 32


def test_the_images_within_a_limit() -> None:
    first, second, *others = growing_subject(100).chunks()
    assert first.within(1) is first, "a limit is rounded up"
    assert second.within(33) is second
    assert [chunk.within(64) for chunk in others] == [None, None]


def test_the_images_of_a_large_batch_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "fixed_batch", lambda *_: 512)
    first, second = growing_subject(600).chunks()
    assert [len(first), len(second)] == [512, 88]
    assert first.within(0) is None
    assert second.within(600) is second
    for chunk, limit, end in ((first, 33, 64), (second, 540, 544)):
        part = chunk.within(limit)
        assert part is not None
        assert part.rows == slice(chunk.rows.start, end)
        assert part.ids.tolist() == list(range(chunk.rows.start, end))
        assert torch.equal(part.images, chunk.images[: len(part)])
        assert torch.equal(part.codes, chunk.codes[: len(part)])
        assert torch.equal(part.posterior.loc, chunk.posterior.loc[: len(part)])


@pytest.fixture(scope="module")
def usual() -> Run:
    return measured()


def measured() -> Run:
    return evaluate(CHECKPOINT, metrics=sorted(metrics), limit=IMAGES, options=FIRST, references=False)


@pytest.mark.slow
def test_values_do_not_depend_on_the_size(usual: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (subjects, checks, artifact):
        monkeypatch.setattr(module, "fixed_batch", lambda *_: IMAGES)
    found = {(m.metric, v.key): v.estimate for m in measured().measurements for v in m.values}
    before = {(m.metric, v.key): v.estimate for m in usual.measurements for v in m.values}
    assert found.keys() == before.keys()
    assert len(found) > 500
    wrong = [f"{key}: {before[key]} and {one}" for key, one in found.items() if not alike(before[key], one)]
    assert not wrong, "\n".join(wrong)


def alike(one: Estimate, other: Estimate) -> bool:
    """Equal but for the last bits of pixels, on which the order of two images or a matched point may turn."""
    ends = [[each.value, each.low, each.high] for each in (one, other)]
    return one.n == other.n and np.allclose(*ends, rtol=1e-3, atol=1e-3, equal_nan=True)
