r"""The conditional VAE, and the same with y driven out of z.

Sohn, Lee and Yan (NeurIPS 2015): p(z) p(x|z,y) with p(z) = N(0, I), inference q(z|x,y).

.. math:: \log p(x|y) \ge E_{q(z|x,y)}[\log p(x|z,y)] - KL(q(z|x,y) \| p(z))

With an adversary (Creswell, Mohamed, Sengupta and Bharath 2017; the comparison of Klys et al. 2018): q(z|x) is not
given y, a classifier r(y|z) is trained to tell y from z, and the encoder maximises the bound plus
:math:`\lambda E[H(r(y|z))]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Points
from ccvae_eval.model.interface import Batch, LatentLayout, ModelContext, Objective
from ccvae_models.autoencoder import Autoencoder, kl_standard, noise_like
from ccvae_models.labels import (
    Classifier,
    LabelColumns,
    entropy,
    mean_of_rows,
    observed_rows,
    of_labels,
    require_classes,
    require_least,
)
from ccvae_models.likelihood import LikelihoodName
from ccvae_models.networks import ConditionalEncoder, Decoder, Encoder, Network, NetworkName, initialise, uninitialised


@dataclass(frozen=True, slots=True)
class CondVAESettings:
    """Settings of the conditional VAE.

    Args:
        style: columns of z besides those of y.
        injection: how y enters the decoder: "concatenate" puts its columns beside z, "add" decodes z + MLP(y).
        adversary: "off"; or what the encoder does against the classifier r(y|z): "entropy" raises its entropy,
            "likelihood" lowers log r of the true y. With either, q(z|x) is not given y.
        strength: lambda, the weight of that.
        adversary_width: units in each of the classifier's two layers, and in the hidden layer of injection "add".
        likelihood: p(x|z,y).
        likelihood_scale: its scale.
        network: convolutions or perceptron; auto goes by the shape of the input.
        hidden: width of the perceptron.
    """

    style: int = 27
    injection: Literal["concatenate", "add"] = "concatenate"
    adversary: Literal["off", "entropy", "likelihood"] = "off"
    strength: float = 10.0
    adversary_width: int = 64
    likelihood: LikelihoodName = "auto"
    likelihood_scale: float = 1.0
    network: NetworkName = "auto"
    hidden: int = 64


@dataclass(frozen=True, slots=True)
class CondVAEInfoSettings(CondVAESettings):
    """Settings of the conditional VAE with an adversary: those of ``CondVAESettings``, with it switched on."""

    adversary: Literal["off", "entropy", "likelihood"] = "entropy"


class CondVAE(Autoencoder[CondVAESettings]):
    """The first columns of a code are y itself, the rest is z. See the module's text for the model.

    Only rows whose labels are all known are learnt from; where one is missing at encoding, p(y) takes its place.
    """

    needs_all_labels: ClassVar[bool] = True
    Settings: ClassVar[type[Any]] = CondVAESettings

    def __init__(self, settings: CondVAESettings, context: ModelContext, generator: Generator) -> None:
        name = type(self).__name__.lower()
        require_classes(context, name)
        require_least(settings, name, {"style": 1, "strength": 0, "adversary_width": 1})
        columns = LabelColumns(context)
        super().__init__(settings, context, LatentLayout(columns.count + settings.style, columns.by_label))
        self.columns = columns
        if settings.adversary != "off":
            self.adversary = Classifier(settings.style, context.labels, settings.adversary_width)
        initialise(self, generator)

    def _encoder(self) -> nn.Module:
        shape, given = self.context.input_shape, len(self.layout.characteristic_columns)
        if self.settings.adversary == "off":
            return ConditionalEncoder(shape, given, self.settings.style, self.network)
        return Encoder(shape, self.settings.style, self.network)

    def _decoder(self) -> nn.Module:
        if self.settings.injection == "concatenate":
            return Decoder(self.context.input_shape, self.layout.dim, self.network)
        given = len(self.layout.characteristic_columns)
        return AddingDecoder(self.context, given, self.settings)

    @property
    def given(self) -> tuple[str, ...]:
        """Every label: its columns are the label."""
        return self.labels.names

    def encode(self, images: Images | Points, labels: Labels | None = None) -> Gaussian:
        """A point mass at y (a missing label: at p(y)) beside q(z|x,y); with an adversary q(z|x)."""
        p = self.columns.prior(len(images))
        y = self.columns.mixture(p) if labels is None else self.columns.known(labels, p)
        blind = self.settings.adversary != "off"
        q = self.encoder(images) if blind else self.encoder(self.encoder.trunk(images), y)
        return Gaussian(torch.cat([y, q.loc], 1), torch.cat([torch.zeros_like(y), q.scale], 1))

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """A point mass at y; NaN where the label is missing."""
        return self.columns.point_mass(labels)

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        """The negative bound (and the adversary's part of it) over the rows whose labels are known, divided by all
        rows; then the adversary's own objective, -log r(y|z), for the adversary alone."""
        whole = observed_rows(batch.labels)
        x, y = batch.images[whole], batch.labels[whole]
        q = self.encode(x, y)
        z = list(self.layout.style)
        codes = q.at(noise_like(q, generator))
        terms = {
            "reconstruction": self.log_likelihood(x, codes),
            "kl_style": kl_standard(q.columns(z)).sum(1),
        }
        loss = terms["kl_style"] - terms["reconstruction"]
        adversary = self.settings.adversary
        if adversary != "off":
            told = self.adversary(codes[:, z])
            terms["confusion"] = (entropy(told) if adversary == "entropy" else -of_labels(told, y)).sum(1)
            loss = loss - self.settings.strength * terms["confusion"]
        rows = {"supervised.rows": len(x)}
        means = {f"supervised.{name}": mean_of_rows(values) for name, values in terms.items()}
        others = tuple(p for name, p in self.named_parameters() if not name.startswith("adversary."))
        yield Objective("model", loss.sum() / len(batch), {**rows, **means}, others)
        if adversary != "off":
            log_r = of_labels(self.adversary(codes[:, z].detach()), y).sum(1)
            own = {**rows, "supervised.log_r_y_z": mean_of_rows(log_r)}
            yield Objective("adversary", -log_r.sum() / len(batch), own, tuple(self.adversary.parameters()))


class CondVAEInfo(CondVAE):
    """The conditional VAE with an adversary that drives y out of z."""

    Settings: ClassVar[type[Any]] = CondVAEInfoSettings


class AddingDecoder(Decoder):
    """Decodes z + MLP(y).

    Args:
        context: shape of x.
        given: columns of y, the first ones of a code.
        settings: widths.
    """

    def __init__(self, context: ModelContext, given: int, settings: CondVAESettings) -> None:
        super().__init__(context.input_shape, settings.style, Network(settings.network, settings.hidden))
        self.given = given
        self.widen = uninitialised(nn.Linear, given, settings.adversary_width)
        self.embed = uninitialised(nn.Linear, settings.adversary_width, settings.style)

    def forward(self, codes: Codes) -> Tensor:
        y, z = codes[:, : self.given], codes[:, self.given :]
        out: Tensor = self.trunk(z + self.embed(functional.relu(self.widen(y))))
        return out
