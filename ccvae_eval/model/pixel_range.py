"""What a model of others means by a pixel, said beside the model instead of in its code.

Ours lie in [0, 1]. A model that was trained on [-1, 1] or 0 .. 255, or whose decoder gives logits, is told so by
``images.range`` and ``images.logits``; :func:`translated` puts the translation around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Generator, Tensor, nn

from ccvae_eval.core.errors import UsageError, suggestion
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Plain, Points

PREFIX = "images."
"""Begins the settings that are about pixels: no argument of a constructor can be called so."""
KEYS = (f"{PREFIX}range", f"{PREFIX}logits")


@dataclass(frozen=True, slots=True)
class PixelRange:
    """The range of a model's pixels, and whether its decoder gives them before the sigmoid.

    Args:
        low, high: what the encoder takes for black and white, and what the decoder gives for them.
        logits: the decoder gives logits: their sigmoid is the image in [0, 1], whatever the encoder's range.
    """

    low: float = 0.0
    high: float = 1.0
    logits: bool = False

    def __post_init__(self) -> None:
        if not -1e9 < self.low < self.high < 1e9:
            raise UsageError(f"the range of images ({self.low:g}, {self.high:g}) is empty or not finite")

    @classmethod
    def of(cls, settings: Mapping[str, Plain], where: str = "--set") -> tuple[Self | None, dict[str, Plain]]:
        """What some settings say about pixels (None if nothing), and the other settings.

        Raises:
            UsageError: an unknown ``images.`` key, or a value that is none.

        >>> PixelRange.of({"latent": 16, "images.range": [-1, 1]})
        (PixelRange(low=-1.0, high=1.0, logits=False), {'latent': 16})
        >>> PixelRange.of({"latent": 16})
        (None, {'latent': 16})
        """
        said = {key: value for key, value in settings.items() if key.startswith(PREFIX)}
        rest = {key: value for key, value in settings.items() if key not in said}
        if not said:
            return None, rest
        for key in said:
            if key not in KEYS:
                raise UsageError(f"unknown setting {key!r}", where=where, hint=suggestion(key, KEYS))
        limits, logits = said.get(KEYS[0], [0, 1]), said.get(KEYS[1], False)
        numbers = isinstance(limits, list | tuple) and all(type(n) in (int, float) for n in limits)
        if not numbers or len(limits) != 2:
            raise UsageError(f"{KEYS[0]}={limits} is no range", where=where, hint=f"Two numbers: {KEYS[0]}=[-1,1]")
        if not isinstance(logits, bool):
            raise UsageError(f"{KEYS[1]}={logits} is neither true nor false", where=where)
        return cls(float(limits[0]), float(limits[1]), logits), rest

    def as_settings(self) -> dict[str, Plain]:
        """The inverse of :meth:`of`."""
        return {KEYS[0]: [self.low, self.high], KEYS[1]: self.logits}

    def __str__(self) -> str:
        back = "its decoder's logits through a sigmoid" if self.logits else "its decoder's images come back from there"
        return f"images go to the model in [{self.low:g}, {self.high:g}], {back}"

    def to_model(self, images: Images | Points) -> Tensor:
        """Images of [0, 1] in the model's range; points have no pixels and stay as they are."""
        return images if images.ndim == 2 else images * (self.high - self.low) + self.low

    def from_model(self, images: Tensor) -> Images | Points:
        """What the model decoded, in [0, 1]; what lies outside its range is cut off."""
        if images.ndim == 2:
            return images
        return images.sigmoid() if self.logits else ((images - self.low) / (self.high - self.low)).clamp(0, 1)


class Translated(nn.Module):
    """A model behind a translation of pixels. Made by :func:`translated`.

    Densities (``log_likelihood``, ``bound``) are the model's own, of pixels in the model's range.
    """

    def __init__(self, model: nn.Module, pixels: PixelRange) -> None:
        super().__init__()
        self._model, self._pixels = model, pixels

    @property
    def __wrapped__(self) -> nn.Module:
        """The model itself."""
        return self._model

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        posterior: Gaussian = self._theirs("encode")(self._pixels.to_model(images), labels)
        return posterior

    def decode(self, codes: Codes) -> Images:
        return self._pixels.from_model(self._theirs("decode")(codes))

    def state_dict(self, *arguments: Any, **named: Any) -> dict[str, Any]:  # type: ignore[override]
        """The weights under the model's own names."""
        return self._model.state_dict(*arguments, **named)

    def load_state_dict(self, *arguments: Any, **named: Any) -> Any:
        return self._model.load_state_dict(*arguments, **named)

    def _theirs(self, name: str) -> Any:
        return getattr(self._model, name)


def _predict(self: Translated, images: Images, codes: Codes) -> Any:
    return self._theirs("predict")(self._pixels.to_model(images), codes)


def _intervene(self: Translated, images: Images, codes: Codes, assignment: Mapping[str, float], noise: Tensor) -> Codes:
    moved: Codes = self._theirs("intervene")(self._pixels.to_model(images), codes, assignment, noise)
    return moved


def _log_likelihood(self: Translated, images: Images, codes: Codes) -> Tensor:
    density: Tensor = self._theirs("log_likelihood")(self._pixels.to_model(images), codes)
    return density


def _bound(self: Translated, images: Images, labels: Labels, generator: Generator) -> Tensor:
    bound: Tensor = self._theirs("bound")(self._pixels.to_model(images), labels, generator)
    return bound


SEES_IMAGES = {"predict": _predict, "intervene": _intervene, "log_likelihood": _log_likelihood, "bound": _bound}
"""The capabilities that are given images, each with its translation."""
LEFT_OUT = frozenset({"objectives", "from_settings", "settings", "context", "training"})
"""What is not passed on: a translated model is measured, not trained or made anew, and its mode is a module's own."""


def translated(model: nn.Module, pixels: PixelRange) -> nn.Module:
    """The model, seen from our side: its images in [0, 1].

    Args:
        model: keeps its class's name, and every public member that no translation is needed for.
        pixels: its range.

    Returns:
        A module of another class with the capabilities, the weights and the names of weights of ``model``.
    """
    kind = type(model)
    own = [name for name in dir(model) if not name.startswith("_") and name not in LEFT_OUT]
    members: dict[str, Any] = {name: SEES_IMAGES[name] for name in own if name in SEES_IMAGES}
    members |= {name: _passed_on(name) for name in own if name not in members and not hasattr(Translated, name)}
    members |= {"__module__": kind.__module__, "__doc__": kind.__doc__}
    made: Translated = type(kind.__name__, (Translated,), members)(model, pixels)
    return made.train(model.training)


def _passed_on(name: str) -> property:
    """A member that is the model's own; a property, because protocols look for members in the class."""
    return property(lambda self: getattr(self._model, name))
