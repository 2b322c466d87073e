r"""The conditional VAE, with or without an adversary that removes y from z.

Conditional VAE (Sohn, Lee and Yan, NeurIPS 2015): p(z) p(x|z,y) with p(z) = N(0, I), inference model q(z|x,y).

.. math:: \log p(x|y) \ge E_{q(z|x,y)}[\log p(x|z,y)] - KL(q(z|x,y) \| p(z))

With the adversary (Creswell, Mohamed, Sengupta and Bharath 2017; also the baseline of Klys et al. 2018) the encoder is
q(z|x), without y. A classifier r(y|z) is trained to predict y from z, and the encoder maximises the bound plus
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
from ccvae_models.autoencoder import Autoencoder, NetworkSettings, Weight, Width, kl_standard, noise_like
from ccvae_models.labels import (
    LabelClassifier,
    LabelEncoding,
    entropy,
    fully_labelled,
    means_of_rows,
    observed_log_prob,
    require_discrete_labels,
)
from ccvae_models.networks import (
    ConditionalEncoder,
    Decoder,
    Encoder,
    NetworkSpec,
    concatenated,
    initialise,
    uninitialised,
)


@dataclass(frozen=True, slots=True)
class CondVAESettings(NetworkSettings):
    """Settings of the conditional VAE.

    Args:
        style: latent dimensions of z (y is prepended to the code).
        injection: input of the decoder: "concatenate" = y and z side by side, "add" = z + MLP(y).
        adversary: "off", or the encoder's objective against the classifier r(y|z): "entropy" maximises its entropy,
            "likelihood" minimises log r of the true y. With an adversary the encoder is q(z|x), without y.
        strength: lambda, the weight of that objective.
        adversary_width: width of the classifier's two hidden layers, and of the hidden layer of injection "add".
    """

    style: Width = 27
    injection: Literal["concatenate", "add"] = "concatenate"
    adversary: Literal["off", "entropy", "likelihood"] = "off"
    strength: Weight = 10.0
    adversary_width: Width = 64


@dataclass(frozen=True, slots=True)
class CondVAEInfoSettings(CondVAESettings):
    """Settings of the conditional VAE with an adversary: those of ``CondVAESettings``, with the adversary on."""

    adversary: Literal["off", "entropy", "likelihood"] = "entropy"


class CondVAE(Autoencoder[CondVAESettings]):
    """Conditional VAE (Sohn et al., NeurIPS 2015): a code is (y, z), and the decoder models p(x|z,y).

    Only fully labelled images are used for training; at encoding, p(y) replaces a missing label.
    """

    needs_all_labels: ClassVar[bool] = True
    Settings: ClassVar[type[Any]] = CondVAESettings

    def __init__(self, settings: CondVAESettings, context: ModelContext, generator: Generator) -> None:
        name = type(self).__name__.lower()
        require_discrete_labels(context, name)
        encoding = LabelEncoding(context)
        super().__init__(settings, context, LatentLayout(encoding.count + settings.style, encoding.by_label))
        self.columns = encoding
        if settings.adversary != "off":
            self.adversary = LabelClassifier(settings.style, context.labels, settings.adversary_width)
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
        """All labels: each is part of the code itself."""
        return self.labels.names

    def encode(self, images: Images | Points, labels: Labels | None = None) -> Gaussian:
        """A point mass at y (p(y) for a missing label) times q(z|x,y), or q(z|x) with an adversary."""
        p = self.columns.prior(len(images))
        y = self.columns.expectation(p) if labels is None else self.columns.encode(labels, p)
        without_y = self.settings.adversary != "off"
        q = self.encoder(images) if without_y else self.encoder(self.encoder.trunk(images), y)
        return concatenated([Gaussian(y, torch.zeros_like(y)), q])

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """A point mass at y; NaN where the label is missing."""
        return self.columns.point_mass(labels)

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        """-(bound + lambda H(r(y|z))) over the fully labelled images; then -log r(y|z) for the adversary alone.

        Both are divided by the number of images in the batch. With adversary "likelihood", -log r(y|z) replaces H.
        """
        complete = fully_labelled(batch.labels)
        x, y = batch.images[complete], batch.labels[complete]
        q = self.encode(x, y)
        z = list(self.layout.style)
        codes = q.at(noise_like(q, generator))
        terms = {"reconstruction": self.log_likelihood(x, codes), "kl_style": kl_standard(q.columns(z)).sum(1)}
        loss = terms["kl_style"] - terms["reconstruction"]
        adversary = self.settings.adversary
        if adversary != "off":
            log_r = self.adversary(codes[:, z])
            terms["confusion"] = (entropy(log_r) if adversary == "entropy" else -observed_log_prob(log_r, y)).sum(1)
            loss = loss - self.settings.strength * terms["confusion"]
        means = means_of_rows("supervised", len(x), terms)
        without_adversary = tuple(p for name, p in self.named_parameters() if not name.startswith("adversary."))
        yield Objective("model", loss.sum() / len(batch), means, without_adversary)
        if adversary != "off":
            log_r = observed_log_prob(self.adversary(codes[:, z].detach()), y).sum(1)
            means = means_of_rows("supervised", len(x), {"log_r_y_z": log_r})
            yield Objective("adversary", -log_r.sum() / len(batch), means, tuple(self.adversary.parameters()))


class CondVAEInfo(CondVAE):
    """Conditional VAE with an adversary that removes y from z (Creswell et al. 2017)."""

    Settings: ClassVar[type[Any]] = CondVAEInfoSettings


class AddingDecoder(Decoder):
    """Decoder of z + MLP(y).

    Args:
        context: provides the shape of x.
        given: number of columns of y, which come first in a code.
        settings: provides the widths.
    """

    def __init__(self, context: ModelContext, given: int, settings: CondVAESettings) -> None:
        super().__init__(context.input_shape, settings.style, NetworkSpec(settings.network, settings.hidden))
        self.given = given
        self.widen = uninitialised(nn.Linear, given, settings.adversary_width)
        self.embed = uninitialised(nn.Linear, settings.adversary_width, settings.style)

    def forward(self, codes: Codes) -> Tensor:
        y, z = codes[:, : self.given], codes[:, self.given :]
        out: Tensor = self.trunk(z + self.embed(functional.relu(self.widen(y))))
        return out
