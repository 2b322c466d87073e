"""``wrap``: a model from two Python functions, without a plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels
from ccvae_eval.model.interface import Kind, Label, LabelSchema, LatentLayout
from ccvae_eval.model.pixel_range import PixelRange

Encode = Callable[[Tensor], Any]
Decode = Callable[[Tensor], Tensor]


class WrappedVAE:
    """A ``LabelledVAE`` made of two functions, see :func:`wrap`."""

    def __init__(
        self,
        encode: Encode,
        decode: Decode,
        layout: LatentLayout,
        labels: LabelSchema,
        pixels: PixelRange,
        sources: tuple[Any, ...],
    ) -> None:
        self._encode, self._decode, self._pixels = encode, decode, pixels
        self._layout, self._labels = layout, labels
        self.sources = sources

    @property
    def layout(self) -> LatentLayout:
        return self._layout

    @property
    def labels(self) -> LabelSchema:
        return self._labels

    def modules(self) -> list[torch.nn.Module]:
        """Returns the torch modules that the functions are, or are methods of, so that their mode can be restored."""
        owners = [getattr(source, "__self__", source) for source in self.sources]
        return [owner for owner in owners if isinstance(owner, torch.nn.Module)]

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        del labels
        out = self._encode(self._pixels.to_model(images))
        if isinstance(out, Gaussian):
            return out
        if isinstance(out, torch.distributions.Distribution):
            return Gaussian(out.mean, out.stddev)
        if isinstance(out, Tensor):
            return Gaussian(out, torch.zeros_like(out))
        if isinstance(out, Sequence) and len(out) == 2:
            return Gaussian(out[0], out[1])
        raise UsageError(
            f"encode returned {type(out).__name__}, expected a posterior",
            where="wrap",
            hint="Return (mean, standard deviation), a torch Normal, a Gaussian, or one tensor of codes.",
        )

    def decode(self, codes: Codes) -> Images:
        return self._pixels.from_model(self._decode(codes))


class _WithPrediction(WrappedVAE):
    user_predict: Callable[[Tensor], Mapping[str, Tensor]]

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        del images
        return dict(self.user_predict(codes))


class _WithPrior(WrappedVAE):
    user_prior: Callable[[Tensor], Any]

    def conditional_prior(self, labels: Labels) -> Gaussian:
        out = self.user_prior(labels)
        return out if isinstance(out, Gaussian) else Gaussian(out[0], out[1])


class _WithBoth(_WithPrediction, _WithPrior):
    pass


def wrap(
    *,
    encode: Encode,
    decode: Decode,
    dim: int,
    characteristics: Mapping[str, Sequence[int]] | None = None,
    labels: LabelSchema | Mapping[str, Kind | Sequence[str]] | None = None,
    image_range: tuple[float, float] = (0.0, 1.0),
    logits: bool = False,
    predict: Callable[[Tensor], Mapping[str, Tensor]] | None = None,
    prior: Callable[[Tensor], Any] | None = None,
) -> WrappedVAE:
    """Makes a model from functions on tensors.

    Args:
        encode: maps images in ``image_range`` to (mean, standard deviation), a ``Normal``, a ``Gaussian`` or codes.
        decode: maps codes, shape (N, dim), to images in ``image_range``.
        dim: number of latent dimensions.
        characteristics: latent dimensions of each label; by default they are assigned on held-out images.
        labels: kind of each label: "binary" (the default), "continuous", or the class names.
        image_range: least and greatest pixel value of this model, such as (-1, 1).
        logits: True if ``decode`` returns logits, whose sigmoid is the image in [0, 1].
        predict: maps codes to log-probabilities (N, K) of each label.
        prior: maps labels, shape (N, L), to (mean, standard deviation) of p(z_c|y) over the dimensions of z_c.

    Returns:
        A model with the capabilities whose functions were given.

    Raises:
        UsageError: an invalid layout, label or image range.

    >>> model = wrap(encode=lambda x: (x.mean((2, 3)), torch.ones(len(x), 3)), decode=lambda z: z[..., None, None],
    ...              dim=3, characteristics={"Red": [0]})
    >>> model.layout.style
    (1, 2)
    """
    layout = LatentLayout(dim, {name: tuple(columns) for name, columns in (characteristics or {}).items()})
    if labels is None:
        schema = LabelSchema(tuple(Label(name) for name in layout.characteristics))
    elif isinstance(labels, LabelSchema):
        schema = labels
    else:
        schema = LabelSchema(tuple(_label(name, kind) for name, kind in labels.items()))
    kinds = {
        (False, False): WrappedVAE,
        (True, False): _WithPrediction,
        (False, True): _WithPrior,
        (True, True): _WithBoth,
    }
    kind = kinds[predict is not None, prior is not None]
    model = kind(encode, decode, layout, schema, PixelRange(*image_range, logits), (encode, decode, predict, prior))
    if isinstance(model, _WithPrediction) and predict is not None:
        model.user_predict = predict
    if isinstance(model, _WithPrior) and prior is not None:
        model.user_prior = prior
    return model


def _label(name: str, kind: str | Sequence[str]) -> Label:
    if kind == "binary":
        return Label(name)
    if kind == "continuous":
        return Label(name, "continuous")
    if isinstance(kind, str):
        raise UsageError(
            f"label kind {kind!r} is unknown", where=name, hint='Use "binary", "continuous" or a list of class names.'
        )
    return Label(name, "categorical", tuple(kind))
