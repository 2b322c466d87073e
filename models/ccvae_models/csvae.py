r"""CSVAE: latent subspaces (Klys, Snell and Zemel, NeurIPS 2018).

Generative model: p(y) p(w|y) p(z) p(x|w,z) with p(z) = N(0, I). p(w|y) has one Gaussian per class of each label over
that label's own block of w. Inference model: q(w|x,y) and q(z|x), diagonal Gaussians. An adversary q_delta(y|z) is
trained to predict y from z, and the encoder to prevent it. Both objectives are minimised:

.. math::
    M_1 &= \beta_1 E[-\log p(x|w,z)] + \beta_2 KL(q(w|x,y) \| p(w|y)) + \beta_3 KL(q(z|x) \| p(z))
           + \beta_4 E_{q(z|x)}\Big[\sum_y q_\delta(y|z) \log q_\delta(y|z)\Big] - \log p(y) \\
    M_2 &= -\beta_5 E_{q(z|x)}[\log q_\delta(y|z)]

M1 updates everything but delta, M2 updates delta only (section 4.1). q(w|x,y) is given y, so it is trivial that w
contains y; the question is how little information about y remains in z.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Generator, Tensor, nn

from ccvae_eval.core.types import Gaussian, Images, Labels, Points
from ccvae_eval.model.interface import Batch, LatentLayout, ModelContext, Objective
from ccvae_models.autoencoder import Autoencoder, NetworkSettings, Weight, Width, kl_standard, noise_like
from ccvae_models.characteristics import ClassPriors, consecutive_blocks
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
    JoinedHeads,
    NetworkSpec,
    concatenated,
    encoder_trunk,
    initialise,
    positive,
    uninitialised,
)


@dataclass(frozen=True, slots=True)
class CSVAESettings(NetworkSettings):
    """Settings of CSVAE.

    Args:
        style: latent dimensions of z.
        block: latent dimensions of w per label.
        adversary: off = without the adversary and its term of M1 ("without delta net" in Lyzhov et al.).
        confusion: the encoder's objective against the adversary: "entropy" = the term of M1; "prior" =
            E_p(y)[log q_delta(y|z)], which is also maximal at q_delta(y|z) = p(y), but whose gradient does not vanish
            where the adversary is certain.
        beta1: weight of the reconstruction (published: 20 for points; 1e4 for images, with a mean over pixels).
        beta2: weight of the KL of w (published: 1 for points, 1e-3 for images).
        beta3: weight of the KL of z (published: 0.2 for points, 0.1 for images).
        beta4: weight of the adversary's negative entropy (published: 10).
        beta5: weight of the adversary's own objective (published: 1).
        prior_mean: initial distance of the means of p(w|y) from 0.
        adversary_width: width of the adversary's two hidden layers.
    """

    style: Width = 27
    block: Width = 2
    adversary: bool = True
    confusion: Literal["entropy", "prior"] = "entropy"
    beta1: Weight = 1.0
    beta2: Weight = 1.0
    beta3: Weight = 0.2
    beta4: Weight = 10.0
    beta5: Weight = 1.0
    prior_mean: float = 1.5
    adversary_width: Width = 64


class CSVAE(Autoencoder[CSVAESettings]):
    """CSVAE (Klys et al., NeurIPS 2018): a code is (w, z), w has one block per label, an adversary removes y from z.

    q(z|x) and q(w|x,y) share the trunk that sees x. The model has no q(y|x): only fully labelled images are used for
    training, and at encoding p(y) replaces a missing label.
    """

    needs_all_labels: ClassVar[bool] = True
    Settings: ClassVar[type[Any]] = CSVAESettings

    def __init__(self, settings: CSVAESettings, context: ModelContext, generator: Generator) -> None:
        require_discrete_labels(context, "csvae")
        blocks = consecutive_blocks(context.labels, dict.fromkeys(context.labels.names, settings.block))
        super().__init__(settings, context, LatentLayout(len(blocks) * settings.block + settings.style, blocks))
        self.priors = ClassPriors(context.labels, blocks, settings.prior_mean)
        self.adversary = LabelClassifier(settings.style, context.labels, settings.adversary_width)
        initialise(self, generator)

    def _encoder(self) -> nn.Module:
        return SubspaceEncoder(self.context, self.layout, self.network)

    @property
    def given(self) -> tuple[str, ...]:
        """All labels: q(w|x,y) is given all of them."""
        return self.labels.names

    def encode(self, images: Images | Points, labels: Labels | None = None) -> Gaussian:
        """q(w|x,y) q(z|x) (section 4.1); p(y) replaces a missing label."""
        y = labels if labels is not None else images.new_full((len(images), len(self.labels)), math.nan)
        posterior: Gaussian = self.encoder(images, y)
        return posterior

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """p(w|y); NaN where the label is missing."""
        return self.priors.conditional(labels)

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        """M1 for everything but the adversary, then M2 for the adversary; both divided by the images in the batch."""
        complete = fully_labelled(batch.labels)
        x, y = batch.images[complete], batch.labels[complete]
        q = self.encode(x, y)
        codes = q.at(noise_like(q, generator))
        z = list(self.layout.style)
        terms = {
            "reconstruction": self.log_likelihood(x, codes),
            "kl_w": self.priors.kl(q, y).sum(1),
            "kl_style": kl_standard(q.columns(z)).sum(1),
            "log_p_y": observed_log_prob(self.encoder.columns.log_prior.expand(len(y), -1, -1), y).sum(1),
        }
        b = self.settings
        loss = -b.beta1 * terms["reconstruction"] + b.beta2 * terms["kl_w"] + b.beta3 * terms["kl_style"]
        if b.adversary:
            terms["confusion"] = self._confusion(self.adversary(codes[:, z]))
            loss = loss - b.beta4 * terms["confusion"]
        loss = loss - terms["log_p_y"]
        means = means_of_rows("supervised", len(x), terms)
        without_adversary = tuple(p for name, p in self.named_parameters() if not name.startswith("adversary."))
        yield Objective("model", loss.sum() / len(batch), means, without_adversary)
        if b.adversary:
            log_q = observed_log_prob(self.adversary(codes[:, z].detach()), y).sum(1)
            means = means_of_rows("supervised", len(x), {"log_q_y_z": log_q})
            yield Objective("adversary", -b.beta5 * log_q.sum() / len(batch), means, tuple(self.adversary.parameters()))

    def _confusion(self, log_q: Tensor) -> Tensor:
        """The encoder's objective against the adversary, from log q_delta(y|z) of shape (N, L, K)."""
        if self.settings.confusion == "entropy":
            return entropy(log_q).sum(1)
        prior: Tensor = self.encoder.columns.log_prior.exp()
        return (prior * log_q).sum((1, 2))


class SubspaceEncoder(nn.Module):
    """q(w|x,y) and q(z|x) with a shared trunk.

    Args:
        context: labels and shape of x.
        layout: latent dimensions of w, then z.
        network: type and width of the trunk.
    """

    def __init__(self, context: ModelContext, layout: LatentLayout, network: NetworkSpec) -> None:
        super().__init__()
        self.columns = LabelEncoding(context)
        self.trunk, features = encoder_trunk(context.input_shape, network)
        self.loc = uninitialised(nn.Linear, features, len(layout.style))
        self.scale = uninitialised(nn.Linear, features, len(layout.style))
        self.w = JoinedHeads(features, self.columns.count, len(layout.characteristic_columns))

    def forward(self, x: Images | Points, labels: Labels) -> Gaussian:
        features = self.trunk(x)
        w = self.w(features, self.columns.encode(labels, self.columns.prior(len(labels))))
        return concatenated([w, Gaussian(self.loc(features), positive(self.scale(features)))])
