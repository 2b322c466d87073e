r"""CCVAE: characteristic capturing VAE (Joy, Schmon, Torr, Siddharth and Rainforth, ICLR 2021).

Generative model: p(y) p(z_c|y) p(z_s) p(x|z), where z = (z_c, z_s), p(z_s) = N(0, I), and z_c has one block per label.
Inference model: q(z|x), a diagonal Gaussian, and q(y|z_c). Both p(z_c|y) and q(y|z_c) factorise over the labels.

.. math::
    L(x,y) &= E_{q(z|x)}\Big[\frac{q(y|z_c)}{q(y|x)} \log\frac{p(x|z) p(z|y)}{q(y|z_c) q(z|x)}\Big]
              + \log q(y|x) + \log p(y), \qquad q(y|x) = E_{q(z|x)}[q(y|z_c)]  \quad\text{(Eq. 4)} \\
    U(x)   &= E_{q(z|x) q(y|z_c)}\Big[\log\frac{p(x|z) p(z|y) p(y)}{q(y|z_c) q(z|x)}\Big]  \quad\text{(Eq. 5)}

The objective is their sum over labelled and unlabelled images, plus a weighted log q(y|x) on the labelled ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from torch import Generator, Tensor

from ccvae_eval.core.typed import Range
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Points
from ccvae_eval.model.interface import Batch, LatentLayout, ModelContext, Objective
from ccvae_models.autoencoder import Autoencoder, NetworkSettings, Width, kl_diagonal, kl_standard, noise_like
from ccvae_models.characteristics import Characteristics, group_by_classes, label_blocks
from ccvae_models.label_posterior_sampling import label_conditioned_noise
from ccvae_models.labels import (
    entropy,
    expected,
    means_by_supervision,
    pick,
    require_discrete_labels,
    sample_classes,
)
from ccvae_models.networks import concatenated, initialise
from ccvae_models.quadrature import LabelConditionedMoments, QuadratureRule, condition_on_label


@dataclass(frozen=True, slots=True)
class CCVAESettings(NetworkSettings):
    """Settings of CCVAE.

    Args:
        style: latent dimensions that belong to no label (z_s).
        block: latent dimensions per binary label (with more than one, the model is MCCVAE).
        class_block: latent dimensions per label with K > 2 classes, at most K - 1. With two, the classes start on a
            circle and the quadrature stays exact; with more there is room for a simplex, integrated by quasi-random
            draws.
        estimator: "exact" = the bound, with the reconstruction sampled from q(z|x,y); "weighted" = the same bound, with
            samples of q(z|x) weighted by w (much noisier); "reference" = the objective of the authors' PyTorch code.
        alpha: weight of log q(y|x) on labelled images, per value of the input, because log p(x|z) grows with their
            number (at 3 x 64 x 64 pixels, 0.02 gives 246); 0 = the bound alone.
        prior_mean: initial distance of the means of p(z_c|y) from 0; 0 in the authors' PyTorch code, 2 in their Pyro
            code.
        blank: start q(z_c|x) the same for every image, so that z_c first learns the label (through the samples from
            q(z|x,y)) instead of style.
        points: nodes of the one-dimensional quadrature.
        draws: quasi-random draws, for labels with more than two latent dimensions.
        posterior_samples: samples behind q(y|x) in the reference estimator.
    """

    style: Annotated[int, Range(least=0)] = 27
    block: Width = 1
    class_block: Width = 2
    estimator: Literal["exact", "weighted", "reference"] = "exact"
    alpha: Annotated[float, Range(least=0, below=math.inf)] = 0.02
    prior_mean: float = 2.0
    blank: bool = True
    points: Annotated[int, Range(least=5)] = 129
    draws: Annotated[int, Range(least=2)] = 256
    posterior_samples: Width = 100


@dataclass(frozen=True, slots=True)
class CCVAEBound:
    """Terms of the bound, each of shape (N,); the bound is reconstruction - kl_style + characteristics.

    Args:
        reconstruction: E[w log p(x|z)], estimated with one sample.
        kl_style: KL(q(z_s|x) || N(0, I)).
        characteristics: sum of the labels' brackets (see :meth:`CCVAE.exact`).
        log_q_y_x: log q(y|x) of the observed labels.
        log_p_y: log p(y) of the observed labels.
        log_w: log w at the sample.
        entropy: entropy of q(y|x) over the missing labels.
        labelled: True if any label of the image is observed.
    """

    reconstruction: Tensor
    kl_style: Tensor
    characteristics: Tensor
    log_q_y_x: Tensor
    log_p_y: Tensor
    log_w: Tensor
    entropy: Tensor
    labelled: Tensor

    @property
    def value(self) -> Tensor:
        return self.reconstruction - self.kl_style + self.characteristics


class CCVAE(Autoencoder[CCVAESettings]):
    """CCVAE (Joy et al., ICLR 2021): z = (z_c, z_s), with one block of z_c per label and style z_s.

    The conditional prior p(z_c|y) ties each block to its label; q(y|z_c) predicts each label from its own block.
    """

    Settings: ClassVar[type[Any]] = CCVAESettings

    def __init__(self, settings: CCVAESettings, context: ModelContext, generator: Generator) -> None:
        require_discrete_labels(context, "ccvae")
        blocks = label_blocks(context.labels, settings.block, settings.class_block)
        dim = sum(map(len, blocks.values())) + settings.style
        super().__init__(settings, context, LatentLayout(dim, blocks))
        self.characteristics = group_by_classes(context, blocks, settings.prior_mean, settings.points, settings.draws)
        initialise(self, generator)
        if settings.blank:
            self.encoder.start_uninformative(self.layout.characteristic_columns, max(1.0, settings.prior_mean))

    @property
    def groups(self) -> list[Characteristics]:
        """The labels, grouped by their number of classes."""
        return [cast(Characteristics, group) for group in self.characteristics.values()]

    def predict(self, images: Images | Points, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        """log q(y|z_c) of each label, shape (N, K) each."""
        del images
        return self._by_name([group.log_q_y_z(codes) for group in self.groups])

    def label_posterior(self, images: Images | Points) -> Mapping[str, Tensor | Gaussian]:
        """log q(y|x) = log E_q(z|x)[q(y|z_c)] of each label, by quadrature with twice the points, shape (N, K) each."""
        q = self.encode(images)
        rules = [group.rule(None, refined=True) for group in self.groups]
        return self._by_name([moments.log_q_y_x for moments in self.condition_on_labels(q, rules)])

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """p(z_c|y) over all characteristics' latent dimensions; NaN where the label is missing."""
        dimensions = [dimension for group in self.groups for dimension in group.dimensions]
        prior = concatenated([group.conditional(labels) for group in self.groups])
        return prior.columns([dimensions.index(dimension) for dimension in self.layout.characteristic_columns])

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        r"""-(sum of L + alpha log q(y|x) over labelled images + sum of U over unlabelled ones), divided by all images.

        The bound alone does not make the encoder classify: samples of q(z|x,y) carry the label even if q(z|x) does not.
        The published code learns to classify through a detached gradient: the numerator of w sees z_c without gradient
        and the denominator q(y|x) with it, so w \log p(x|z) adds -\log p(x|z) (about 10,000 nats) times the gradient
        of \log q(y|x). ``alpha`` makes such a weight explicit, as in M2 (Kingma et al. 2014, Eq. 9). The "reference"
        estimator keeps its implicit weight instead.
        """
        if self.settings.estimator == "reference":
            bound, weight = self.reference(batch.images, batch.labels, generator), 0.0
        else:
            bound = self.exact(batch.images, batch.labels, generator)
            weight = self.settings.alpha * math.prod(self.context.input_shape)
        loss = -(bound.value + weight * bound.log_q_y_x).mean()
        yield Objective("model", loss, _terms(bound, batch.labels), tuple(self.parameters()))

    def bound(self, images: Images | Points, labels: Labels, generator: Generator) -> Tensor:
        """The bound without alpha: L where labels are observed, U where all are missing, shape (N,)."""
        return self.exact(images, labels, generator).value

    def exact(self, x: Images | Points, y: Labels, generator: Generator) -> CCVAEBound:
        r"""The bound, with every term but the reconstruction in closed form or by quadrature.

        w = q(y|z_c)/q(y|x) is a product of w_i with E w_i = 1, so a term of z^i alone needs w_i alone:

        .. math::
            L &= E_{q(z|x,y)}[\log p(x|z)] - KL(q(z_s|x) \| N(0,I))
                 + \sum_i \{ \log p(y^i) - KL(q(z^i|x,y^i) \| p(z^i|y^i)) \}, \quad q(z^i|x,y^i) = w_i q(z^i|x) \\
            U &= E[\log p(x|z)] - KL(q(z_s|x) \| N(0,I))
                 + \sum_i \sum_y q(y|x) \{ \log p(y) - KL(q(z^i|x,y) \| p(z^i|y)) - \log q(y|x) \}

        An image with some labels missing gets the bracket of L for the observed and the bracket of U for the missing
        ones. The reconstruction uses one sample with pathwise gradients (see ``label_posterior_sampling``). Weighted
        samples ("weighted", and labels with K > 2 in more than two dimensions) use E[w (log p(x|z) - b)] + b instead,
        where b = log p(x|decode(mean)) without gradient: the mean is the same (E w = 1), the variance much smaller.
        """
        q = self.encode(x)
        rules = [group.rule(generator) for group in self.groups]
        z = q.at(self._condition_noise(q, y, self._noise(q, rules, generator)))
        labelled = ~y.isnan().all(1)

        log_w = log_q_y_x = log_p_y = entropies = characteristics = torch.zeros_like(z[:, 0])
        for group, moments in zip(self.groups, self.condition_on_labels(q, rules), strict=True):
            value, observed = group.observe(y)
            log_q = pick(moments.log_q_y_x, value)
            log_p = pick(group.label_prior.log().expand_as(moments.log_q_y_x), value)
            supervised = group.label_prior.log() - _kl(group, q, moments)  # (N, G, K)
            unsupervised = expected(moments.log_q_y_x, supervised - moments.log_q_y_x)
            bracket = torch.where(observed, pick(supervised, value), unsupervised)
            if not self._is_unweighted(group):
                log_w = log_w + (observed * (pick(group.log_q_y_z(z), value) - log_q)).sum(1)
            characteristics = characteristics + bracket.sum(1)
            log_q_y_x = log_q_y_x + (observed * log_q).sum(1)
            log_p_y = log_p_y + (observed * log_p).sum(1)
            entropies = entropies + (~observed * entropy(moments.log_q_y_x)).sum(1)

        reconstruction = self.log_likelihood(x, z)
        if not all(map(self._is_unweighted, self.groups)):
            b = self._baseline(x, q, labelled)
            reconstruction = log_w.exp() * (reconstruction - b) + b
        kl_style = kl_standard(q.columns(self.layout.style)).sum(1)
        return CCVAEBound(reconstruction, kl_style, characteristics, log_q_y_x, log_p_y, log_w, entropies, labelled)

    def reference(self, x: Images | Points, y: Labels, generator: Generator) -> CCVAEBound:
        """The objective of the authors' PyTorch code, for comparison. It is not the bound:

        * log q(y|x) is the log of a mean over 100 joint samples (biased low).
        * w multiplies the analytic KL(q(z|x) || p(z|y)), whose weighted mean is not the bound's term.
        * The numerator of w sees z_c without gradient.
        * A missing label is one sample of q(y|z_c) without a score-function term, so the classifier's gradient there is
          noise around zero; and the analytic KL ignores that y was sampled at z.
        """
        q = self.encode(x)
        z = q.at(noise_like(q, generator))
        labelled = ~y.isnan().all(1)
        samples = [q.at(noise_like(q, generator)) for _ in range(self.settings.posterior_samples)]

        zero = torch.zeros_like(z[:, 0])
        kl, log_p_y, log_q_y_z, entropies, log_w = zero, zero, zero, zero, zero
        joint = [zero] * len(samples)
        for group in self.groups:
            value, observed = group.observe(y)
            log_q = group.log_q_y_z(z)
            uniform = torch.rand(value.shape, generator=generator, dtype=log_q.dtype, device=generator.device)
            last = torch.full_like(value, group.classes - 1)
            value = torch.where(observed, value, sample_classes(log_q.detach(), uniform.to(value.device), last))
            kl = kl + kl_diagonal(group.posterior(q), group.of_class(value)).sum((1, 2))
            log_p_y = log_p_y + pick(group.label_prior.log().expand_as(log_q), value).sum(1)
            log_q_y_z = log_q_y_z + pick(log_q, value).sum(1)
            entropies = entropies - (~observed * pick(log_q, value)).sum(1)
            log_w = log_w + (observed * pick(group.log_q_y_z(z.detach()), value)).sum(1)
            joint = [
                j + (observed * pick(group.log_q_y_z(s), value)).sum(1) for j, s in zip(joint, samples, strict=True)
            ]

        log_q_y_x = torch.stack(joint).logsumexp(0) - math.log(len(samples))
        w = torch.where(labelled, (log_w - log_q_y_x).exp(), torch.ones_like(log_w))
        kl_style = kl_standard(q.columns(self.layout.style)).sum(1)
        reconstruction = w * self.log_likelihood(x, z)
        characteristics = log_p_y + log_q_y_x - w * (kl + log_q_y_z)
        return CCVAEBound(
            reconstruction, w * kl_style, characteristics, log_q_y_x, log_p_y, w.log(), entropies, labelled
        )

    def condition_on_labels(self, q: Gaussian, rules: list[QuadratureRule]) -> list[LabelConditionedMoments]:
        """Moments of q(z^i|x,y) of every label and class, per group of labels."""
        return [
            condition_on_label(group.posterior(q), group.weight, group.bias, rule.like(q.loc))
            for group, rule in zip(self.groups, rules, strict=True)
        ]

    def _noise(self, q: Gaussian, rules: list[QuadratureRule], generator: Generator) -> Tensor:
        """Standard normal noise; for labels integrated by random nodes, one of these nodes, so that E w = 1 exactly."""
        noise = noise_like(q, generator)
        for group, rule in zip(self.groups, rules, strict=True):
            if rule.random:
                shape = (len(noise), len(group.indices))
                chosen = torch.randint(len(rule.nodes), shape, generator=generator, device=generator.device)
                noise[:, group.dimensions] = rule.like(noise).nodes[chosen.to(noise.device)].flatten(1)
        return noise

    def _is_unweighted(self, group: Characteristics) -> bool:
        """True if z of these labels is sampled from q(z|x,y), so that it needs no weight."""
        return self.settings.estimator == "exact" and group.rank <= 2

    def _condition_noise(self, q: Gaussian, y: Labels, noise: Tensor) -> Tensor:
        """Noise under q(z|x), with the latent dimensions of observed labels mapped to noise under q(z^i|x,y^i)."""
        for group in filter(self._is_unweighted, self.groups):
            value, observed = group.observe(y)
            own = group.select(noise)
            moved = label_conditioned_noise(group.posterior(q), group.weight, group.bias, value, own)
            noise = noise.index_copy(
                1,
                torch.tensor(group.dimensions, device=noise.device),
                torch.where(observed.unsqueeze(-1), moved, own).flatten(1),
            )
        return noise

    @torch.no_grad()
    def _baseline(self, x: Images | Points, q: Gaussian, labelled: Tensor) -> Tensor:
        """b(x) of the labelled images; 0 elsewhere, where w = 1 and b cancels."""
        b = torch.zeros_like(q.loc[:, 0])
        if bool(labelled.any()):
            b[labelled] = self.log_likelihood(x[labelled], q.loc[labelled])
        return b

    def _by_name(self, tables: list[Tensor]) -> Mapping[str, Tensor | Gaussian]:
        found: dict[int, Tensor] = {}
        for group, table in zip(self.groups, tables, strict=True):
            found |= {index: table[:, place] for place, index in enumerate(group.indices)}
        return {name: found[i] for i, name in enumerate(self.labels.names)}


def _kl(group: Characteristics, q: Gaussian, moments: LabelConditionedMoments) -> Tensor:
    """KL(q(z^i|x,y) || p(z^i|y)) of each label and class, shape (N, G, K), from the moments under w."""
    posterior, prior = group.posterior(q), group.all_classes
    m, s = posterior.loc.unsqueeze(2), posterior.scale.unsqueeze(2)  # (N, G, 1, d)
    offset = m - prior.loc
    square = offset.square() + 2 * offset * s * moments.mean + s.square() * moments.square
    log_q_z_x = -s.log() - 0.5 * moments.square
    log_p_z_y = -prior.scale.log() - 0.5 * square / prior.scale.square()
    return moments.log_q_y_z - moments.log_q_y_x + (log_q_z_x - log_p_z_y).sum(-1)


def _terms(bound: CCVAEBound, y: Labels) -> dict[str, float]:
    common = ("value", "reconstruction", "kl_style", "characteristics")
    terms = means_by_supervision(y, bound, common, ("log_q_y_x", "log_p_y"), ("entropy",))
    w = bound.log_w[bound.labelled].double().exp()
    terms["supervised.weight"] = w.mean().item()
    terms["supervised.weight_share"] = (w.mean().square() / w.square().mean()).item()
    return terms
