"""Perturbations of a model: faults that grow with a strength, and the model and images to which they apply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import torch

from ccvae_eval.calibration import code_faults, decoder_faults
from ccvae_eval.calibration.code_faults import FullModel, RotatedPairs, characteristic_pairs, style_pairs, variety_pairs
from ccvae_eval.calibration.reference_images import ReferenceImages
from ccvae_eval.core.errors import UnsupportedError, UsageError, suggestion
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Ids
from ccvae_eval.data.interface import DataSet
from ccvae_eval.model.interface import HasConditionalPrior, LabelledVAE, LabelSchema, Predicts, supports, type_name
from ccvae_eval.oracle.model import image_digests, oracle

MODEL_ITSELF = "oracle"
"""The base of perturbations whose first strength leaves the model as it is."""
GAUSSIAN_CODES, BLENDED_PATH, NOISY_PREDICTIONS = "bent", "gliding", "hazy"
"""Bases that differ from the model itself: see ``Correlated``, ``BlendedPath`` and ``Tempered``."""


@dataclass(frozen=True)
class PerturbationContext:
    """The model and the images to which perturbations apply.

    Args:
        data, ids: the images.
        names: the characteristics to perturb.
        model: the model; None = the oracle of the data.
        labels: labels of the oracle; None = all labels of the data.
        seed: seed of the perturbations.
        model_name: identifies the model in stored cells: the digest of its checkpoint.
    """

    data: DataSet
    ids: Ids
    names: tuple[str, ...]
    model: LabelledVAE | None = None
    labels: LabelSchema | None = None
    seed: int = 0
    model_name: str = ""

    @cached_property
    def references(self) -> ReferenceImages:
        """The reference images, with the oracle.

        Raises:
            UnsupportedError: there is no oracle, because a model was given or the data have no renderer.
        """
        if self.model is not None:
            raise UnsupportedError("the perturbation needs the oracle", where=type_name(self.model))
        return ReferenceImages(oracle(self.data, self.ids, self.labels), self.ids)

    @cached_property
    def of_renderings(self) -> PerturbationContext:
        """The same with an oracle of its own, which alone encodes the images that the data render for a score."""
        return replace(self)

    @cached_property
    def base_model(self) -> FullModel:
        """The model inside the perturbed models; raises as :attr:`unperturbed` does."""
        return decoder_faults.PerturbedDecoder(self.references) if self.model is None else self.unperturbed

    @property
    def unperturbed(self) -> FullModel:
        """The model as it is: the given model, or the oracle.

        Raises:
            UnsupportedError: the model does not predict its labels, or has no p(z_c|y).
        """
        if self.model is None:
            return self.references.oracle
        if not (supports(self.model, Predicts) and supports(self.model, HasConditionalPrior)):
            why = "a perturbation needs a model that predicts its labels and has p(z_c|y)"
            raise UnsupportedError(why, where=type_name(self.model))
        return self.model

    @cached_property
    def digests(self) -> list[bytes]:
        return image_digests(self.data.batch(self.ids).images)

    @property
    def binary(self) -> list[str]:
        return [name for name in self.names if self.base_model.labels[name].kind == "binary"]

    def shuffled(self, share: float) -> FullModel:
        """The model with the codes of a share of the images permuted."""
        posterior = self.base_model.encode(self.data.batch(self.ids).images)
        return code_faults.Shuffled(self.base_model, posterior, self.digests, self.ids, share, self.seed)

    def rotated(self, share: float) -> FullModel:
        """The model with a partial random rotation of its code, in units of each dimension's standard deviation."""
        loc = self.base_model.encode(self.data.batch(self.ids).images).loc.double()
        spread = loc.std(0, correction=0)
        spread = torch.where(spread > 0, spread, 1.0)
        generator = numpy_stream(self.seed, "turn")
        rotation = torch.from_numpy(code_faults.partial_rotation(loc.shape[1], share, generator))
        mix, back = (spread[:, None] * matrix / spread for matrix in (rotation, rotation.T))
        return code_faults.LinearlyMixed(self.base_model, mix, back)

    def correlated(self, correlation: float) -> FullModel:
        """The oracle with correlated first latent dimensions of pairs of binary labels."""
        pairs = list(zip(self.binary[::2], self.binary[1::2], strict=False))
        return code_faults.Correlated(self.references, pairs, correlation)

    def varieties(self) -> Mapping[str, tuple[int, ...]]:
        """Latent dimensions of each characteristic's variety: without a renderer, all but its first dimension."""
        if self.model is None:
            return {name: self.references.block(name).variety for name in self.names}
        return {name: self.base_model.layout[name][1:] for name in self.names}


Perturb = Callable[[PerturbationContext, float], FullModel]


@dataclass(frozen=True, slots=True)
class Perturbation:
    """A fault that grows with a strength.

    Args:
        name: the name by which values declare it.
        summary: one line: the fault.
        perturb: (context, strength) -> the perturbed model.
        strengths: first and last strength.
        unit: unit of the strengths.
        needs_oracle: True if it needs a renderer, so that it applies to the oracle only.
        base: name of the model at the first strength; perturbations with the same base share this step.
        kinds: kinds of labels that it perturbs; other labels do not enter its values.
    """

    name: str
    summary: str
    perturb: Perturb
    strengths: tuple[float, float] = (0.0, 1.0)
    unit: str = "share"
    needs_oracle: bool = True
    base: str = MODEL_ITSELF
    kinds: tuple[str, ...] = ("binary", "categorical")

    def strength(self, position: float) -> float:
        """The strength at a position from 0 to 1."""
        first, last = self.strengths
        return first + position * (last - first)


def _of_references(kind: Callable[[ReferenceImages, float, int], FullModel]) -> Perturb:
    """A perturbation of the oracle of the reference images."""
    return lambda context, strength: kind(context.references, strength, context.seed)


UNPERTURBED = Perturbation(
    "unperturbed", "no fault", lambda context, _: context.unperturbed, (0.0, 0.0), needs_oracle=False,
    base="unperturbed",
)  # fmt: skip
"""The model as it is; not among the perturbations by name."""

_PERTURBATIONS = (
    Perturbation(
        "shuffle", "the codes of a share of the images are permuted", lambda c, s: c.shuffled(s), needs_oracle=False,
    ),
    Perturbation(
        "mix", "the first latent dimensions of pairs of characteristics are rotated into each other",
        lambda c, s: RotatedPairs(c.base_model, characteristic_pairs(c.base_model.layout, c.binary), s),
        (0.0, 45.0), "degrees", needs_oracle=False,
    ),
    Perturbation(
        "seep", "the first latent dimension of each characteristic is rotated into a style dimension",
        lambda c, s: RotatedPairs(c.base_model, style_pairs(c.base_model.layout, c.names), s),
        (0.0, 45.0), "degrees", needs_oracle=False,
    ),
    Perturbation(
        "stir", "pairs of latent dimensions of a characteristic's variety are rotated into each other",
        lambda c, s: RotatedPairs(c.base_model, variety_pairs(c.varieties()), s), (0.0, 45.0), "degrees",
        needs_oracle=False,
    ),
    Perturbation(
        "turn", "the whole code is rotated, up to a random rotation", lambda c, s: c.rotated(s), needs_oracle=False,
    ),
    Perturbation(
        "correlate", "normal first latent dimensions of pairs of binary characteristics are correlated",
        lambda c, s: c.correlated(s), (0.0, 0.9), "correlation", base=GAUSSIAN_CODES, kinds=("binary",),
    ),
    Perturbation(
        "shift", "p(z_c|y) is shifted by a number of its standard deviations",
        lambda c, s: code_faults.Shifted(c.base_model, s), (0.0, 2.0), "deviations", needs_oracle=False,
    ),
    Perturbation(
        "collapse", "p(z_c|y) shrinks to a point", lambda c, s: code_faults.Collapsed(c.base_model, s),
        needs_oracle=False,
    ),
    Perturbation(
        "smear", "a share of the change is spread evenly over the image", _of_references(decoder_faults.Smeared),
    ),
    Perturbation(
        "stray", "the change is permuted among a share of the pixels", _of_references(decoder_faults.Strayed),
    ),
    Perturbation(
        "warp", "edited images are displaced outside the region, up to as far as inside",
        _of_references(decoder_faults.Warped), base="replaced",
    ),
    Perturbation("fade", "images fade to the mean image", _of_references(decoder_faults.Faded)),
    Perturbation("dim", "images fade to black", _of_references(decoder_faults.Dimmed)),
    Perturbation(
        "leak", "an edit of one label changes each other label with this probability",
        _of_references(decoder_faults.Leaking),
    ),
    Perturbation(
        "bias", "an edit of one label sets each other label to the class of the same number with this probability",
        _of_references(decoder_faults.Biased),
    ),
    Perturbation("idle", "a share of the interventions has no effect", _of_references(decoder_faults.Idle)),
    Perturbation(
        "jump", "an even change along the traversal becomes a jump", _of_references(decoder_faults.Jumping),
        base=BLENDED_PATH, kinds=("binary",),
    ),
    Perturbation(
        "wobble", "a share of the points of an even traversal is permuted", _of_references(decoder_faults.Wobbling),
        base=BLENDED_PATH, kinds=("binary",),
    ),
    Perturbation(
        "mislabel", "a share of the predictions is a random class", _of_references(code_faults.Mislabelled),
    ),
    Perturbation(
        "temper", "calibrated log-probabilities are multiplied", _of_references(code_faults.Tempered),
        (1.0, 8.0), "factor", base=NOISY_PREDICTIONS,
    ),
)  # fmt: skip

PERTURBATIONS: Mapping[str, Perturbation] = MappingProxyType({p.name: p for p in _PERTURBATIONS})
"""The perturbations by name."""


def perturbation_named(name: str) -> Perturbation:
    """A perturbation by its name.

    Raises:
        UsageError: the name is unknown; the error suggests the nearest.
    """
    if name not in PERTURBATIONS:
        raise UsageError(f"{name!r} is not a perturbation", where="--dial", hint=suggestion(name, PERTURBATIONS))
    return PERTURBATIONS[name]
