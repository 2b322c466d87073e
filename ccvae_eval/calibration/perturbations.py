"""The dials: by what a model of known entanglement is spoilt, and how far each goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import torch

from ccvae_eval.calibration.code_faults import (
    Collapsed,
    Correlated,
    FullModel,
    Mixed,
    PerturbedModel,
    Shifted,
    Shuffled,
    Turned,
    digests_of,
    inner_pairs,
    own_pairs,
    part_of_a_turn,
    style_pairs,
)
from ccvae_eval.calibration.decoder_faults import (
    Dimmed,
    Faded,
    Faultless,
    Idle,
    Jumping,
    Leaking,
    Smeared,
    Strayed,
    Warped,
    Wobbling,
)
from ccvae_eval.calibration.prediction_faults import Mislabelled, Tempered
from ccvae_eval.calibration.reference_images import ReferenceImages
from ccvae_eval.core.errors import UnsupportedError, UsageError, suggestion
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Ids
from ccvae_eval.data.interface import DataSet
from ccvae_eval.model.interface import HasConditionalPrior, LabelledVAE, LabelSchema, Predicts
from ccvae_eval.oracle.model import oracle


@dataclass(frozen=True)
class PerturbationContext:
    """What the dials are put on: the oracle of drawn images, or somebody's model and images.

    Args:
        data, ids: the images.
        names: the characteristics that the dials turn.
        model: the model; None = the oracle of the data.
        labels: the oracle's labels; all of the data's if None.
        seed: of the saboteurs.
        model_name: stands for the model in what is kept: the digest of its checkpoint.
    """

    data: DataSet
    ids: Ids
    names: tuple[str, ...]
    model: LabelledVAE | None = None
    labels: LabelSchema | None = None
    seed: int = 0
    model_name: str = ""
    _kept: dict[str, object] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def originals(self) -> ReferenceImages:
        """The images that the oracle knows.

        Raises:
            UnsupportedError: there is no oracle: a model was given, or the data cannot be drawn.
        """
        if self.model is not None:
            raise UnsupportedError("this dial needs the oracle", where=type(self.model).__name__)
        return ReferenceImages(oracle(self.data, self.ids, self.labels), self.ids)

    @cached_property
    def base(self) -> FullModel:
        """The model before anything is spoilt.

        Raises:
            UnsupportedError: a model that does not predict its labels, or has no p(z_c|y).
        """
        if self.model is None:
            return Faultless(self.originals)
        if not (isinstance(self.model, Predicts) and isinstance(self.model, HasConditionalPrior)):
            raise UnsupportedError(
                "a saboteur needs a model that predicts its labels and has p(z_c|y)", where=type(self.model).__name__
            )
        return self.model

    @cached_property
    def digests(self) -> list[bytes]:
        return digests_of(self.data.batch(self.ids).images)

    @property
    def binary(self) -> list[str]:
        return [name for name in self.names if self.base.labels[name].kind == "binary"]

    def shuffled(self, share: float) -> PerturbedModel:
        """The base with a share of its codes in a circle."""
        posterior = self.base.encode(self.data.batch(self.ids).images)
        return Shuffled(self.base, posterior, self.digests, self.ids, share, self.seed)

    def turned(self, share: float) -> Mixed:
        """The base with its whole code turned by a share of a rotation at random, in units of the columns' spread."""
        loc = self.base.encode(self.data.batch(self.ids).images).loc.double()
        spread = loc.std(0, correction=0)
        spread = torch.where(spread > 0, spread, 1.0)
        generator = numpy_stream(self.seed, "turn")
        turn = torch.from_numpy(part_of_a_turn(loc.shape[1], share, generator))
        return Mixed(self.base, spread[:, None] * turn / spread, spread[:, None] * turn.T / spread)

    def correlated(self, correlation: float) -> Correlated:
        """The oracle with the first columns of its binary labels correlated, two and two."""
        pairs = list(zip(self.binary[::2], self.binary[1::2], strict=False))
        return Correlated(self.originals, pairs, correlation)

    def varieties(self) -> Mapping[str, tuple[int, ...]]:
        """The columns of each characteristic without its first: its variety, if there is one."""
        if self.model is None:
            return {name: self.originals.block(name).variety for name in self.names}
        return {name: self.base.layout[name][1:] for name in self.names}


@dataclass(frozen=True, slots=True)
class Perturbation:
    """One way to spoil a model.

    Args:
        name: as values declare it.
        summary: what it does, one line.
        spoil: (bench, strength) -> the model.
        strengths: what its two ends are.
        unit: of the strengths.
        drawn: whether it needs the oracle: a renderer.
        base: which model stands at its first end; dials with the same base share that step.
        kinds: labels that it works on; others stay out of its values.
    """

    name: str
    summary: str
    spoil: Callable[[PerturbationContext, float], FullModel]
    strengths: tuple[float, float] = (0.0, 1.0)
    unit: str = "share"
    drawn: bool = True
    base: str = "oracle"
    kinds: tuple[str, ...] = ("binary", "categorical")

    def strength(self, position: float) -> float:
        """The strength at a position from 0 to 1."""
        first, last = self.strengths
        return first + position * (last - first)


GLIDING = "gliding"
HAZY = "hazy"
BENT = "bent"

PERTURBATIONS: Mapping[str, Perturbation] = MappingProxyType(
    {
        dial.name: dial
        for dial in (
            Perturbation("shuffle", "a share of the images gets another image's code", lambda b, s: b.shuffled(s), drawn=False),
            Perturbation(
                "mix",
                "the first columns of the characteristics are turned into each other, two and two",
                lambda b, s: Turned(b.base, own_pairs(b.base.layout, b.binary), s),
                (0.0, 45.0), "degrees", drawn=False,
            ),
            Perturbation(
                "seep",
                "the first column of each characteristic is turned into a style column",
                lambda b, s: Turned(b.base, style_pairs(b.base.layout, b.names), s),
                (0.0, 45.0), "degrees", drawn=False,
            ),
            Perturbation(
                "stir",
                "the columns of a characteristic's variety are turned into each other, two and two",
                lambda b, s: Turned(b.base, inner_pairs(b.varieties()), s),
                (0.0, 45.0), "degrees", drawn=False,
            ),
            Perturbation(
                "turn", "the whole code is turned, a share of the way to a rotation at random",
                lambda b, s: b.turned(s), drawn=False,
            ),
            Perturbation(
                "correlate", "normal first columns of binary characteristics are correlated, two and two",
                lambda b, s: b.correlated(s), (0.0, 0.9), "correlation", base=BENT, kinds=("binary",),
            ),
            Perturbation(
                "shift",
                "p(z_c|y) is moved by a number of its deviations",
                lambda b, s: Shifted(b.base, s),
                (0.0, 2.0), "deviations", drawn=False,
            ),
            Perturbation("collapse", "p(z_c|y) shrinks to a point", lambda b, s: Collapsed(b.base, s), drawn=False),
            Perturbation("smear", "a part of the change is spread evenly", lambda b, s: Smeared(b.originals, s, b.seed)),
            Perturbation("stray", "a share of the change's pixels is shuffled", lambda b, s: Strayed(b.originals, s, b.seed)),
            Perturbation(
                "warp", "the outside of a change is displaced, up to as far as the inside",
                lambda b, s: Warped(b.originals, s, b.seed),
                base="replaced",
            ),
            Perturbation("fade", "pictures fade to the mean image", lambda b, s: Faded(b.originals, s, b.seed)),
            Perturbation("dim", "pictures fade to black", lambda b, s: Dimmed(b.originals, s, b.seed)),
            Perturbation(
                "leak", "a change of one label turns each other one over with this probability",
                lambda b, s: Leaking(b.originals, s, b.seed),
            ),
            Perturbation("idle", "a share of interventions does nothing", lambda b, s: Idle(b.originals, s, b.seed)),
            Perturbation(
                "jump", "an even change along the path becomes a jump",
                lambda b, s: Jumping(b.originals, s, b.seed), base=GLIDING, kinds=("binary",),
            ),
            Perturbation(
                "wobble", "a share of the stations of an even path is permuted",
                lambda b, s: Wobbling(b.originals, s, b.seed), base=GLIDING, kinds=("binary",),
            ),
            Perturbation(
                "mislabel", "a share of the predictions names a class at random",
                lambda b, s: Mislabelled(b.originals, s, b.seed),
            ),
            Perturbation(
                "temper", "honest log-probabilities are multiplied",
                lambda b, s: Tempered(b.originals, s, b.seed), (1.0, 8.0), "factor", base=HAZY,
            ),
        )
    }
)  # fmt: skip
"""The dials by name."""


def perturbation_named(name: str) -> Perturbation:
    """A dial by its name; an unknown one is a ``UsageError`` that offers the nearest."""
    if name not in PERTURBATIONS:
        raise UsageError(f"dial {name!r} is unknown", hint=suggestion(name, PERTURBATIONS))
    return PERTURBATIONS[name]
