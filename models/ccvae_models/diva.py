r"""DIVA: domain invariant variational autoencoders (Ilse, Tomczak, Louizos and Welling, 2019), with or without domains.

Generative model: p(z_x) prod_i p(z^i|y^i) p(x|z) with p(z_x) = N(0, I) and one block z^i per label. The domain d is one
of the labels; its block is the paper's z_d. Inference model: q(z|x), diagonal, and a classifier q(y^i|z^i) per block.

.. math::
    L_s &= E[\log p(x|z)] - \beta KL(q(z_x|x) \| p(z_x)) - \beta \sum_i KL(q(z^i|x) \| p(z^i|y^i)) + \log p(y) \\
    L_u &= E[\log p(x|z)] - \beta KL(q(z_x|x) \| p(z_x))
           + \sum_i E_{q(z^i|x)} \sum_y q(y|z^i) \{ \beta [\log p(z^i|y) - \log q(z^i|x)]
           + \log p(y) - \log q(y|z^i) \}

The objective, L_s + L_u + a_y E[log q(y|z_y)] + a_d E[log q(d|z_d)], is maximised over labelled and unlabelled images
(Eqs. 1 to 5). Each label of an image is treated separately: the bracket of L_s if it is observed, that of L_u if not.

Adapted DIVA (Joy et al. 2021; Pilchen, Barbeteguy and Cahill) has no domain and one block for each of many labels. The
latter print the classifier's term on the unlabelled images, where y is imputed from q(y|z): a negative entropy, with
which the classifier learns about the labels only through p(z^i|y^i). Expect this form (``auxiliary="unsupervised"``) to
fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.typed import Range
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Points
from ccvae_eval.model.interface import Batch, LatentLayout, ModelContext, Objective
from ccvae_models.autoencoder import Autoencoder, NetworkSettings, Weight, Width, kl_standard, noise_like
from ccvae_models.characteristics import BlockClassifier, ClassPriors, consecutive_blocks
from ccvae_models.kl_schedule import KLSchedule
from ccvae_models.labels import (
    LabelEncoding,
    entropy,
    log_q_by_name,
    means_by_supervision,
    observed_log_prob,
    require_discrete_labels,
)
from ccvae_models.networks import Encoder, NetworkSpec, concatenated, initialise


@dataclass(frozen=True, slots=True)
class DIVASettings(NetworkSettings):
    """Settings of DIVA. The paper uses 64 latent dimensions for each of z_x, z_y and z_d, a_y 3500, a_d 2000, beta 1.

    Args:
        domain: name of the label that is the domain; "" = none.
        style: latent dimensions of z_x.
        block: latent dimensions per label.
        class_block: latent dimensions per label with K > 2 classes; 0 = same as ``block``.
        encoders: "separate" = one network each for q(z_x|x), q(z_d|x) and q(z_y|x); "shared" = one trunk for all.
        auxiliary: "supervised" = a_y weighs log q(y|z) of observed labels; "unsupervised" = a_y weighs the negative
            entropy of q(y|z) of missing labels, as Pilchen et al. print it.
        alpha_y, alpha_d: the weights a_y and a_d.
        beta: weight of the KLs.
        warm_up: training steps over which beta rises from 0 (in the paper: 100 epochs).
        prior_mean: initial distance of the means of p(z^i|y^i) from 0.
    """

    domain: str = "domain"
    style: Width = 64
    block: Width = 64
    class_block: Annotated[int, Range(least=0)] = 0
    encoders: Literal["separate", "shared"] = "separate"
    auxiliary: Literal["supervised", "unsupervised"] = "supervised"
    alpha_y: Weight = 3500.0
    alpha_d: Weight = 2000.0
    beta: Weight = 1.0
    warm_up: Annotated[int, Range(least=0)] = 0
    prior_mean: float = 2.0


@dataclass(frozen=True, slots=True)
class AdaptedDIVASettings(DIVASettings):
    """Settings of adapted DIVA: no domain, one latent dimension per label (two for K > 2 classes), and one trunk.

    alpha_y is close to the weights of ccvae and m2 at 64 pixels; the paper's 3500 is for one digit label and 784 pixels
    with 256 levels.
    """

    domain: str = ""
    style: Width = 27
    block: Width = 1
    class_block: Annotated[int, Range(least=0)] = 2
    encoders: Literal["separate", "shared"] = "shared"
    alpha_y: Weight = 250.0


@dataclass(frozen=True, slots=True)
class DIVABound:
    """Terms of the bound, of shape (N,) or (N, L).

    Args:
        reconstruction: log p(x|z) at one sample, (N,).
        kl_style: KL(q(z_x|x) || N(0, I)), (N,).
        kl_labelled: KL(q(z^i|x) || p(z^i|y^i)), (N, L); 0 where the label is missing.
        log_p_y: log p(y), (N, L); 0 where the label is missing.
        bracket: bracket of L_u, (N, L); 0 where the label is observed.
        log_q_y_z: log q(y|z), (N, L); 0 where the label is missing.
        entropy: entropy of q(y|z), (N, L); 0 where the label is observed.
        beta: weight of the KLs.
    """

    reconstruction: Tensor
    kl_style: Tensor
    kl_labelled: Tensor
    log_p_y: Tensor
    bracket: Tensor
    log_q_y_z: Tensor
    entropy: Tensor
    beta: float

    @property
    def value(self) -> Tensor:
        labels = self.log_p_y - self.beta * self.kl_labelled + self.bracket
        return self.reconstruction - self.beta * self.kl_style + labels.sum(1)


class DIVA(Autoencoder[DIVASettings]):
    """DIVA (Ilse et al. 2019): z = (z_y, z_d, z_x), one block per label (the domain included), and style z_x."""

    Settings: ClassVar[type[Any]] = DIVASettings

    weight: Tensor

    def __init__(self, settings: DIVASettings, context: ModelContext, generator: Generator) -> None:
        name = "adapted-diva" if isinstance(settings, AdaptedDIVASettings) else "diva"
        require_discrete_labels(context, name)
        _validate_domain(settings, context, name)
        class_block = settings.class_block or settings.block
        widths = {label.name: settings.block if label.cardinality == 2 else class_block for label in context.labels}
        blocks = consecutive_blocks(context.labels, widths)
        super().__init__(settings, context, LatentLayout(sum(widths.values()) + settings.style, blocks))
        self.columns = LabelEncoding(context)
        self.priors = ClassPriors(context.labels, blocks, settings.prior_mean)
        self.classifier = BlockClassifier(context.labels, blocks)
        alpha = [settings.alpha_d if n == settings.domain else settings.alpha_y for n in context.labels.names]
        self.register_buffer("weight", torch.tensor(alpha), persistent=False)
        self.warm_up = KLSchedule(settings.warm_up)
        initialise(self, generator)

    def _encoder(self) -> nn.Module:
        layout, settings = self.layout, self.settings
        if settings.encoders == "shared":
            return Encoder(self.context.input_shape, layout.dim, self.network)
        domain = layout.characteristics.get(settings.domain, ())
        y = [dimension for dimension in layout.characteristic_columns if dimension not in domain]
        parts = [part for part in (y, list(domain), list(layout.style)) if part]
        return SeparateEncoders(self.context.input_shape, parts, self.network)

    def predict(self, images: Images | Points, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        """log q(y|z_y) of each label, shape (N, K) each."""
        del images
        return log_q_by_name(self.classifier(self.priors.select(codes)), self.labels)

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """p(z_y|y) (and p(z_d|d)) over the labels' latent dimensions; NaN where the label is missing."""
        return self.priors.conditional(labels)

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        """-(L_s + L_u + auxiliary terms), divided by the number of images in the batch."""
        beta = self.settings.beta * self.warm_up.next()
        bound = self.bound_terms(batch.images, batch.labels, beta, generator)
        supervised = self.settings.auxiliary == "supervised"
        auxiliary = (self.weight * (bound.log_q_y_z if supervised else -bound.entropy)).sum(1)
        common, observed = ("value", "reconstruction", "kl_style"), ("kl_labelled", "log_p_y", "log_q_y_z")
        terms = means_by_supervision(batch.labels, bound, common, observed, ("bracket", "entropy"))
        yield Objective("model", -(bound.value + auxiliary).mean(), terms, tuple(self.parameters()))

    def bound(self, images: Images | Points, labels: Labels, generator: Generator) -> Tensor:
        """L_s, or L_u where labels are missing, with beta = 1 and without auxiliary terms, shape (N,)."""
        return self.bound_terms(images, labels, 1.0, generator).value

    def bound_terms(self, x: Images | Points, y: Labels, beta: float, generator: Generator) -> DIVABound:
        """Terms with one sample of z; y is summed out, and KLs between Gaussians are in closed form."""
        q = self.encode(x)
        z = q.at(noise_like(q, generator))
        z_y, missing = self.priors.select(z), y.isnan()
        log_q = self.classifier(z_y)  # (N, L, K)
        log_q_z = self.priors.posterior(q).log_prob(z_y).masked_fill(~self.priors.own, 0.0).sum(-1, keepdim=True)
        inside = beta * (self.priors.log_prob(z) - log_q_z)
        bracket = (log_q.exp() * (inside + self.columns.log_prior - log_q)).sum(-1)
        return DIVABound(
            self.log_likelihood(x, z),
            kl_standard(q.columns(self.layout.style)).sum(1),
            self.priors.kl(q, y),
            observed_log_prob(self.columns.log_prior.expand_as(log_q), y),
            bracket.masked_fill(~missing, 0.0),
            observed_log_prob(log_q, y),
            entropy(log_q).masked_fill(~missing, 0.0),
            beta,
        )


class AdaptedDIVA(DIVA):
    """DIVA without domains (Joy et al. 2021): z = (z_y, z_x), with z_y split by label."""

    Settings: ClassVar[type[Any]] = AdaptedDIVASettings


class SeparateEncoders(nn.Module):
    """q(z|x) with a separate network for each part of z.

    Args:
        input_shape: shape of x.
        parts: latent dimensions of each network.
        network: type and width of each network.
    """

    def __init__(self, input_shape: tuple[int, ...], parts: list[list[int]], network: NetworkSpec) -> None:
        super().__init__()
        self.parts = nn.ModuleList(Encoder(input_shape, len(part), network) for part in parts)
        flat = [dimension for part in parts for dimension in part]
        self.order = [flat.index(dimension) for dimension in range(len(flat))]

    def forward(self, x: Images | Points) -> Gaussian:
        return concatenated([part(x) for part in self.parts]).columns(self.order)


def _validate_domain(settings: DIVASettings, context: ModelContext, name: str) -> None:
    names = context.labels.names
    if settings.domain and settings.domain not in names:
        raise UsageError(
            f"the data have no label {settings.domain!r}",
            where=f"{name}: domain",
            hint=f"Name the domain label (--set domain=NAME, one of {', '.join(names)}), or train adapted-diva.",
        )
    if settings.domain and len(names) == 1:
        raise UsageError("at least one label besides the domain is needed", where=f"{name}: domain")
    if settings.auxiliary == "unsupervised" and settings.domain:
        raise UsageError(
            "'unsupervised' works only without a domain", where=f"{name}: auxiliary", hint="Train adapted-diva."
        )
