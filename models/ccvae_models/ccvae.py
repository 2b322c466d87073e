r"""CCVAE: capturing label characteristics in VAEs (Joy, Schmon, Torr, Siddharth and Rainforth, ICLR 2021).

Generative model: p(y) p(z_c|y) p(z_s) p(x|z) with z = (z_c, z_s), p(z_s) = N(0, I) and one block of z_c for each
label. Inference: q(z|x), a diagonal Gaussian, and q(y|z_c); both p(z_c|y) and q(y|z_c) factorise over the labels.

.. math::
    L(x,y) &= E_{q(z|x)}\Big[\frac{q(y|z_c)}{q(y|x)} \log\frac{p(x|z) p(z|y)}{q(y|z_c) q(z|x)}\Big]
              + \log q(y|x) + \log p(y), \qquad q(y|x) = E_{q(z|x)}[q(y|z_c)]  \quad\text{(Eq. 4)} \\
    U(x)   &= E_{q(z|x) q(y|z_c)}\Big[\log\frac{p(x|z) p(z|y) p(y)}{q(y|z_c) q(z|x)}\Big]  \quad\text{(Eq. 5)}

The objective is their plain sum over the labelled and the unlabelled images, and a weighted log q(y|x) beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Generator, Tensor

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Points
from ccvae_eval.model.interface import Batch, LatentLayout, ModelContext, Objective
from ccvae_models.autoencoder import Autoencoder, kl_standard, noise_like
from ccvae_models.characteristics import Characteristics, blocks, grouped, pick
from ccvae_models.label_posterior_sampling import tilted_noise
from ccvae_models.likelihood import LikelihoodName
from ccvae_models.networks import NetworkName, initialise
from ccvae_models.quadrature import Rule, Tilted, tilt


@dataclass(frozen=True, slots=True)
class CCVAESettings:
    """Settings of CCVAE.

    Args:
        style: columns of z that belong to no label.
        block: columns of each label with two classes (more than one is MCCVAE).
        class_block: columns of each label with K > 2 classes, at most K - 1. Two hold the classes around a circle
            and keep the quadrature exact; more make room for the full simplex and use quasi-random draws.
        estimator: "exact" is the stated bound, its reconstruction drawn from q(z|x,y); "weighted" the same bound, its
            reconstruction drawn from q(z|x) and weighted by w (far noisier); "reference" is what the authors'
            PyTorch code does (see :meth:`CCVAE.reference`).
        alpha: weight of log q(y|x) beside the bound on labelled rows, for each value of the input (at 3 x 64 x 64
            pixels .02 weigh 246), as log p(x|z) grows with them; 0 is the bound alone. See :meth:`CCVAE.objectives`.
        likelihood: p(x|z).
        likelihood_scale: its scale.
        prior_mean: how far from 0 the means of p(z_c|y) start: 0 in the authors' PyTorch code, 2 in their Pyro code.
        blank: whether q(z_c|x) starts the same for every image, so that the first thing that reaches a label's columns
            is the label (through the draws from q(z|x,y)) and not whatever style is cheapest to put there.
        points: nodes of the one-dimensional quadrature.
        draws: quasi-random draws for labels with more than two columns.
        posterior_samples: draws behind q(y|x) in the reference estimator.
        network: convolutions or perceptron; auto goes by the shape of the input.
        hidden: width of the perceptron.
    """

    style: int = 27
    block: int = 1
    class_block: int = 2
    estimator: Literal["exact", "weighted", "reference"] = "exact"
    alpha: float = 0.02
    likelihood: LikelihoodName = "auto"
    likelihood_scale: float = 1.0
    prior_mean: float = 2.0
    blank: bool = True
    points: int = 129
    draws: int = 256
    posterior_samples: int = 100
    network: NetworkName = "auto"
    hidden: int = 64


@dataclass(frozen=True, slots=True)
class CCVAEBound:
    """The parts of the bound, each of shape (N,); the bound is reconstruction - kl_style + characteristics.

    Args:
        reconstruction: E[w log p(x|z)], a one-sample estimate.
        kl_style: KL(q(z_s|x) || N(0, I)).
        characteristics: the sum of the labels' brackets.
        log_q_y_x: log q(y|x) of the observed labels.
        log_p_y: log p(y) of the observed labels.
        log_w: log of w at the sample.
        entropy: of q(y|x) over the missing labels.
        labelled: whether any label of the row is observed.
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
    """One block of latent columns for each label, the rest style. See the module's text for the model."""

    Settings: ClassVar[type[Any]] = CCVAESettings

    def __init__(self, settings: CCVAESettings, context: ModelContext, generator: Generator) -> None:
        _refuse(settings, context)
        columns = blocks(context.labels, settings.block, settings.class_block)
        dim = sum(map(len, columns.values())) + settings.style
        super().__init__(settings, context, LatentLayout(dim, columns))
        groups = grouped(context, columns, settings.prior_mean, settings.points, settings.draws)
        self.characteristics = groups
        initialise(self, generator)
        if settings.blank:
            self.encoder.start_blank(self.layout.characteristic_columns, max(1.0, settings.prior_mean))

    @property
    def groups(self) -> list[Characteristics]:
        """The labels, those with the same number of classes together."""
        return [cast(Characteristics, group) for group in self.characteristics.values()]

    def predict(self, images: Images | Points, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        """log q(y|z_c) of each label at the given codes, shape (N, K)."""
        del images
        return self._by_name([group.log_q_y_z(codes) for group in self.groups])

    def label_posterior(self, images: Images | Points) -> Mapping[str, Tensor | Gaussian]:
        """log q(y|x) = log E_q(z|x)[q(y|z_c)] of each label by quadrature with twice the points, shape (N, K)."""
        q = self.encode(images)
        rules = [group.rule(None, refined=True) for group in self.groups]
        return self._by_name([tilted.log_q_y_x for tilted in self.tilt(q, rules)])

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """p(z_c|y) over the characteristics' columns; NaN where the label is missing."""
        columns = len(self.layout.characteristic_columns)
        template = self.groups[0].loc
        loc = template.new_full((len(labels), columns), math.nan)
        scale = loc.clone()
        for group in self.groups:
            y = group.choice(labels.to(template.device))
            prior, missing = group.prior_given(y.value), ~y.observed.unsqueeze(-1)
            flat = [column for block in group.columns for column in block]
            loc[:, flat] = prior.loc.masked_fill(missing, math.nan).flatten(1)
            scale[:, flat] = prior.scale.masked_fill(missing, math.nan).flatten(1)
        return Gaussian(loc, scale)

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        r"""The negative of the sum of L + a log q(y|x) over the labelled and U over the unlabelled rows, over all rows.

        L is as high for an encoder that does not know the label as for one that does: by its own draw from q(z|x,y)
        the label says on which side it lies. What teaches the published code to classify is not the bound: there w's
        numerator sees z_c without gradient, its denominator q(y|x) with it, and w \log p(x|z) so gives the encoder
        -\log p(x|z), some 10,000 nats, times the gradient of log q(y|x). ``alpha`` states such a weight openly, as
        in M2 (Kingma et al. 2014, Eq. 9); the "reference" estimator has its own and takes none.
        """
        if self.settings.estimator == "reference":
            bound, weight = self.reference(batch.images, batch.labels, generator), 0.0
        else:
            bound = self.exact(batch.images, batch.labels, generator)
            weight = self.settings.alpha * math.prod(self.context.input_shape)
        loss = -(bound.value + weight * bound.log_q_y_x).mean()
        yield Objective("model", loss, _terms(bound), tuple(self.parameters()))

    def bound(self, images: Images | Points, labels: Labels, generator: Generator) -> Tensor:
        """The bound of each row as it is stated: L where labels are there, U where all are missing, shape (N,)."""
        return self.exact(images, labels, generator).value

    def exact(self, x: Images | Points, y: Labels, generator: Generator) -> CCVAEBound:
        r"""The bound with every term but the reconstruction integrated out.

        w = q(y|z_c)/q(y|x) is a product of w_i with E w_i = 1, so that a term of z^i alone needs w_i alone:

        .. math::
            L &= E_{q(z|x,y)}[\log p(x|z)] - KL(q(z_s|x) \| N(0,I))
                 + \sum_i \{ \log p(y^i) - KL(q(z^i|x,y^i) \| p(z^i|y^i)) \}, \quad q(z^i|x,y^i) = w_i q(z^i|x) \\
            U &= E[\log p(x|z)] - KL(q(z_s|x) \| N(0,I))
                 + \sum_i \sum_y q(y|x) \{ \log p(y) - KL(q(z^i|x,y) \| p(z^i|y)) - \log q(y|x) \}

        The first expectation is one draw with pathwise gradients (see ``tilted``). Where it is weighted instead (the
        "weighted" estimator, and classes beyond two in more than two columns) it is E[w (log p(x|z) - b)] + b:
        b = log p(x|decode(mean)), without gradient, changes no mean (E w = 1) and takes most of the variance away.
        A row with some labels missing has the first bracket for the observed and the second for the missing ones.
        """
        q = self.encode(x)
        rules = [group.rule(generator) for group in self.groups]
        z = q.at(self._tilted(q, y, self._noise(q, rules, generator)))
        labelled = ~y.isnan().all(1)

        log_w = log_q_y_x = log_p_y = entropy = characteristics = torch.zeros_like(z[:, 0])
        for group, tilted in zip(self.groups, self.tilt(q, rules), strict=True):
            value, observed = group.choice(y)
            log_q = pick(tilted.log_q_y_x, value)
            log_p = pick(group.label_prior.log().expand_as(tilted.log_q_y_x), value)
            supervised = group.label_prior.log() - _kl(group, q, tilted)  # (N, G, K)
            surprise = -tilted.log_q_y_x
            unsupervised = (tilted.log_q_y_x.exp() * (supervised + surprise)).sum(-1)
            bracket = torch.where(observed, pick(supervised, value), unsupervised)
            if not self._draws(group):
                log_w = log_w + (observed * (pick(group.log_q_y_z(z), value) - log_q)).sum(1)
            characteristics = characteristics + bracket.sum(1)
            log_q_y_x = log_q_y_x + (observed * log_q).sum(1)
            log_p_y = log_p_y + (observed * log_p).sum(1)
            entropy = entropy + (~observed * (tilted.log_q_y_x.exp() * surprise).sum(-1)).sum(1)

        reconstruction = self.log_likelihood(x, z)
        if not all(map(self._draws, self.groups)):
            b = self._baseline(x, q, labelled)
            reconstruction = log_w.exp() * (reconstruction - b) + b
        kl_style = kl_standard(q.columns(self.layout.style)).sum(1)
        return CCVAEBound(reconstruction, kl_style, characteristics, log_q_y_x, log_p_y, log_w, entropy, labelled)

    def reference(self, x: Images | Points, y: Labels, generator: Generator) -> CCVAEBound:
        """What the authors' PyTorch code maximises: it is not the bound, and is here to be compared with it.

        log q(y|x) is the log of a mean over 100 joint samples (biased low); w multiplies the analytic
        KL(q(z|x) || p(z|y)), whose weighted mean is not the bound's term; w's numerator sees z_c without gradient;
        an unlabelled y is one draw from q(y|z_c) with no score-function term, so that the classifier's gradient
        there is noise around zero, and the analytic KL forgets that y was drawn at z. Missing labels of a labelled
        row are drawn in the same way.
        """
        q = self.encode(x)
        z = q.at(noise_like(q, generator))
        labelled = ~y.isnan().all(1)
        samples = [q.at(noise_like(q, generator)) for _ in range(self.settings.posterior_samples)]

        zero = torch.zeros_like(z[:, 0])
        kl, log_p_y, log_q_y_z, entropy, log_w = zero, zero, zero, zero, zero
        joint = [zero] * len(samples)
        for group in self.groups:
            value, observed = group.choice(y)
            each = group.log_q_y_z(z)
            value = torch.where(observed, value, _draw(each.detach(), generator))
            kl = kl + _kl_diagonal(group.posterior(q), group.prior_given(value)).sum((1, 2))
            log_p_y = log_p_y + pick(group.label_prior.log().expand_as(each), value).sum(1)
            log_q_y_z = log_q_y_z + pick(each, value).sum(1)
            entropy = entropy - (~observed * pick(each, value)).sum(1)
            log_w = log_w + (observed * pick(group.log_q_y_z(z.detach()), value)).sum(1)
            joint = [
                j + (observed * pick(group.log_q_y_z(s), value)).sum(1) for j, s in zip(joint, samples, strict=True)
            ]

        log_q_y_x = torch.stack(joint).logsumexp(0) - math.log(len(samples))
        w = torch.where(labelled, (log_w - log_q_y_x).exp(), torch.ones_like(log_w))
        kl_style = kl_standard(q.columns(self.layout.style)).sum(1)
        reconstruction = w * self.log_likelihood(x, z)
        characteristics = log_p_y + log_q_y_x - w * (kl + log_q_y_z)
        return CCVAEBound(reconstruction, w * kl_style, characteristics, log_q_y_x, log_p_y, w.log(), entropy, labelled)

    def tilt(self, q: Gaussian, rules: list[Rule]) -> list[Tilted]:
        """q(z^i|x,y^i) of every label and class, for each group of labels."""
        return [
            tilt(group.posterior(q), group.weight, group.bias, rule.like(q.loc))
            for group, rule in zip(self.groups, rules, strict=True)
        ]

    def _noise(self, q: Gaussian, rules: list[Rule], generator: Generator) -> Tensor:
        """Standard normal draws; for labels integrated by random nodes, one of the nodes, so that E w = 1 exactly."""
        noise = noise_like(q, generator)
        for group, rule in zip(self.groups, rules, strict=True):
            if rule.random:
                shape = (len(noise), len(group.rows))
                chosen = torch.randint(len(rule.nodes), shape, generator=generator, device=generator.device)
                flat = [column for block in group.columns for column in block]
                noise[:, flat] = rule.like(noise).nodes[chosen.to(noise.device)].flatten(1)
        return noise

    def _draws(self, group: Characteristics) -> bool:
        """Whether the labels of a group are drawn from q(z|x,y), and so need no weight."""
        return self.settings.estimator == "exact" and group.rank <= 2

    def _tilted(self, q: Gaussian, y: Labels, noise: Tensor) -> Tensor:
        """The noise with the columns of the observed labels moved to their ranks under q(z^i|x,y^i)."""
        for group in filter(self._draws, self.groups):
            value, observed = group.choice(y)
            own = group.of(noise)
            moved = tilted_noise(group.posterior(q), group.weight, group.bias, value, own)
            flat = [column for block in group.columns for column in block]
            noise = noise.index_copy(
                1,
                torch.tensor(flat, device=noise.device),
                torch.where(observed.unsqueeze(-1), moved, own).flatten(1),
            )
        return noise

    @torch.no_grad()
    def _baseline(self, x: Images | Points, q: Gaussian, labelled: Tensor) -> Tensor:
        """b(x) of the rows that have a weight; 0 elsewhere, where w = 1 and it would cancel."""
        b = torch.zeros_like(q.loc[:, 0])
        if bool(labelled.any()):
            b[labelled] = self.log_likelihood(x[labelled], q.loc[labelled])
        return b

    def _by_name(self, each: list[Tensor]) -> Mapping[str, Tensor | Gaussian]:
        found: dict[int, Tensor] = {}
        for group, values in zip(self.groups, each, strict=True):
            found |= {row: values[:, place] for place, row in enumerate(group.rows)}
        return {name: found[row] for row, name in enumerate(self.labels.names)}


def _refuse(settings: CCVAESettings, context: ModelContext) -> None:
    if not len(context.labels):
        raise UsageError("ccvae learns from labels and was given none", hint="Without labels: train vae.")
    for label in context.labels:
        if label.kind == "continuous":
            raise UsageError(
                "ccvae has no classifier for a continuous label",
                where=label.name,
                hint="Leave it out (--labels), or cut it into classes in the data.",
            )
    if not 0 <= settings.alpha < math.inf:
        raise UsageError(
            f"{settings.alpha} is no weight", where="ccvae: alpha", hint="A number from 0 (the bound alone)."
        )
    least = {"style": 0, "block": 1, "class_block": 1, "points": 5, "draws": 2, "posterior_samples": 1}
    for name, lowest in least.items():
        if getattr(settings, name) < lowest:
            raise UsageError(f"{getattr(settings, name)} is less than {lowest}", where=f"ccvae: {name}")


def _kl(group: Characteristics, q: Gaussian, tilted: Tilted) -> Tensor:
    """KL(q(z^i|x,y) || p(z^i|y)) of each label and class, shape (N, G, K), from the moments under w."""
    posterior, prior = group.posterior(q), group.prior
    m, s = posterior.loc.unsqueeze(2), posterior.scale.unsqueeze(2)  # (N, G, 1, d)
    offset = m - prior.loc
    square = offset.square() + 2 * offset * s * tilted.mean + s.square() * tilted.square
    log_q_z_x = -s.log() - 0.5 * tilted.square
    log_p_z_y = -prior.scale.log() - 0.5 * square / prior.scale.square()
    return tilted.log_q_y_z - tilted.log_q_y_x + (log_q_z_x - log_p_z_y).sum(-1)


def _kl_diagonal(q: Gaussian, p: Gaussian) -> Tensor:
    """KL between diagonal Gaussians, per column."""
    ratio = q.scale / p.scale
    return 0.5 * (ratio.square() + ((q.loc - p.loc) / p.scale).square() - 1) - ratio.log()


def _draw(log_probabilities: Tensor, generator: Generator) -> Tensor:
    """One class for each label from log probabilities (N, G, K), shape (N, G)."""
    shape = log_probabilities.shape[:-1]
    uniform = torch.rand(shape, generator=generator, dtype=log_probabilities.dtype, device=generator.device)
    below = log_probabilities.exp().cumsum(-1) < uniform.to(log_probabilities.device).unsqueeze(-1)
    return below.sum(-1).clamp_max(log_probabilities.shape[-1] - 1)


def _terms(bound: CCVAEBound) -> dict[str, float]:
    """The bound's parts as means over the rows with and without labels; NaN where there is no such row."""
    terms: dict[str, float] = {}
    parts = {"supervised": ("log_q_y_x", "log_p_y"), "unsupervised": ("entropy",)}
    for name, rows in (("supervised", bound.labelled), ("unsupervised", ~bound.labelled)):
        terms[f"{name}.rows"] = int(rows.sum())
        for part in ("value", "reconstruction", "kl_style", "characteristics", *parts[name]):
            terms[f"{name}.{part}"] = getattr(bound, part)[rows].double().mean().item()
    w = bound.log_w[bound.labelled].double().exp()
    terms["supervised.weight"] = w.mean().item()
    terms["supervised.weight_share"] = (w.mean().square() / w.square().mean()).item()
    return terms
