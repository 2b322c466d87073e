"""Cost of a metric relative to decoding the same number of images, with a decoder of the usual size."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import process_time
from typing import Any

import cv2
import numpy as np
import torch
from ccvae_models.networks import Decoder, NetworkSpec, initialise

from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.model.fixed_batches import FIXED_BATCH, padded
from tests.support.fakes import FACTORS, Squares, SquaresVAE

COUNT = 576
"""Number of images; too few would inflate the fixed cost of the confidence intervals."""
SIZE = 64
ROUNDS = 3
ATTEMPTS = 4


class ConvolutionalSquaresVAE(SquaresVAE):
    """Encodes squares, so that the classes are separated, but decodes with a network of the usual size."""

    def __init__(self) -> None:
        super().__init__(size=SIZE)
        self.decoder = Decoder((3, SIZE, SIZE), FACTORS, NetworkSpec())
        initialise(self.decoder, torch.Generator().manual_seed(0))
        self.eval()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.decoder(codes))


def squares_subject(count: int = COUNT) -> Subject:
    data = Squares(count, size=SIZE)
    return prepare(ConvolutionalSquaresVAE(), data, np.arange(count), characteristics=("Glasses",))  # type: ignore[arg-type]


def decodings_of(subject: Subject, *metrics: Any) -> int:
    """Number of calls of the decoder in one evaluation, with 32 codes each."""
    model: Any = subject.model
    plain, calls = model.decode, 0

    def counting(codes: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return plain(codes)

    model.decode = counting
    try:
        measure(subject, metrics)
    finally:
        del model.decode
    return calls


def bare(subject: Subject, calls: int) -> None:
    """Decode this many times and discard the images."""
    codes = padded(subject.codes[:FIXED_BATCH], FIXED_BATCH)
    with torch.no_grad():
        for _ in range(calls):
            subject.model.decode(codes)


def min_seconds(action: Callable[[], object], rounds: int = 5, clock: Callable[[], float] = process_time) -> float:
    """Minimum time over some rounds, in seconds; other load only adds."""
    times = []
    for _ in range(rounds):
        start = clock()
        action()
        times.append(clock() - start)
    return min(times)


def seconds(action: Callable[[], object]) -> float:
    """Processor time on one thread, which other programs do not affect."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    spent = min_seconds(action, 1)
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])
    return spent


def ratio_to_decoding(subject: Subject, budget: float, *metrics: Any) -> float:
    """Processor time of evaluating some metrics, divided by that of decoding the same number of images.

    Both are timed alternately, so that a busy machine slows both. Noise only increases the ratio, so one attempt within
    the budget is enough.
    """
    calls = decodings_of(subject, *metrics)  # also warms up
    ratio = math.inf
    for _ in range(ATTEMPTS):
        rounds = [
            (seconds(lambda: bare(subject, calls)), seconds(lambda: measure(subject, metrics))) for _ in range(ROUNDS)
        ]
        ratio = min(ratio, min(total for _, total in rounds) / min(decoding for decoding, _ in rounds))
        if ratio <= budget:
            break
    return ratio
