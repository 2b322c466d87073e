"""``wrap``: a model from two Python functions, without a plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import index
from typing import Any, Literal

import torch
from torch import Tensor

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Points
from ccvae_eval.model.interface import Kind, Label, LabelSchema, LatentLayout, Proxy
from ccvae_eval.model.pixel_range import PixelRange

Encode = Callable[[Tensor], Any]
Decode = Callable[[Tensor], Tensor]
Predict = Callable[[Tensor], Mapping[str, Tensor]]
Prior = Callable[[Tensor], Any]
ScaleName = Literal["std", "logvar", "logstd"]
SCALES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "std": lambda scale: scale,
    "logvar": lambda scale: (scale / 2).exp(),
    "logstd": torch.exp,
}
"""Standard deviation from the scale that an encoder returns."""


class WrappedVAE:
    """A ``LabelledVAE`` made of two functions, see :func:`wrap`."""

    def __init__(
        self,
        encode: Encode,
        decode: Decode,
        layout: LatentLayout,
        labels: LabelSchema,
        pixels: PixelRange | None,
        scale: ScaleName = "std",
        predict: Predict | None = None,
        prior: Prior | None = None,
    ) -> None:
        self._encode, self._decode, self._scale = encode, decode, scale
        self.pixels, self.range_stated = pixels or PixelRange(), pixels is not None
        self.layout, self.labels = layout, labels
        self._functions = (encode, decode, predict, prior)
        # a method is a capability (Predicts, HasConditionalPrior), so it exists only if its function was given
        if predict is not None:
            self.predict = partial(_predicted, predict)
        if prior is not None:
            self.conditional_prior = partial(_prior, prior)

    def __repr__(self) -> str:
        owned = "".join(f" + {name}" for name in self.layout.characteristics)
        return f"<wrapped model, z = {self.layout.dim} = {len(self.layout.style)} style{owned}>"

    def modules(self) -> list[torch.nn.Module]:
        """Returns the torch modules that the functions are, or are methods of, so that their mode can be restored."""
        owners = [getattr(function, "__self__", function) for function in self._functions]
        return [owner for owner in owners if isinstance(owner, torch.nn.Module)]

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        del labels
        out = self._encode(self.pixels.to_model(images))
        if isinstance(out, torch.distributions.Distribution):
            return Gaussian(out.mean, out.stddev)
        if isinstance(out, Tensor):
            return Gaussian(out, torch.zeros_like(out))
        if isinstance(out, Gaussian):
            return out
        if isinstance(out, Sequence) and len(out) == 2:
            return Gaussian(out[0], SCALES[self._scale](out[1]))
        raise UsageError(
            f"encode returned {type(out).__name__}, expected a posterior",
            where="wrap",
            hint="Return (mean, standard deviation), a torch Normal, a Gaussian, or one tensor of codes.",
        )

    def decode(self, codes: Codes) -> Images:
        return self.pixels.from_model(self._decode(codes))

    def decode_unclipped(self, codes: Codes) -> Tensor:
        """The decoder's output in the model's own range."""
        return self._decode(codes)


def _predicted(predict: Predict, images: Images, codes: Codes) -> dict[str, Tensor]:
    del images
    return dict(predict(codes))


def _prior(prior: Prior, labels: Labels) -> Gaussian:
    return _gaussian(prior(labels))


def _gaussian(found: Any) -> Gaussian:
    return found if isinstance(found, Gaussian) else Gaussian(found[0], found[1])


def wrap(
    *,
    encode: Encode,
    decode: Decode,
    dim: int,
    characteristics: Mapping[str, Sequence[int]] | None = None,
    labels: LabelSchema | Mapping[str, Kind | Sequence[str]] | None = None,
    image_range: tuple[float, float] | None = None,
    logits: bool = False,
    scale: ScaleName = "std",
    predict: Predict | None = None,
    prior: Prior | None = None,
) -> WrappedVAE:
    """Makes a model from functions on tensors.

    Args:
        encode: maps images in ``image_range`` to (mean, scale), a ``Normal``, a ``Gaussian`` or codes.
        decode: maps codes, shape (N, dim), to images in ``image_range``.
        dim: number of latent dimensions.
        characteristics: the list of latent dimensions of each label, such as ``{"Smiling": [0]}``; by default they are
            assigned on held-out images.
        labels: kind of each label: "binary" (the default), "continuous", or the list of class names of a categorical
            label as the data have them, such as ``{"digit": ["0", "1", "2"]}`` for numbers in an array.
        image_range: least and greatest pixel value of this model, such as (-1, 1); default (0, 1). It holds for the
            images that ``encode`` takes and for those that ``decode`` returns. Decoded pixels outside are clipped, and
            an evaluation refuses them if they are far outside.
        logits: True if ``decode`` returns logits, whose sigmoid is the image in [0, 1].
        scale: meaning of the scale in (mean, scale): "std", "logvar" (log-variance) or "logstd".
        predict: maps codes to log-probabilities (N, K) of each label.
        prior: maps labels, shape (N, L), to (mean, standard deviation) of p(z_c|y) over the dimensions of z_c.

    Returns:
        A model with the capabilities whose functions were given.

    Raises:
        UsageError: an invalid layout, label, image range or scale.

    >>> model = wrap(encode=lambda x: (x.mean((2, 3)), torch.ones(len(x), 3)), decode=lambda z: z[..., None, None],
    ...              dim=3, characteristics={"Red": [0]})
    >>> model.layout.style
    (1, 2)
    """
    owned = _mapping("characteristics", characteristics or {})
    layout = LatentLayout(dim, {name: _columns(name, columns) for name, columns in owned.items()})
    if isinstance(labels, LabelSchema):
        schema = labels
    else:
        labels = {**_mapping("labels", labels or {})}
        labels |= {name: "binary" for name in layout.characteristics if name not in labels}
        schema = LabelSchema(tuple(_label(name, kind) for name, kind in labels.items()))
    if scale not in SCALES:
        raise UsageError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}", where="wrap")
    stated = image_range is not None or logits
    pixels = PixelRange(*(image_range or (0.0, 1.0)), logits) if stated else None
    return WrappedVAE(encode, decode, layout, schema, pixels, scale, predict, prior)


def _mapping(name: str, given: Any) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise UsageError(f"{name} must be a dictionary by label, got {given!r}", where="wrap")
    return given


def _columns(name: str, columns: Any) -> tuple[int, ...]:
    try:
        return tuple(map(index, columns))
    except TypeError:
        what = f"characteristics[{name!r}] must be a list of latent dimensions, got {columns!r}"
        hint = f"Write {{{name!r}: [{columns}]}}." if isinstance(columns, int) else ""
        raise UsageError(what, where="wrap", hint=hint) from None


def _label(name: str, kind: str | Sequence[str]) -> Label:
    if not isinstance(kind, str):
        if not isinstance(kind, Iterable):
            what = f"labels[{name!r}] must be a kind or a list of class names, got {kind!r}"
            raise UsageError(what, where="wrap", hint='Use "binary", "continuous" or ["0", "1", "2"].')
        return Label(name, "categorical", tuple(map(str, kind)))
    if kind == "binary":
        return Label(name)
    if kind == "continuous":
        return Label(name, "continuous")
    raise UsageError(
        f"label kind {kind!r} is unknown", where=name, hint='Use "binary", "continuous" or a list of class names.'
    )


class PixelRangeModel(torch.nn.Module, Proxy[Any]):
    """A model of another pixel range, with a conversion of its images to and from [0, 1].

    It has the capabilities, weights, weight names and public members of the model inside. ``log_likelihood`` and
    ``bound`` stay densities of pixels in the model's own range.

    Args:
        inner: the model.
        pixels: its pixel range.
    """

    def __init__(self, inner: torch.nn.Module, pixels: PixelRange) -> None:
        super().__init__()
        self.inner, self.pixels = inner, pixels
        self.training = inner.training

    def __getattr__(self, name: str) -> Any:
        # torch keeps the inner module in a table of its own
        return self._modules["inner"] if name == "inner" else Proxy.__getattr__(self, name)

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        posterior: Gaussian = self.inner.encode(self.pixels.to_model(images), labels)
        return posterior

    def decode(self, codes: Codes) -> Images:
        return self.pixels.from_model(self.inner.decode(codes))

    def decode_unclipped(self, codes: Codes) -> Any:
        """The decoder's output in the model's own range."""
        return self.inner.decode(codes)

    def predict(self, images: Images, codes: Codes) -> Any:
        return self.inner.predict(self.pixels.to_model(images), codes)

    def intervene(self, images: Images, *arguments: Any) -> Any:
        return self.inner.intervene(self.pixels.to_model(images), *arguments)

    def log_likelihood(self, images: Images | Points, codes: Codes) -> Any:
        return self.inner.log_likelihood(self.pixels.to_model(images), codes)

    def bound(self, images: Images | Points, *arguments: Any) -> Any:
        return self.inner.bound(self.pixels.to_model(images), *arguments)

    def state_dict(self, *arguments: Any, **named: Any) -> Any:
        """Returns the weights under the inner model's names."""
        return self.inner.state_dict(*arguments, **named)

    def load_state_dict(self, *arguments: Any, **named: Any) -> Any:
        return self.inner.load_state_dict(*arguments, **named)


class HalfPrecisionModel(Proxy[Any]):
    """A model whose encoder and decoder multiply matrices and convolve in bfloat16, which has 8 bits of mantissa.

    Codes and images are float32 again. Predictions, priors and likelihoods keep the model's own precision.
    """

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        with torch.autocast(images.device.type, torch.bfloat16):
            posterior: Gaussian = self.inner.encode(images, labels)
        return Gaussian(posterior.loc.float(), posterior.scale.float())

    def decode(self, codes: Codes) -> Images:
        with torch.autocast(codes.device.type, torch.bfloat16):
            images: Images = self.inner.decode(codes)
        return images.float()
