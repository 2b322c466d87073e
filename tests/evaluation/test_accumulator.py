"""Accumulators of blocks of images: how they are merged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ccvae_eval.core.errors import UsageError
from ccvae_eval.evaluation.accumulator import first_chunks
from ccvae_eval.evaluation.metric import Decoded
from ccvae_eval.evaluation.pictures import MeanPictures
from ccvae_eval.evaluation.runner import measure, measure_blocks
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.metrics.reconstruction.metric import MEAN, Reconstruction
from tests.support.fakes import Squares, SquaresVAE

COUNT = 96


@pytest.fixture(scope="module")
def subject() -> Subject:
    return prepare(SquaresVAE(scale=0.3), Squares(COUNT), np.arange(COUNT))


METRIC = Reconstruction(importance=0, draws=2)


def accumulated(subject: Subject, chunks):
    accumulator = METRIC.start(subject)
    for chunk in chunks:
        decoded = {MEAN: subject.decode(chunk.posterior.loc)}
        accumulator.update(Decoded(subject, chunk, "", subject.decode(chunk.codes), decoded))
    return accumulator


def test_blocks_give_the_measurement_of_one_pass(subject: Subject) -> None:
    chunks = list(subject.chunks())
    whole = measure(subject, [METRIC]).measurements[0]
    merged = measure_blocks(subject, METRIC, [chunks[2:], chunks[:1], chunks[1:2]])
    assert repr(merged.values) == repr(whole.values)
    assert merged.pictures["mean/image"].tobytes() == whole.pictures["mean/image"].tobytes()


def test_a_block_that_fails_fails_the_metric(subject: Subject) -> None:
    chunks = list(subject.chunks())
    broken = prepare(SquaresVAE(scale=0.3), Squares(COUNT), np.arange(COUNT))
    calls = iter([False, True])

    def decode(codes: torch.Tensor) -> torch.Tensor:
        if next(calls, True):
            raise RuntimeError("out of order")
        return SquaresVAE(scale=0.3).decode(codes)

    broken.model.decode = decode
    found = measure_blocks(broken, METRIC, [chunks[:1], chunks[1:]])
    assert found.status == "failed"


def test_overlapping_blocks_are_refused(subject: Subject) -> None:
    chunks = list(subject.chunks())
    first, second = accumulated(subject, chunks[:2]), accumulated(subject, chunks[1:])
    with pytest.raises(UsageError, match="must not overlap: 32 images are in both, first row 32"):
        first.merge(second)


def test_blocks_of_other_settings_or_images_are_refused(subject: Subject) -> None:
    first = METRIC.start(subject)
    for other in (Reconstruction(importance=2).start(subject), METRIC.start(subject.subsample(50))):
        with pytest.raises(UsageError, match="same metric, settings and images"):
            first.merge(other)


def test_the_first_chunks_begin_within_the_first_images(subject: Subject) -> None:
    assert [chunk.rows.start for chunk in first_chunks(subject, 33)] == [0, 32]
    assert not list(first_chunks(subject, 0))


def test_no_bit_of_a_mean_picture_depends_on_the_order() -> None:
    images = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0)) ** 20
    forwards, backwards = MeanPictures(), MeanPictures()
    for first in range(0, 40, 8):
        forwards.add("image", images[first : first + 8])
        part = MeanPictures()
        part.add("image", images[32 - first : 40 - first])
        part.merge(backwards)
        backwards = part
    one, other = (pictures.arrays()["mean/image"] for pictures in (forwards, backwards))
    assert one.shape == (4, 4, 3)
    assert one.tobytes() == other.tobytes()
    expected = images.double().mean(0).numpy().transpose(1, 2, 0)
    assert np.abs(one - expected).max() < 1e-7


def test_the_mean_of_8_bit_images_is_exact() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1).float() / 255
    pictures = MeanPictures()
    pictures.add("image", images)
    assert pictures.mean("image").item() == images.double().sum().item() / 256
