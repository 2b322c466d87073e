"""Codes drawn from the prior: nothing of the image in whose place they stand is left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from ccvae_eval.errors import UndefinedError
from ccvae_eval.metrics.nats import label_frequencies
from ccvae_eval.model import HasConditionalPrior
from ccvae_eval.subject import Chunk, Subject
from ccvae_eval.types import Codes, Floats


@dataclass(frozen=True, slots=True)
class Generate:
    """A code from the prior for each image: style from N(0, I), z_c from p(z_c|y).

    Args:
        assignment: (label, class index) of the labels that are set; all others are drawn from p(y).
        draw: which draw; draws of different numbers are independent.
    """

    assignment: tuple[tuple[str, int], ...] = ()
    draw: int = 0

    @property
    def characteristic(self) -> str:
        return ""

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        codes = subject.noise(f"generate/{self.draw}", chunk.ids, subject.layout.dim)
        if not isinstance(subject.model, HasConditionalPrior):
            return codes
        ranks = self._ranks(subject, chunk)
        for name in subject.model.layout.characteristics:
            columns, classes = list(subject.model.layout[name]), self._classes(name, subject, ranks)
            codes[:, columns] = subject.prior_of(name).rows(classes).at(codes[:, columns])
        return codes

    def classes(self, name: str, subject: Subject, chunk: Chunk) -> Tensor:
        """The class of one label for each image, shape (n,): as it is set, else drawn from p(y).

        Raises:
            UndefinedError: a continuous label.
        """
        return self._classes(name, subject, self._ranks(subject, chunk))

    def _ranks(self, subject: Subject, chunk: Chunk) -> Floats:
        """Uniform draws for all labels, shape (n, L): a stream for each of them would cost more than a decoding."""
        return np.asarray(ndtr(subject.noise(f"generate/{self.draw}/labels", chunk.ids, len(subject.schema)).numpy()))

    def _classes(self, name: str, subject: Subject, ranks: Floats) -> Tensor:
        if subject.schema[name].kind == "continuous":
            raise UndefinedError("p(y) of a continuous label is not known", where=name)
        chosen = dict(self.assignment).get(name)
        if chosen is not None:
            return torch.full((len(ranks),), chosen)
        below = subject.once(("cumulated p(y)", name), lambda: np.cumsum(label_frequencies(subject, name)))
        place = (ranks[:, [subject.schema.index(name)]] >= below).sum(axis=1)
        return torch.from_numpy(np.minimum(place, len(below) - 1))
