r"""Stopping: looks at more and more images until the intervals are narrow enough.

The looks are at :math:`n_j = 64 \cdot 2^j` images of one seeded permutation of the sample; the last one is at all of
them. With J planned looks, the intervals of each look have the level :math:`1 - 0.05 / J`. By the union bound they hold
for all looks together with probability 0.95, so that the interval of the last look holds whatever made the evaluation
stop there. A look may be left out: an interval shrinks with the root of the number of images, so the next look is the
first one whose intervals are expected to be narrow enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.results import COUNT, Measurement
from ccvae_eval.core.types import Ids
from ccvae_eval.evaluation.metric import presentation_of
from ccvae_eval.evaluation.run import Stopping

FIRST = 64
"""Images of the first look."""
ERROR = 0.05
"""Probability that an interval of any look misses its value."""


@dataclass(frozen=True, slots=True, eq=False)
class Looks:
    """The looks of an evaluation.

    Args:
        ids: the whole sample.
        width: largest width of the intervals.
        seed: seed of the permutation.

    Raises:
        UsageError: the width is not positive.
    """

    ids: Ids
    width: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise UsageError(f"width must be above 0, got {self.width:g}", where="--width")

    @property
    def sizes(self) -> list[int]:
        """Number of images of each planned look.

        >>> Looks(np.arange(300), 0.1).sizes
        [64, 128, 256, 300]
        """
        doublings = max(math.ceil(math.log2(len(self.ids) / FIRST)), 0)
        return [*(FIRST * 2**j for j in range(doublings)), len(self.ids)]

    @property
    def level(self) -> float:
        """Confidence level of the intervals of each look."""
        return 1 - ERROR / len(self.sizes)

    def images(self, look: int) -> Ids:
        """The images of a look, ascending; those of the looks before are among them."""
        order = numpy_stream(self.seed, "stopping").permutation(len(self.ids))
        return np.sort(self.ids[order[: self.sizes[look]]])

    def following(self, look: int, widest: float) -> int | None:
        """The next look; None if the widest interval of this one is narrow enough, or if it was the last."""
        last = len(self.sizes) - 1
        if widest <= self.width or look == last:
            return None
        expected = (widest * math.sqrt(self.sizes[look] / size) for size in self.sizes)
        narrow = (j for j, width in enumerate(expected) if j > look and width <= self.width)
        return next(narrow, last)

    def record(self, looks: Sequence[int], widest: float) -> Stopping:
        """The record for the run, after these looks."""
        taken = tuple(self.sizes[look] for look in looks)
        return Stopping(self.width, self.level, taken, len(self.ids), widest <= self.width)


def widest_interval(measurements: Iterable[Measurement]) -> float:
    """The largest width of the headline intervals; infinite if a headline is undefined for lack of images."""
    return max(map(_width, measurements), default=0.0)


def _width(measurement: Measurement) -> float:
    headlines = [v for v in measurement.values if v.name == measurement.headline and not v.at]
    if any(v.remedy.startswith(("--sample", "--limit")) for v in headlines):
        return math.inf
    specs = getattr(presentation_of(measurement.metric), "values", {})
    if measurement.headline in specs and specs[measurement.headline].unit == COUNT:
        return 0.0  # more images find weaker dependences: the interval of such a count need not shrink
    widths = (v.estimate.high - v.estimate.low for v in headlines if v.characteristic is None)
    return max((width for width in widths if not math.isnan(width)), default=0.0)
