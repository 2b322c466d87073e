"""``swissroll``: points on a rolled-up sheet with a binary label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np

from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats, Ids
from ccvae_eval.data.memory import InMemory
from ccvae_eval.data.spec import Options, refuse_path
from ccvae_eval.data.splits import TEST, TRAIN, Splits
from ccvae_eval.model.interface import LabelSchema, binary_schema

SCHEMA: LabelSchema = binary_schema("far")
FAR = 10.0
MAX_POINTS = 1_000_000
"""Limit of ``n``, because a spec may come from an untrusted checkpoint."""


class SwissRoll(InMemory):
    r"""``swissroll[,n=20000] [,noise=0] [,seed=0]``: points in three dimensions.

    .. math:: (t \cos t, h, t \sin t), \quad t = \tfrac32 \pi (1 + 2 u), \quad h = 21 w

    with u and w uniform in [0, 1), as in ``sklearn.datasets.make_swiss_roll``, plus Gaussian noise of standard
    deviation ``noise``. The binary label ``far`` is present where the first coordinate is at least 10 (one point in
    seven), as in Klys, Snell and Zemel (2018). Point i depends only on (seed, i). The first half of the points is
    train, the second test; the judge split is empty, because a judge needs images.
    """

    needs_no_path: ClassVar[bool] = True
    sheet: Floats

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        refuse_path("swissroll", path)
        read = Options("swissroll", options)
        n = read.integer("n", 20_000, low=2, high=MAX_POINTS)
        seed = read.integer("seed", 0)
        noise = read.number("noise", 0.0)
        read.finish()
        sheet = numpy_stream(seed, "swissroll").random((n, 2))
        t = 1.5 * np.pi * (1 + 2 * sheet[:, 0])
        points = np.stack([t * np.cos(t), 21 * sheet[:, 1], t * np.sin(t)], axis=1)
        points = points + noise * numpy_stream(seed, "swissroll/noise").standard_normal((n, 3))
        labels = (points[:, :1] >= FAR).astype(np.float32)
        splits = Splits(np.where(np.arange(n) < n // 2, TRAIN, TEST).astype(np.int8))
        spec = f"swissroll,n={n},noise={noise:g},seed={seed}"
        made = cls(points.astype(np.float32), SCHEMA, labels, splits, spec)
        made.sheet = np.stack([t, 21 * sheet[:, 1]], axis=1)
        return made

    @property
    def factor_names(self) -> tuple[str, ...]:
        return ("turn", "height")

    def factors(self, ids: Ids) -> Floats:
        """Coordinates of each point on the sheet: t along the roll, h across, shape (N, 2)."""
        return self.sheet[ids]
