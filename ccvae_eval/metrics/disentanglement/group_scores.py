r"""FactorVAE, BetaVAE and z-max-var: scores of groups of images that share one factor, or all factors but one.

A vote is a group of images; a feature of the group selects a latent, and the latent selects a factor. If the data can
be rendered with given factors or labels, groups are rendered and encoded for the purpose; otherwise they are resampled
from the rows that share the value, and a note says so. Two thirds of the votes fit the classifier, one third is scored.

Profile ``reference``: share of correct votes, as published. Profile ``robust``: a correct vote is weighted by how much
less the selected latent varies in the group than over all rows, since plain votes are also correct for a rotated code;
BetaVAE selects a latent like FactorVAE instead of fitting a linear classifier. Plain votes are the ``_votes`` values.

Confidence intervals are over the votes with the rows fixed; they do not include the variation between data sets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ccvae_eval.core.errors import DataError
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Floats, Ids, Images
from ccvae_eval.data.interface import DataSet, HasCounterfactuals, Renders
from ccvae_eval.metrics.disentanglement.alignment import aligned_latents
from ccvae_eval.metrics.disentanglement.context import PanelContext, ScoreResult, undefined_results
from ccvae_eval.metrics.disentanglement.information_scores import ScoreParts, over_factors, permutations
from ccvae_eval.metrics.disentanglement.predictors import without_fit_warnings
from ccvae_eval.metrics.disentanglement.table import PanelTable
from ccvae_eval.model.interface import supports
from ccvae_eval.statistics.information import Classes
from ccvae_eval.statistics.intervals import wilson
from ccvae_eval.statistics.ratios import safe_ratio

GROUPS, GROUP_SIZE = 24, 16
"""Groups rendered for each factor, and images in each."""

TRAIN_PER_TEST = 2
"""Votes that fit the classifier for each one that is scored."""

NORMAL_QUANTILE = 1.96
"""Half-width of a 95% interval in standard errors."""

RESAMPLED = "resampled from the rows"


def factor_vae(context: PanelContext) -> list[ScoreResult]:
    r"""FactorVAE score (Kim and Mnih 2018).

    Groups share one factor. Each group g selects the latent of least relative variance,
    :math:`j^* = \arg\min_j \operatorname{Var}_g(z_j) / \operatorname{Var}(z_j)`, and the latent votes for the factor
    that it was selected for most often. Reference: share of correct votes, chance 1/K. Robust: a correct vote counts
    :math:`1 - \operatorname{Var}_g(z_{j^*}) / \operatorname{Var}(z_{j^*})`, chance from permuted groups. Range: 0 to 1.
    Undefined for fewer than two factors with groups, or if every latent dimension is constant.
    """
    return _vote_score(context, "factor_vae", _variances, all_but_one=False)


def beta_vae(context: PanelContext) -> list[ScoreResult]:
    r"""BetaVAE score (Higgins et al. 2017).

    A vote is a set of pairs that share one factor, with feature mean :math:`|z_j - z'_j|` of each latent dimension.
    Reference: test accuracy of a logistic regression from the features to the shared factor. Robust: the latent of
    least mean difference, relative to that of all pairs, votes as in :func:`factor_vae`. Range: 0 to 1. Undefined as
    there.
    """
    return _vote_score(context, "beta_vae", _differences, all_but_one=False)


def z_max_var(context: PanelContext) -> list[ScoreResult]:
    r"""z-max-var score (Kim et al. 2019).

    Groups share all factors but one. The latent of greatest relative variance votes for the factor that varies. Robust:
    a correct vote counts by the share of that latent in the sum of relative variances of the group. Range: 0 to 1.
    Undefined as :func:`factor_vae`; on a table of codes it needs rows that share all factors but one.
    """
    return _vote_score(context, "z_max_var", _variances, all_but_one=True)


def consistency(context: PanelContext) -> list[ScoreResult]:
    r"""Consistency: a factor alone determines the latents aligned to it (Shu et al. 2020).

    .. math:: \frac1K \sum_k 1 - \frac{E_g \operatorname{Var}_g(z_{I_k})}{\operatorname{Var}(z_{I_k})}

    Groups g share factor k; :math:`I_k` is the latent aligned to factor k (:func:`aligned_latents`). Chance: 0, codes
    that do not depend on the factor. Range: up to 1; noise can make it negative. Undefined if the data cannot render
    images with given factors.
    """
    return _variance_score(context, "consistency", all_but_one=False)


def restrictiveness(context: PanelContext) -> list[ScoreResult]:
    r"""Restrictiveness: a factor changes no latent but those aligned to it (Shu et al. 2020).

    The formula of :func:`consistency` for all latents but :math:`I_k`, with groups that share all factors but k.
    Undefined for a single latent dimension, too.
    """
    return _variance_score(context, "restrictiveness", all_but_one=True)


def _variance_score(context: PanelContext, name: str, *, all_but_one: bool) -> list[ScoreResult]:
    """One minus the variance within groups over that of all rows, of the aligned latents or of all others.

    Profile robust: each dimension is divided by its variance. Profile reference: sums in units of the codes.
    """
    table, columns = context.table, _varying_columns(context)
    rendered = rendered_pools(context, columns, all_but_one=all_but_one) if columns else None
    if rendered is None:
        reason = "needs images rendered with given factors" if columns else "every latent dimension is constant"
        return undefined_results((name,), reason, len(table))
    pools, source = rendered
    spread = table.codes[:, columns].var(axis=0, ddof=1)
    scale = np.ones(len(columns)) if context.settings.robust else spread
    values, variances = np.full(len(pools), np.nan), np.full(len(pools), np.nan)
    for k, j in aligned_latents(context).items():
        pool, block = pools[k], table.blocks[context.scored_blocks[j]]
        chosen = np.isin(columns, block) != all_but_one
        if not all_but_one and not chosen.any():
            values[k], variances[k] = 0.0, 0.0  # the aligned latent is constant or inactive
        elif pool is not None and chosen.any():
            groups = pool.codes[pool.order].reshape(len(pool.size), -1, len(columns)).var(axis=1, ddof=1)
            shares = 1 - groups[:, chosen] / spread[chosen] @ scale[chosen] / scale[chosen].sum()
            values[k], variances[k] = shares.mean(), shares.var(ddof=1) / len(shares)
    point, known = over_factors(values), ~np.isnan(values)
    halves = NORMAL_QUANTILE * np.sqrt(variances)
    half = NORMAL_QUANTILE * np.sqrt(variances[known].sum()) / max(known.sum(), 1)
    low, high = ScoreParts(point.total - half, values - halves), ScoreParts(point.total + half, values + halves)
    return [
        ScoreResult(
            name, point, len(table), chance=over_factors(np.where(known, 0.0, np.nan)),
            reason="needs two latent dimensions", interval=(low, high),
            note=f"{source}; confidence interval over the groups alone",
        )
    ]  # fmt: skip


def rendered_pools(
    context: PanelContext, columns: list[int], *, all_but_one: bool
) -> tuple[list[Pool | None], str] | None:
    """Renders and encodes groups that share one factor (or all but one); returns a pool for each factor and a note.

    A factor is a label or a generative factor of the data, by name. Factors that are not shared are those of random
    images of the data set. Data that only render counterfactual labels suffice if every factor is a label. None if the
    data cannot be rendered.
    """
    data, names = context.data, context.table.factor_names
    if context.encode is None or data is None:
        return None
    if supports(data, Renders):
        render = partial(_render_scenes, context)
    elif supports(data, HasCounterfactuals) and all(name in data.schema for name in names):
        render = partial(_render_counterfactuals, context)
    else:
        return None
    try:
        found = [context.cached(f"rendered/{name}/{all_but_one}", partial(render, name, all_but_one)) for name in names]
    except DataError as error:
        # no image has the label, or the oracle cannot encode images that it did not render itself
        context.notes.append(f"groups were not drawn from the data: {error.what}")
        context.encode = None
        return None
    count = sum(len(groups) for _, groups in found)
    return [pool_of(codes[:, columns], groups) for codes, groups in found], f"{count} images drawn"


def _encoded(context: PanelContext, images: Images) -> tuple[Floats, Classes]:
    assert context.encode is not None
    return context.encode(images), np.repeat(np.arange(GROUPS), GROUP_SIZE)


def _render_counterfactuals(context: PanelContext, name: str, all_but_one: bool) -> tuple[Floats, Classes]:
    """Images with one label changed: different images with one value, or one image with different values."""
    data = context.data
    assert supports(data, HasCounterfactuals)
    assert supports(data, DataSet)
    generator = numpy_stream(context.seed, f"counterfactuals/{all_but_one}", name)
    images = generator.integers(0, len(data), (GROUPS, GROUP_SIZE))
    values = data.labels_of(images.ravel())[:, data.schema.index(name)].reshape(GROUPS, GROUP_SIZE)
    missing = np.isnan(values)
    if missing.all():
        raise DataError("the label is missing for every drawn image", where=name)
    if missing.any():
        values[missing] = generator.choice(values[~missing], int(missing.sum()))
    if all_but_one:
        images = images[:, :1].repeat(GROUP_SIZE, 1)
    else:
        values = values[:, :1].repeat(GROUP_SIZE, 1)
    return _encoded(context, data.with_attribute(images.ravel(), name, values.ravel()))


def _render_scenes(context: PanelContext, name: str, all_but_one: bool) -> tuple[Floats, Classes]:
    """Images rendered from recombined factors and labels of the data set's own images."""
    data = context.data
    assert supports(data, Renders)
    assert supports(data, DataSet)
    generator = numpy_stream(context.seed, f"rendered/{all_but_one}", name)
    images = generator.integers(0, len(data), (GROUPS, GROUP_SIZE)).ravel()
    own = name in data.schema
    column = data.schema.index(name) if own else data.factor_names.index(name)
    tables = []
    for table, has_column in ((data.factors(images), not own), (data.labels_of(images), own)):
        shared = np.full(table.shape[1], all_but_one)
        if has_column:
            shared[column] = not all_but_one
        groups = table.reshape(GROUPS, GROUP_SIZE, table.shape[1])
        tables.append(np.where(shared, groups[:, :1], groups).reshape(table.shape))
    return _encoded(context, data.render(*tables))


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Rows in groups, from which the images of a vote are drawn.

    Args:
        codes: shape (M, D).
        order: row indices, group after group.
        first, size: start of each group in ``order``, and its number of rows.
    """

    codes: Floats
    order: Ids
    first: Ids
    size: Ids

    def draw(self, generator: np.random.Generator, groups: int, count: int) -> Ids:
        """Row indices of ``count`` rows from each of ``groups`` groups, both with replacement, shape (groups, count).

        A group is drawn with probability proportional to its size.
        """
        chosen = generator.choice(len(self.size), groups, p=self.size / self.size.sum())
        within = (generator.random((groups, count)) * self.size[chosen, None]).astype(np.int64)
        return np.asarray(self.order[self.first[chosen, None] + within])


def pool_of(codes: Floats, groups: Classes, least: int = 2) -> Pool | None:
    """The rows by group (-1 = in none), without groups of fewer than ``least`` rows; None if no group is left."""
    order = np.argsort(groups, kind="stable")
    order = order[groups[order] >= 0]
    _, first, size = np.unique(groups[order], return_index=True, return_counts=True)
    large = size >= least
    return Pool(codes, order, first[large], size[large]) if large.any() else None


def row_pools(table: PanelTable, columns: list[int], *, all_but_one: bool) -> list[Pool | None]:
    """For each factor the rows grouped by its value, or by the values of all others."""
    codes = table.codes[:, columns]
    if not all_but_one:
        return [pool_of(codes, f.classes) if f.levels > 1 else None for f in table.factors]
    pools: list[Pool | None] = []
    classes = np.stack([f.classes for f in table.factors], axis=1)
    known = (classes >= 0).all(axis=1)
    for k, factor in enumerate(table.factors):
        rest = np.delete(classes, k, axis=1)
        groups = np.full(len(table), -1, dtype=np.int64)
        if factor.levels > 1 and known.any() and rest.shape[1]:
            groups[known] = np.unique(rest[known], axis=0, return_inverse=True)[1].ravel()
            pairs = np.unique(np.stack([groups, classes[:, k]], axis=1)[known], axis=0)
            varying = np.flatnonzero(np.bincount(pairs[:, 0]) > 1)
            groups[~np.isin(groups, varying)] = -1
        pools.append(pool_of(codes, groups))
    return pools


@dataclass(frozen=True, slots=True, eq=False)
class Votes:
    """Features of groups and the factor that each group shares (or varies).

    Args:
        features: feature of each vote and latent dimension, relative to all rows, shape (V, D).
        factors: index of the factor, shape (V,).
    """

    features: Floats
    factors: Ids


Feature = Callable[[Pool, np.random.Generator, int, int], Floats]
"""(pool, generator, votes, images per vote) -> features, shape (votes, D)."""


# The names of the feature functions are part of the random stream of the votes: renaming them changes numbers.
def _variances(pool: Pool, generator: np.random.Generator, votes: int, count: int) -> Floats:
    """Variance of each latent dimension over ``count`` images of a group."""
    found = np.empty((votes, pool.codes.shape[1]))
    step = max((1 << 21) // max(count * pool.codes.shape[1], 1), 1)
    for first in range(0, votes, step):
        rows = pool.draw(generator, min(step, votes - first), count)
        found[first : first + step] = pool.codes[rows].var(axis=1, ddof=1)
    return found


def _differences(pool: Pool, generator: np.random.Generator, votes: int, count: int) -> Floats:
    """Mean |z - z'| over ``count`` pairs from one group each; the groups of different pairs may differ."""
    found = np.empty((votes, pool.codes.shape[1]))
    step = max((1 << 20) // max(count * pool.codes.shape[1], 1), 1)
    for first in range(0, votes, step):
        here = min(step, votes - first)
        pairs = pool.draw(generator, here * count, 2)
        distances = np.abs(pool.codes[pairs[:, 0]] - pool.codes[pairs[:, 1]])
        found[first : first + step] = distances.reshape(here, count, -1).mean(axis=1)
    return found


def _feature_over_all_rows(codes: Floats, feature: Feature) -> Floats:
    """The expected feature of each latent dimension over all rows; NaN for a constant dimension."""
    if feature is _variances:
        spread = codes.var(axis=0, ddof=1)
    else:
        # mean |z - z'| of all pairs, from the order statistics
        n = len(codes)
        place = 2 * np.arange(1, n + 1) - n - 1
        spread = 2 * (np.sort(codes, axis=0) * place[:, None]).sum(axis=0) / (n * (n - 1))
    return np.where(spread > 1e-12 * np.abs(codes).max(axis=0, initial=0.0) ** 2, spread, np.nan)


def draw_votes(pools: list[Pool | None], feature: Feature, unit: Floats, votes: int, count: int, seed: int) -> Votes:
    """Draws votes about random factors among those that have a pool.

    Args:
        pools: pool of each factor, or None.
        feature: computes the features of groups.
        unit: divisor of the features, shape (D,).
        votes: number of votes.
        count: images (or pairs) per vote.
        seed: seed of the draws.
    """
    usable = [k for k, pool in enumerate(pools) if pool is not None]
    generator = numpy_stream(seed, "votes", feature.__name__)
    factors = np.sort(generator.choice(usable, votes)) if usable else np.empty(0, dtype=np.int64)
    parts = [
        feature(pool, generator, int((factors == k).sum()), count)
        for k, pool in enumerate(pools)
        if pool is not None and (factors == k).any()
    ]
    features = np.concatenate(parts) / unit if parts else np.empty((0, len(unit)))
    order = generator.permutation(len(factors))
    return Votes(features[order], factors[order])


def majority_vote(votes: Votes, selected: Ids) -> tuple[Bools, Floats]:
    """The majority-vote classifier: each latent predicts the factor that it was selected for most often.

    Args:
        votes: the votes; the first two thirds fit the classifier, the others are scored.
        selected: index of the latent dimension that each vote selects, shape (V,).

    Returns:
        True for each scored vote that is correct, and one minus the feature of its selected latent in [0, 1].
    """
    cut = len(selected) * TRAIN_PER_TEST // (TRAIN_PER_TEST + 1)
    counts = np.zeros((votes.features.shape[1], int(votes.factors.max(initial=0)) + 1))
    np.add.at(counts, (selected[:cut], votes.factors[:cut]), 1)
    correct = counts.argmax(axis=1)[selected[cut:]] == votes.factors[cut:]
    return correct, 1 - np.clip(votes.features[cut:][np.arange(len(correct)), selected[cut:]], 0.0, 1.0)


def logistic_vote(votes: Votes) -> tuple[Bools, Floats]:
    """The published BetaVAE classifier, a logistic regression on the features of all latents; all votes weigh 1."""
    from sklearn.linear_model import LogisticRegression

    cut = len(votes.factors) * TRAIN_PER_TEST // (TRAIN_PER_TEST + 1)
    if len(np.unique(votes.factors[:cut])) < 2:
        return np.empty(0, dtype=bool), np.empty(0)
    with without_fit_warnings():
        classifier = LogisticRegression().fit(votes.features[:cut], votes.factors[:cut])
    correct = classifier.predict(votes.features[cut:]) == votes.factors[cut:]
    return correct, np.ones(len(correct))


def _classified(votes: Votes, name: str, *, robust: bool) -> tuple[Bools, Floats]:
    """True for each scored vote that is correct, and the weights of the votes."""
    if name == "beta_vae" and not robust:
        return logistic_vote(votes)
    if name != "z_max_var":
        return majority_vote(votes, votes.features.argmin(axis=1))
    selected = votes.features.argmax(axis=1)
    if robust:
        # a correct vote then counts by the selected latent's share of the group's variance
        variances = np.maximum(votes.features, 0.0)
        total = variances.sum(axis=1, keepdims=True)
        votes = Votes(1 - safe_ratio(variances, total, 0.0), votes.factors)
    return majority_vote(votes, selected)


def _vote_score(context: PanelContext, name: str, feature: Feature, *, all_but_one: bool) -> list[ScoreResult]:
    settings, table = context.settings, context.table
    columns = _varying_columns(context)
    names = (name, f"{name}_votes") if settings.robust else (name,)
    rendered = rendered_pools(context, columns, all_but_one=all_but_one)
    pools, source = rendered or (row_pools(table, columns, all_but_one=all_but_one), RESAMPLED)
    count = min(settings.group, GROUP_SIZE) if rendered else settings.group
    usable = sum(pool is not None for pool in pools)
    if not columns or usable < 2:
        what = "share all factors but one and differ in it" if all_but_one else "share a value"
        reason = f"needs two factors with rows that {what}, got {usable}"
        reason = reason if columns else "every latent dimension is constant"
        return undefined_results(names, reason, len(table))
    # the published BetaVAE classifier sees the features in the units of the codes
    raw = name == "beta_vae" and not settings.robust
    unit = np.ones(len(columns)) if raw else _feature_over_all_rows(table.codes[:, columns], feature)
    votes = draw_votes(pools, feature, unit, settings.votes, count, context.seed)
    correct, weights = _classified(votes, name, robust=settings.robust)
    note = f"{source}; confidence interval over the {len(correct)} votes alone"

    def result(name: str, value: float, chance: float, low: float, high: float) -> ScoreResult:
        point, null = ScoreParts(np.asarray(value)), ScoreParts(np.asarray(chance))
        reason, rows = "too few votes", len(table)
        ends = ScoreParts(np.asarray(low)), ScoreParts(np.asarray(high))
        return ScoreResult(name, point, rows, chance=null, reason=reason, note=note, interval=ends)

    plain = wilson(int(correct.sum()), len(correct))
    results = [result(names[-1], plain.value, 1 / usable, plain.low, plain.high)]
    if settings.robust:
        weighted, chance = correct * weights, np.nan
        value, half = float(weighted.mean()), NORMAL_QUANTILE * float(weighted.std() / np.sqrt(len(weighted)))
        if not context.point_only:
            permuted = draw_votes(_permuted(pools, context.seed), feature, unit, settings.votes, count, context.seed)
            chance = float(np.multiply(*_classified(permuted, name, robust=True)).mean())
        results.insert(0, result(name, value, chance, value - half, value + half))
    return results


def _varying_columns(context: PanelContext) -> list[int]:
    """Varying dimensions of the scored blocks; in the robust profile only of active ones, if there are any."""
    chosen = context.scored_blocks
    if context.settings.robust and context.information.active.any():
        chosen = context.scored_blocks[context.information.active]
    columns = [c for j in chosen for c in context.table.blocks[j]]
    return [c for c in columns if np.ptp(context.table.codes[:, c]) > 0]


def _permuted(pools: list[Pool | None], seed: int) -> list[Pool | None]:
    """The pools with rows permuted among the groups, for the chance level."""
    order = next(permutations(seed, max(len(p.codes) for p in pools if p is not None), 1))
    return [None if p is None else Pool(p.codes[order[order < len(p.codes)]], p.order, p.first, p.size) for p in pools]
