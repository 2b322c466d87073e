r"""CSVAE: latent subspaces (Klys, Snell and Zemel, NeurIPS 2018).

Generative model: p(y) p(w|y) p(z) p(x|w,z), p(z) = N(0, I), p(w|y) a product of one Gaussian for each class of each
label over that label's own block of w. Inference: q(w|x,y) and q(z|x), diagonal Gaussians. An adversary q_delta(y|z)
looks for y in z, and the encoder hides it there. Two objectives, both minimised:

.. math::
    M_1 &= \beta_1 E[-\log p(x|w,z)] + \beta_2 KL(q(w|x,y) \| p(w|y)) + \beta_3 KL(q(z|x) \| p(z))
           + \beta_4 E_{q(z|x)}\Big[\sum_y q_\delta(y|z) \log q_\delta(y|z)\Big] - \log p(y) \\
    M_2 &= -\beta_5 E_{q(z|x)}[\log q_\delta(y|z)]

M1 moves everything but delta, M2 moves delta alone (section 4.1). As q(w|x,y) is given y, that w tells y is no
finding; that z does not, is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from ccvae_eval.core.types import Gaussian, Images, Labels, Points
from ccvae_eval.model.interface import Batch, LatentLayout, ModelContext, Objective
from ccvae_models.autoencoder import Autoencoder, kl_standard, noise_like
from ccvae_models.class_priors import ClassPriors, blocks_in_order
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
from ccvae_models.networks import JoinedHeads, Network, NetworkName, encoder_trunk, initialise, positive, uninitialised

MODEL, ADVERSARY = "model", "adversary"


@dataclass(frozen=True, slots=True)
class CSVAESettings:
    """Settings of CSVAE.

    Args:
        style: columns of z.
        block: columns of w for each label.
        adversary: off leaves out the adversary and its term of M1 (the report's "without delta net").
        confusion: how the encoder hides y: "entropy" is M1's term; "prior" has E_p(y)[log q_delta(y|z)] in its place,
            which is greatest at the same point, q_delta(y|z) = p(y), and whose gradient does not vanish where the
            adversary is sure.
        beta1: weight of the reconstruction. Published: 20 for points, 1e4 for images (there of a mean over pixels).
        beta2: of the KL of w (1; 1e-3).
        beta3: of the KL of z (.2; .1).
        beta4: of the adversary's negative entropy (10; 10).
        beta5: of the adversary's own objective (1; 1).
        prior_mean: how far from 0 the means of p(w|y) start.
        adversary_width: units in each of the adversary's two layers.
        likelihood: p(x|w,z).
        likelihood_scale: its scale.
        network: convolutions or perceptron; auto goes by the shape of the input.
        hidden: width of the perceptron.
    """

    style: int = 27
    block: int = 2
    adversary: bool = True
    confusion: Literal["entropy", "prior"] = "entropy"
    beta1: float = 1.0
    beta2: float = 1.0
    beta3: float = 0.2
    beta4: float = 10.0
    beta5: float = 1.0
    prior_mean: float = 1.5
    adversary_width: int = 64
    likelihood: LikelihoodName = "auto"
    likelihood_scale: float = 1.0
    network: NetworkName = "auto"
    hidden: int = 64


class CSVAE(Autoencoder[CSVAESettings]):
    """A code is (w, z): a block of w for each label, then z. See the module's text for the model.

    q(z|x) and q(w|x,y) share the trunk that sees x. Only rows whose labels are all known are learnt from: the model
    has no q(y|x), and where a label is missing at encoding its place is taken by p(y).
    """

    needs_all_labels: ClassVar[bool] = True
    Settings: ClassVar[type[Any]] = CSVAESettings

    def __init__(self, settings: CSVAESettings, context: ModelContext, generator: Generator) -> None:
        require_classes(context, "csvae")
        least = {"style": 1, "block": 1, "adversary_width": 1, **{f"beta{i}": 0 for i in range(1, 6)}}
        require_least(settings, "csvae", least)
        blocks = blocks_in_order(context.labels, dict.fromkeys(context.labels.names, settings.block))
        super().__init__(settings, context, LatentLayout(len(blocks) * settings.block + settings.style, blocks))
        self.priors = ClassPriors(context.labels, blocks, settings.prior_mean)
        self.adversary = Classifier(settings.style, context.labels, settings.adversary_width)
        initialise(self, generator)

    def _encoder(self) -> nn.Module:
        return SubspaceEncoder(self.context, self.layout, self.network)

    @property
    def given(self) -> tuple[str, ...]:
        """Every label: q(w|x,y) sees them all."""
        return self.labels.names

    def encode(self, images: Images | Points, labels: Labels | None = None) -> Gaussian:
        """q(w|x,y) q(z|x), section 4.1; a missing label enters as p(y)."""
        known = labels if labels is not None else images.new_full((len(images), len(self.labels)), math.nan)
        posterior: Gaussian = self.encoder(images, known)
        return posterior

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """p(w|y); NaN where the label is missing."""
        return self.priors.conditional(labels)

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        """M1 for everything but the adversary, then M2 for the adversary, divided by the rows of the batch."""
        whole = observed_rows(batch.labels)
        x, y = batch.images[whole], batch.labels[whole]
        q = self.encode(x, y)
        codes = q.at(noise_like(q, generator))
        z = list(self.layout.style)
        terms = {
            "reconstruction": self.log_likelihood(x, codes),
            "kl_w": self.priors.kl(q, y).sum(1),
            "kl_style": kl_standard(q.columns(z)).sum(1),
            "log_p_y": of_labels(self.encoder.columns.log_prior.expand(len(y), -1, -1), y).sum(1),
        }
        b = self.settings
        loss = -b.beta1 * terms["reconstruction"] + b.beta2 * terms["kl_w"] + b.beta3 * terms["kl_style"]
        if b.adversary:
            terms["confusion"] = self._confusion(self.adversary(codes[:, z]))
            loss = loss - b.beta4 * terms["confusion"]
        loss = loss - terms["log_p_y"]
        means = {f"supervised.{name}": mean_of_rows(values) for name, values in terms.items()}
        rows = {"supervised.rows": len(x)}
        yield Objective(MODEL, loss.sum() / len(batch), {**rows, **means}, self._all_but_adversary())
        if b.adversary:
            told = of_labels(self.adversary(codes[:, z].detach()), y).sum(1)
            own = {"supervised.rows": len(x), "supervised.log_q_y_z": mean_of_rows(told)}
            yield Objective(ADVERSARY, -b.beta5 * told.sum() / len(batch), own, tuple(self.adversary.parameters()))

    def _confusion(self, told: Tensor) -> Tensor:
        """What the encoder raises, from log q_delta(y|z) of shape (N, L, K)."""
        if self.settings.confusion == "entropy":
            return entropy(told).sum(1)
        prior: Tensor = self.encoder.columns.log_prior.exp()
        return (prior * told).sum((1, 2))

    def _all_but_adversary(self) -> tuple[nn.Parameter, ...]:
        return tuple(p for name, p in self.named_parameters() if not name.startswith("adversary."))


class SubspaceEncoder(nn.Module):
    """q(w|x,y) and q(z|x) on one trunk.

    Args:
        context: labels and shape of x.
        layout: w, then z.
        network: of the trunk.
    """

    def __init__(self, context: ModelContext, layout: LatentLayout, network: Network) -> None:
        super().__init__()
        self.columns = LabelColumns(context)
        self.trunk, features = encoder_trunk(context.input_shape, network)
        self.loc = uninitialised(nn.Linear, features, len(layout.style))
        self.scale = uninitialised(nn.Linear, features, len(layout.style))
        self.w = JoinedHeads(features, self.columns.count, len(layout.characteristic_columns))

    def forward(self, x: Images | Points, labels: Labels) -> Gaussian:
        features = self.trunk(x)
        w = self.w(features, self.columns.known(labels, self.columns.prior(len(labels))))
        return Gaussian(
            torch.cat([w.loc, self.loc(features)], 1), torch.cat([w.scale, positive(self.scale(features))], 1)
        )
