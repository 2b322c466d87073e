"""Annotated tensor types with their shapes, and the diagonal Gaussian."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:  # annotations alone need no array library
    import numpy as np
    from numpy.typing import NDArray
    from torch import Generator, Tensor

Images = Annotated["Tensor", "(N, C, H, W), float32 in [0, 1]"]
Points = Annotated["Tensor", "(N, D), float32: data without pixels, such as the Swiss roll"]
Labels = Annotated["Tensor", "(N, L), float32 in schema order: 0/1, class index or value; NaN = missing"]
Codes = Annotated["Tensor", "(N, D), float32: points of latent space"]
Ids = Annotated["NDArray[np.int64]", "(N,): positions of images in a data set"]
Floats = Annotated["NDArray[np.float64]", "of any shape"]
Bools = Annotated["NDArray[np.bool_]", "of any shape"]

Plain = Any
"""JSON-like data: None, bool, int, float, str, and lists and dictionaries of these."""


@dataclass(frozen=True, slots=True)
class Gaussian:
    r"""A diagonal Gaussian for each row; a scale of 0 is a point mass.

    Unlike torch's ``Normal`` it accepts a scale of 0 and samples from a given generator.

    Args:
        loc: means, shape :math:`(N, D)`.
        scale: standard deviations (not log-variances), at least 0, same shape.
    """

    loc: Tensor
    scale: Tensor

    def at(self, noise: Tensor) -> Codes:
        """Returns the point ``noise`` standard deviations from the mean, in each latent dimension."""
        return self.loc + self.scale * noise

    def sample(self, generator: Generator | None = None) -> Codes:
        """Returns one sample for each row, differentiable in ``loc`` and ``scale``."""
        from torch import randn

        noise = randn(
            self.loc.shape, generator=generator, dtype=self.loc.dtype, device=generator.device if generator else None
        )
        return self.at(noise.to(self.loc.device))

    def log_prob(self, codes: Codes) -> Tensor:
        r"""Returns the log density in each latent dimension, shape :math:`(N, D)`.

        A point mass has log density ``inf`` at its point and ``-inf`` elsewhere; check ``scale`` before averaging.
        """
        spread = self.scale.clamp_min(1e-30)
        standard = (codes - self.loc) / spread
        density = -0.5 * standard.square() - spread.log() - 0.5 * math.log(2 * math.pi)
        point = self.scale == 0
        if not bool(point.any()):
            return density
        at_point = (codes == self.loc) & point
        return density.masked_fill(point, -math.inf).masked_fill(at_point, math.inf)

    def columns(self, index: tuple[int, ...] | list[int]) -> Gaussian:
        """Returns the marginal over some of the latent dimensions."""
        chosen = list(index)
        return Gaussian(self.loc[:, chosen], self.scale[:, chosen])

    def rows(self, index: Any) -> Gaussian:
        """Returns the distributions of some of the rows."""
        return Gaussian(self.loc[index], self.scale[index])
