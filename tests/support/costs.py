"""What a metric costs beside the bare decoding of as many images, on a network of the usual size."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import process_time
from typing import Any

import cv2
import numpy as np
import torch
from ccvae_models import networks
from ccvae_models.networks import Decoder, initialise

from ccvae_eval.evaluation.runner import evaluate
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.model.fixed_batches import CHUNK, padded
from tests.support.fakes import FACTORS, Squares, SquaresVAE

COUNT = 576
"""Nearer to the 2,000 of an evaluation, over which the price of the intervals is spread."""
SIZE = 64
ROUNDS = 3
ATTEMPTS = 4


class Network(SquaresVAE):
    """Reads squares, so that its classes are separated, but paints with a network of the usual size."""

    def __init__(self) -> None:
        super().__init__(size=SIZE)
        self.decoder = Decoder((3, SIZE, SIZE), FACTORS, networks.Network())
        initialise(self.decoder, torch.Generator().manual_seed(0))
        self.eval()  # as a checkpoint's model is

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.decoder(codes))


def squares_subject(count: int = COUNT) -> Subject:
    data = Squares(count, size=SIZE)
    return prepare(Network(), data, np.arange(count), characteristics=("Glasses",))  # type: ignore[arg-type]


def decodings_of(subject: Subject, *metrics: Any) -> int:
    """How many times one evaluation calls the decoder, 32 rows at a time."""
    model: Any = subject.model
    plain, calls = model.decode, 0

    def counting(codes: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return plain(codes)

    model.decode = counting
    try:
        evaluate(subject, metrics)
    finally:
        del model.decode
    return calls


def bare(subject: Subject, calls: int) -> None:
    """Decodes so many times and looks at nothing."""
    codes = padded(subject.codes[:CHUNK])
    with torch.no_grad():
        for _ in range(calls):
            subject.model.decode(codes)


def seconds(action: Callable[[], object]) -> float:
    """Processor time on one thread: what other programs do meanwhile is not counted."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    begun = process_time()
    action()
    spent = process_time() - begun
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])
    return spent


def ratio_to_decoding(subject: Subject, budget: float, *metrics: Any) -> float:
    """A whole metric, or several in one run, over bare decoding of as many images.

    The least of a few rounds, taken in turns, so that a busy machine slows both; and noise only ever adds: one quiet
    attempt within the budget shows that it is met.
    """
    calls = decodings_of(subject, *metrics)  # which warms up
    ratio = math.inf
    for _ in range(ATTEMPTS):
        rounds = [
            (seconds(lambda: bare(subject, calls)), seconds(lambda: evaluate(subject, metrics))) for _ in range(ROUNDS)
        ]
        ratio = min(ratio, min(whole for _, whole in rounds) / min(alone for alone, _ in rounds))
        if ratio <= budget:
            break
    return ratio
