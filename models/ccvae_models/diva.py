r"""DIVA: domain invariant variational autoencoders (Ilse, Tomczak, Louizos and Welling, 2019), and without domains.

Generative model: p(z_x) prod_i p(z^i|y^i) p(x|z), a block z^i for each label, the domain d being one of them (its
block is the paper's z_d), p(z_x) = N(0, I). Inference: q(z|x), diagonal, and a classifier q(y^i|z^i) on each block.

.. math::
    L_s &= E[\log p(x|z)] - \beta KL(q(z_x|x) \| p(z_x)) - \beta \sum_i KL(q(z^i|x) \| p(z^i|y^i)) + \log p(y) \\
    L_u &= E[\log p(x|z)] - \beta KL(q(z_x|x) \| p(z_x))
           + \sum_i E_{q(z^i|x)} \sum_y q(y|z^i) \{ \beta [\log p(z^i|y) - \log q(z^i|x)]
           + \log p(y) - \log q(y|z^i) \}

Maximised is, over images with and without labels, L_s + L_u + a_y E[log q(y|z_y)] + a_d E[log q(d|z_d)] (Eqs. 1 to 5).
Each label of a row is taken by itself: the bracket of L_s where it is seen, that of L_u where it is missing.

The adapted form (Joy et al. 2021; the students' table) has no domain and a block for each of many labels. In the
students' printed form the classifier's term stands on the unlabelled sum, where there is no y: they impute it from
q(y|z), which makes it minus an entropy, and the classifier sees no label but through p(z^i|y^i).
``auxiliary="unsupervised"`` is that form; expect it to fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Points
from ccvae_eval.model.interface import Batch, LatentLayout, ModelContext, Objective
from ccvae_models.autoencoder import Autoencoder, kl_standard, noise_like
from ccvae_models.class_priors import BlockClassifier, ClassPriors, blocks_in_order
from ccvae_models.kl_schedule import KLSchedule
from ccvae_models.labels import LabelColumns, entropy, mean_of_rows, of_labels, require_classes, require_least
from ccvae_models.likelihood import LikelihoodName
from ccvae_models.networks import Encoder, Network, NetworkName, initialise


@dataclass(frozen=True, slots=True)
class DIVASettings:
    """Settings of DIVA. The paper's: 64 columns for each of z_x, z_y and z_d, a_y 3500, a_d 2000, beta 1.

    Args:
        domain: the label that is the domain; "" = there is none.
        style: columns of z_x.
        block: columns of each label.
        class_block: columns of each label with K > 2 classes; 0 = as many as ``block``.
        encoders: "separate" has a network for each of q(z_x|x), q(z_d|x) and q(z_y|x), "shared" one trunk for all.
        auxiliary: where a_y stands: on the labels seen, or on q(y|z) where there is none (see the module's text).
        alpha_y, alpha_d: a_y and a_d.
        beta: weight of the KLs.
        warm_up: steps over which it rises from 0 (the paper: 100 epochs).
        prior_mean: how far from 0 the means of p(z^i|y^i) start.
        likelihood: p(x|z).
        likelihood_scale: its scale.
        network: convolutions or perceptron; auto goes by the shape of the input.
        hidden: width of the perceptron.
    """

    domain: str = "domain"
    style: int = 64
    block: int = 64
    class_block: int = 0
    encoders: Literal["separate", "shared"] = "separate"
    auxiliary: Literal["supervised", "unsupervised"] = "supervised"
    alpha_y: float = 3500.0
    alpha_d: float = 2000.0
    beta: float = 1.0
    warm_up: int = 0
    prior_mean: float = 2.0
    likelihood: LikelihoodName = "auto"
    likelihood_scale: float = 1.0
    network: NetworkName = "auto"
    hidden: int = 64


@dataclass(frozen=True, slots=True)
class AdaptedDIVASettings(DIVASettings):
    """Settings of DIVA without domains: one column for each label (two for more classes), one trunk, and a weight a_y
    near that of ccvae and m2 at 64 pixels: the paper's 3500 is for one digit beside 784 pixels of 256 levels."""

    domain: str = ""
    style: int = 27
    block: int = 1
    class_block: int = 2
    encoders: Literal["separate", "shared"] = "shared"
    alpha_y: float = 250.0


@dataclass(frozen=True, slots=True)
class DIVABound:
    """The parts of the bound, of shape (N,) or (N, L).

    Args:
        reconstruction: log p(x|z) at one sample, (N,).
        kl_style: KL(q(z_x|x) || N(0, I)), (N,).
        kl_labelled: KL(q(z^i|x) || p(z^i|y^i)), (N, L); 0 where the label is missing.
        log_p_y: log p(y), (N, L); 0 where it is missing.
        bracket: of L_u, (N, L); 0 where the label is seen.
        log_q_y_z: of the labels seen, (N, L); 0 where it is missing.
        entropy: of q(y|z), (N, L); 0 where the label is seen.
    """

    reconstruction: Tensor
    kl_style: Tensor
    kl_labelled: Tensor
    log_p_y: Tensor
    bracket: Tensor
    log_q_y_z: Tensor
    entropy: Tensor

    def value(self, beta: float) -> Tensor:
        labels = self.log_p_y - beta * self.kl_labelled + self.bracket
        return self.reconstruction - beta * self.kl_style + labels.sum(1)


class DIVA(Autoencoder[DIVASettings]):
    """A block of columns for each label, the domain among them, and z_x as style."""

    Settings: ClassVar[type[Any]] = DIVASettings

    weight: Tensor

    def __init__(self, settings: DIVASettings, context: ModelContext, generator: Generator) -> None:
        name = "adapted-diva" if isinstance(settings, AdaptedDIVASettings) else "diva"
        require_classes(context, name)
        least = {"style": 1, "block": 1, "class_block": 0, "alpha_y": 0, "alpha_d": 0, "beta": 0, "warm_up": 0}
        require_least(settings, name, least)
        _refuse_domain(settings, context, name)
        wide = settings.class_block or settings.block
        widths = {label.name: settings.block if label.cardinality == 2 else wide for label in context.labels}
        blocks = blocks_in_order(context.labels, widths)
        super().__init__(settings, context, LatentLayout(sum(widths.values()) + settings.style, blocks))
        self.columns = LabelColumns(context)
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
        y = [column for column in layout.characteristic_columns if column not in domain]
        parts = [part for part in (y, list(domain), list(layout.style)) if part]
        return SeparateEncoders(self.context.input_shape, parts, self.network)

    def predict(self, images: Images | Points, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        """log q(y|z_y) of each label at the given codes, shape (N, K)."""
        del images
        told = self.classifier(self.priors.of(codes))
        return {label.name: told[:, row, : label.cardinality] for row, label in enumerate(self.labels)}

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """p(z_y|y) (and p(z_d|d)) over the labels' columns; NaN where the label is missing."""
        return self.priors.conditional(labels)

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        """The negative of L_s, L_u and the auxiliary terms, divided by the rows of the batch."""
        beta = self.settings.beta * self.warm_up.next()
        bound = self.parts(batch.images, batch.labels, beta, generator)
        supervised = self.settings.auxiliary == "supervised"
        auxiliary = (self.weight * (bound.log_q_y_z if supervised else -bound.entropy)).sum(1)
        value = bound.value(beta)
        yield Objective(
            "model", -(value + auxiliary).mean(), _terms(bound, batch.labels, value), tuple(self.parameters())
        )

    def bound(self, images: Images | Points, labels: Labels, generator: Generator) -> Tensor:
        """L_s, or L_u where labels are missing, of each row with a beta of 1, without auxiliary terms, shape (N,)."""
        return self.parts(images, labels, 1.0, generator).value(1.0)

    def parts(self, x: Images | Points, y: Labels, beta: float, generator: Generator) -> DIVABound:
        """One sample of z; y is summed out, the KLs between Gaussians are exact."""
        q = self.encode(x)
        z = q.at(noise_like(q, generator))
        own, missing = self.priors.of(z), y.isnan()
        told = self.classifier(own)  # (N, L, K)
        surprise = -Gaussian(self.priors.of(q.loc), self._scales(q)).log_prob(own).masked_fill(~self.priors.own, 0.0)
        inside = beta * (self.priors.log_prob(z) + surprise.sum(-1, keepdim=True))
        bracket = (told.exp() * (inside + self.columns.log_prior - told)).sum(-1)
        return DIVABound(
            self.log_likelihood(x, z),
            kl_standard(q.columns(self.layout.style)).sum(1),
            self.priors.kl(q, y),
            of_labels(self.columns.log_prior.expand_as(told), y),
            bracket.masked_fill(~missing, 0.0),
            of_labels(told, y),
            entropy(told).masked_fill(~missing, 0.0),
        )

    def _scales(self, q: Gaussian) -> Tensor:
        """The labels' deviations, (N, L, d); 1 beyond a block's width."""
        return torch.where(self.priors.own, self.priors.of(q.scale), 1.0)


class AdaptedDIVA(DIVA):
    """DIVA without domains: z_y split by label. See the module's text for its two forms."""

    Settings: ClassVar[type[Any]] = AdaptedDIVASettings


class SeparateEncoders(nn.Module):
    """q(z|x) from a network for each of several sets of columns.

    Args:
        input_shape: of x.
        parts: the columns of each network.
        network: of each of them.
    """

    order: Tensor

    def __init__(self, input_shape: tuple[int, ...], parts: list[list[int]], network: Network) -> None:
        super().__init__()
        self.parts = nn.ModuleList(Encoder(input_shape, len(part), network) for part in parts)
        flat = [column for part in parts for column in part]
        self.register_buffer("order", torch.tensor([flat.index(c) for c in range(len(flat))]), persistent=False)

    def forward(self, x: Images | Points) -> Gaussian:
        found = [part(x) for part in self.parts]
        loc, scale = torch.cat([q.loc for q in found], 1), torch.cat([q.scale for q in found], 1)
        return Gaussian(loc[:, self.order], scale[:, self.order])


def _refuse_domain(settings: DIVASettings, context: ModelContext, name: str) -> None:
    names = context.labels.names
    if settings.domain and settings.domain not in names:
        raise UsageError(
            f"the labels have no domain {settings.domain!r}",
            where=f"{name}: domain",
            hint=f"Say which label it is (--set domain=NAME; there are {', '.join(names)}), or train adapted-diva.",
        )
    if settings.domain and len(names) == 1:
        raise UsageError("there is no label besides the domain", where=f"{name}: domain")
    if settings.auxiliary == "unsupervised" and settings.domain:
        raise UsageError(
            "auxiliary 'unsupervised' is a form without domains", where=f"{name}: auxiliary", hint="Train adapted-diva."
        )


def _terms(bound: DIVABound, y: Labels, value: Tensor) -> dict[str, float]:
    """The parts as means over the rows with and without labels; NaN where there is no such row."""
    labelled = ~y.isnan().all(1)
    own = {"supervised": ("kl_labelled", "log_p_y", "log_q_y_z"), "unsupervised": ("bracket", "entropy")}
    terms: dict[str, float] = {}
    for kind, rows in (("supervised", labelled), ("unsupervised", ~labelled)):
        terms[f"{kind}.rows"] = int(rows.sum())
        terms[f"{kind}.value"] = mean_of_rows(value[rows])
        for part in ("reconstruction", "kl_style", *own[kind]):
            each = getattr(bound, part)
            terms[f"{kind}.{part}"] = mean_of_rows((each if each.ndim == 1 else each.sum(1))[rows])
    return terms
