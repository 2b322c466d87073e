"""The pixel range of a model, given by settings instead of in its code.

The toolkit's images lie in [0, 1]. The settings ``images.range`` and ``images.logits`` describe a model that was
trained on [-1, 1] or [0, 255], or whose decoder returns logits; ``PixelRangeModel`` of
model/wrap.py converts its images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ccvae_eval.core.errors import UsageError, suggestion
from ccvae_eval.core.types import Images, Plain, Points

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "images."
"""Prefix of the pixel settings; with its dot it cannot begin the name of a constructor argument."""
KEYS = (f"{PREFIX}range", f"{PREFIX}logits")


@dataclass(frozen=True, slots=True)
class PixelRange:
    """The range of a model's pixels.

    Args:
        low, high: black and white in the encoder's input and in the decoder's output.
        logits: True if the decoder returns logits; their sigmoid is the image in [0, 1], whatever ``low`` and ``high``.

    Raises:
        UsageError: unless ``low < high``, both finite.
    """

    low: float = 0.0
    high: float = 1.0
    logits: bool = False

    def __post_init__(self) -> None:
        if not -1e9 < self.low < self.high < 1e9:
            raise UsageError(f"image range must be finite and ascending, got [{self.low:g}, {self.high:g}]")

    @classmethod
    def of(cls, settings: Mapping[str, Plain], where: str = "--set") -> tuple[Self | None, dict[str, Plain]]:
        """Splits settings into the pixel range (None without a pixel setting) and the other settings.

        Raises:
            UsageError: an unknown ``images.`` key, or an invalid value.

        >>> PixelRange.of({"latent": 16, "images.range": [-1, 1]})
        (PixelRange(low=-1.0, high=1.0, logits=False), {'latent': 16})
        >>> PixelRange.of({"latent": 16})
        (None, {'latent': 16})
        """
        given = {key: value for key, value in settings.items() if key.startswith(PREFIX)}
        rest = {key: value for key, value in settings.items() if key not in given}
        if not given:
            return None, rest
        for key in given:
            if key not in KEYS:
                raise UsageError(f"unknown setting {key!r}", where=where, hint=suggestion(key, KEYS))
        limits, logits = given.get(KEYS[0], [0, 1]), given.get(KEYS[1], False)
        numbers = isinstance(limits, list | tuple) and all(type(n) in (int, float) for n in limits)
        if not numbers or len(limits) != 2:
            raise UsageError(f"{KEYS[0]} must be two numbers such as [-1,1], got {limits}", where=where)
        if not isinstance(logits, bool):
            raise UsageError(f"{KEYS[1]} must be true or false, got {logits}", where=where)
        return cls(float(limits[0]), float(limits[1]), logits), rest

    def as_settings(self) -> dict[str, Plain]:
        """The inverse of :meth:`of`."""
        return {KEYS[0]: [self.low, self.high], KEYS[1]: self.logits}

    def __str__(self) -> str:
        output = "logits, passed through a sigmoid" if self.logits else "images of the same range"
        return f"the model takes images in [{self.low:g}, {self.high:g}], and its decoder returns {output}"

    def to_model(self, images: Images | Points) -> Tensor:
        """Converts images in [0, 1] to the model's range; returns points unchanged."""
        return images if images.ndim == 2 else images * (self.high - self.low) + self.low

    def from_model(self, images: Tensor) -> Images | Points:
        """Converts decoded images to [0, 1] and clips them; returns points unchanged."""
        if images.ndim == 2:
            return images
        return images.sigmoid() if self.logits else ((images - self.low) / (self.high - self.low)).clamp(0, 1)
