r"""FactorVAE, BetaVAE and z-max-var: scores of groups of images that share a factor (or share all but one).

Where the data can be drawn, groups are drawn for the purpose; on finite tables they are rows drawn again from those
that have the value, and the note says so. Chance is 1/K for plain votes.

Intervals are those of drawing votes from *these* rows. Other rows would move the scores more. (Measured on 16 tables
each: the deviation from table to table is 1.5 to 2.6 times the interval's at 1,000 rows, 1.1 to 2.1 times at 4,000.)

Robust: a right vote counts by how much of the code's own spread is gone, 1 - v_j. (Plain votes: a random rotation of
a perfect code scores .74 and .91, because the code that turns least with a factor is still the same one every time.)

Groups of images that share a factor, drawn for the purpose where the data can be rendered, and encoded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats, Ids, Images
from ccvae_eval.data.interface import DataSet, HasCounterfactuals, Renders
from ccvae_eval.metrics.disentanglement.context import PanelContext, ScoreResult, undefined_result
from ccvae_eval.metrics.disentanglement.information_scores import ScoreParts, permutations
from ccvae_eval.metrics.disentanglement.predictors import without_fit_warnings
from ccvae_eval.metrics.disentanglement.table import PanelTable
from ccvae_eval.model.interface import LabelSchema
from ccvae_eval.statistics.information import Classes
from ccvae_eval.statistics.proportions import wilson

Floats32 = NDArray[np.float32]

GROUPS, SIZE = 24, 16
"""Groups drawn for each factor, and images in each."""


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """For each factor the codes of drawn images and the group that each is in.

    Args:
        groups: of each factor codes (M, D) and groups (M,).
        size: images in a group.
        note: how many were drawn.
    """

    groups: list[tuple[Floats, Classes]]
    size: int
    note: str


@dataclass(frozen=True, slots=True)
class RenderedScenes:
    """What a drawn image is made of: labels and factors, by name."""

    schema: LabelSchema
    factor_names: tuple[str, ...]


def rendered_pools(bench: PanelContext, columns: list[int], *, all_but_one: bool) -> Rendered | None:
    """Draws groups of images that share one factor (or all but one); None where the data cannot be drawn so.

    A factor is a label, or one of the data's own factors by name; what is not held fixed is drawn anew for each image
    from the data set's own images. Data that can only be drawn with another label serve as long as every factor is one.
    """
    data, names = bench.data, bench.table.factor_names
    if bench.encode is None or data is None:
        return None
    if isinstance(data, Renders):
        draw = partial(_of_scenes, bench)
    elif isinstance(data, HasCounterfactuals) and all(name in data.schema for name in names):
        draw = partial(_of_counterfactuals, bench)
    else:
        return None
    try:
        found = [bench.once(f"rendered/{name}/{all_but_one}", partial(draw, name, all_but_one)) for name in names]
    except DataError as error:
        # a label that no image has; and the oracle reads no picture that it has not drawn itself
        bench.notes.append(f"groups were not drawn: {error.what}")
        bench.encode = None
        return None
    count = sum(len(groups) for _, groups in found)
    return Rendered([(codes[:, columns], groups) for codes, groups in found], SIZE, f"{count} images drawn")


def _encoded(bench: PanelContext, images: Images) -> tuple[Floats, Classes]:
    assert bench.encode is not None
    return bench.encode(images), np.repeat(np.arange(GROUPS), SIZE)


def _of_counterfactuals(bench: PanelContext, name: str, all_but_one: bool) -> tuple[Floats, Classes]:
    """Images of the data set with one label set: one value for a group, or many values for one image."""
    data = bench.data
    assert isinstance(data, HasCounterfactuals)
    assert isinstance(data, DataSet)
    generator = numpy_stream(bench.seed, f"counterfactuals/{all_but_one}", name)
    shown = generator.integers(0, len(data), (GROUPS, SIZE))
    values = data.labels_of(shown.ravel())[:, data.schema.index(name)].reshape(GROUPS, SIZE)
    missing = np.isnan(values)
    if missing.all():
        raise DataError("every label is missing", where=name)
    if missing.any():
        values[missing] = generator.choice(values[~missing], int(missing.sum()))
    if all_but_one:
        shown = shown[:, :1].repeat(SIZE, 1)
    else:
        values = values[:, :1].repeat(SIZE, 1)
    return _encoded(bench, data.with_attribute(shown.ravel(), name, values.ravel()))


def _of_scenes(bench: PanelContext, name: str, all_but_one: bool) -> tuple[Floats, Classes]:
    """Images drawn from factors and labels of the data set's own images, mixed."""
    data = bench.data
    assert isinstance(data, Renders)
    assert isinstance(data, DataSet)
    generator = numpy_stream(bench.seed, f"rendered/{all_but_one}", name)
    shown = generator.integers(0, len(data), (GROUPS, SIZE))
    factors = data.factors(shown.ravel()).reshape(GROUPS, SIZE, -1)
    labels = data.labels_of(shown.ravel()).reshape(GROUPS, SIZE, -1)
    scenes = RenderedScenes(data.schema, data.factor_names)
    if all_but_one:
        free, held = (factors.copy(), labels.copy()), (factors, labels)
        factors[:], labels[:] = factors[:, :1], labels[:, :1]
        _copy(scenes, name, free, held)
    else:
        fixed = (factors[:, :1].repeat(SIZE, 1), labels[:, :1].repeat(SIZE, 1))
        _copy(scenes, name, fixed, (factors, labels))
    return _encoded(bench, data.render(factors.reshape(GROUPS * SIZE, -1), labels.reshape(GROUPS * SIZE, -1)))


def _copy(scenes: RenderedScenes, name: str, source: tuple[Floats, Floats32], target: tuple[Floats, Floats32]) -> None:
    """Takes one factor over from other scenes."""
    if name in scenes.schema:
        column = scenes.schema.index(name)
        target[1][..., column] = source[1][..., column]
    else:
        column = scenes.factor_names.index(name)
        target[0][..., column] = source[0][..., column]


PER_TEST = 2
"""Votes to learn from, for each one to judge on."""

Z = 1.96

RESAMPLED = "resampled from the rows"


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Rows grouped so that the rows of a group share something.

    Args:
        codes: shape (M, D).
        order: places of the rows, group after group.
        first, size: where each group begins in ``order``, and how many it has.
    """

    codes: Floats
    order: Ids
    first: Ids
    size: Ids

    def drawn(self, generator: np.random.Generator, groups: int, count: int) -> Ids:
        """Places of ``count`` rows of each of so many groups (likelier the larger), drawn again and again;
        shape (groups, count)."""
        chosen = generator.choice(len(self.size), groups, p=self.size / self.size.sum())
        within = (generator.random((groups, count)) * self.size[chosen, None]).astype(np.int64)
        return np.asarray(self.order[self.first[chosen, None] + within])


def pool_of(codes: Floats, groups: Classes, least: int = 2) -> Pool | None:
    """Rows by the group they are in (-1 = none), without groups of fewer than ``least`` rows; None if none is left."""
    order = np.argsort(groups, kind="stable")
    order = order[groups[order] >= 0]
    values, first, size = np.unique(groups[order], return_index=True, return_counts=True)
    large = size >= least
    del values
    return Pool(codes, order, first[large], size[large]) if large.any() else None


@dataclass(frozen=True, slots=True, eq=False)
class Votes:
    """Features of groups with the factor that each is about.

    Args:
        features: of each group and code, in units of the code's own spread, shape (V, D).
        factors: which factor, shape (V,).
        known: how many factors could be asked about.
    """

    features: Floats
    factors: Ids
    known: int


Feature = Callable[[Pool, np.random.Generator, int, int], Floats]


def _variances(pool: Pool, generator: np.random.Generator, votes: int, count: int) -> Floats:
    found = np.empty((votes, pool.codes.shape[1]))
    step = max((1 << 21) // max(count * pool.codes.shape[1], 1), 1)
    for first in range(0, votes, step):
        rows = pool.drawn(generator, min(step, votes - first), count)
        found[first : first + step] = pool.codes[rows].var(axis=1, ddof=1)
    return found


def _differences(pool: Pool, generator: np.random.Generator, votes: int, count: int) -> Floats:
    """Mean |z - z'| over ``count`` pairs that share the value; each pair may have another value."""
    found = np.empty((votes, pool.codes.shape[1]))
    step = max((1 << 20) // max(count * pool.codes.shape[1], 1), 1)
    for first in range(0, votes, step):
        here = min(step, votes - first)
        pairs = pool.drawn(generator, here * count, 2)
        apart = np.abs(pool.codes[pairs[:, 0]] - pool.codes[pairs[:, 1]])
        found[first : first + step] = apart.reshape(here, count, -1).mean(axis=1)
    return found


def cast(pools: list[Pool | None], feature: Feature, unit: Floats, votes: int, count: int, seed: int) -> Votes:
    """Votes about factors drawn at random among those that have a pool."""
    usable = [k for k, pool in enumerate(pools) if pool is not None]
    generator = numpy_stream(seed, "votes", feature.__name__)
    asked = np.sort(generator.choice(usable, votes)) if usable else np.empty(0, dtype=np.int64)
    parts = [
        feature(pool, generator, int((asked == k).sum()), count)
        for k, pool in enumerate(pools)
        if pool is not None and (asked == k).any()
    ]
    features = np.concatenate(parts) / unit if parts else np.empty((0, len(unit)))
    order = generator.permutation(len(asked))
    return Votes(features[order], asked[order], len(usable))


@dataclass(frozen=True, slots=True)
class MajorityVote:
    """How the held-out votes went.

    Args:
        plain: share that is right.
        credited: mean of right times 1 - the feature of the code that was voted for.
        right, n: counts.
        error: standard error of ``credited`` over the votes.
    """

    plain: float
    credited: float
    right: int
    n: int
    error: float = np.nan


def majority(votes: Votes, choice: Ids) -> MajorityVote:
    """Each code says the factor it was chosen for most often among the first votes; judged on the rest."""
    cut = len(choice) * PER_TEST // (PER_TEST + 1)
    width = votes.features.shape[1]
    table = np.zeros((width, int(votes.factors.max(initial=0)) + 1))
    np.add.at(table, (choice[:cut], votes.factors[:cut]), 1)
    told = table.argmax(axis=1)[choice[cut:]]
    right = told == votes.factors[cut:]
    gone = 1 - np.clip(votes.features[cut:][np.arange(len(right)), choice[cut:]], 0.0, 1.0)
    credit = right * gone
    error = float(credit.std() / np.sqrt(len(credit)))
    return MajorityVote(float(right.mean()), float(credit.mean()), int(right.sum()), len(right), error)


def linear(votes: Votes) -> MajorityVote:
    """The published BetaVAE classifier: a logistic regression on all differences."""
    from sklearn.linear_model import LogisticRegression

    cut = len(votes.factors) * PER_TEST // (PER_TEST + 1)
    if len(np.unique(votes.factors[:cut])) < 2:
        return MajorityVote(np.nan, np.nan, 0, 0)
    with without_fit_warnings():
        reader = LogisticRegression().fit(votes.features[:cut], votes.factors[:cut])
    right = reader.predict(votes.features[cut:]) == votes.factors[cut:]
    return MajorityVote(float(right.mean()), np.nan, int(right.sum()), len(right))


def _unit(codes: Floats, feature: Feature) -> Floats:
    """Of each code what the feature is over all rows; NaN for a constant code."""
    if feature is _variances:
        spread = codes.var(axis=0, ddof=1)
    else:
        # mean |z - z'| of all pairs, from the order statistics
        n = len(codes)
        place = 2 * np.arange(1, n + 1) - n - 1
        spread = 2 * (np.sort(codes, axis=0) * place[:, None]).sum(axis=0) / (n * (n - 1))
    return np.where(spread > 1e-12 * np.abs(codes).max(axis=0, initial=0.0) ** 2, spread, np.nan)


def _pools(table: PanelTable, columns: list[int], *, all_but_one: bool) -> list[Pool | None]:
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
            varied = np.flatnonzero(np.bincount(pairs[:, 0]) > 1)
            groups[~np.isin(groups, varied)] = -1
        pools.append(pool_of(codes, groups))
    return pools


def _columns(bench: PanelContext) -> list[int]:
    """Columns that vary, of the blocks that are scored; robust: of the active ones, where there are any."""
    chosen = bench.kept
    if bench.settings.robust and bench.information.active.any():
        chosen = bench.kept[bench.information.active]
    every = [c for j in chosen for c in bench.table.blocks[j]]
    return [c for c in every if np.ptp(bench.table.codes[:, c]) > 0]


def factor_vae(bench: PanelContext) -> list[ScoreResult]:
    """The code that varies least while a factor is fixed votes for it (Kim and Mnih 2018)."""
    return _scores(bench, "factor_vae", _variances, all_but_one=False)


def beta_vae(bench: PanelContext) -> list[ScoreResult]:
    """Which factor do pairs share, told from mean |z - z'| (Higgins et al. 2017)."""
    return _scores(bench, "beta_vae", _differences, all_but_one=False)


def z_max_var(bench: PanelContext) -> list[ScoreResult]:
    """The code that varies most while all other factors are fixed votes for the one that is not (Kim et al. 2019)."""
    return _scores(bench, "z_max_var", _variances, all_but_one=True)


def _scores(bench: PanelContext, name: str, feature: Feature, *, all_but_one: bool) -> list[ScoreResult]:
    settings, table = bench.settings, bench.table
    columns = _columns(bench)
    names = (name, f"{name}_votes") if settings.robust else (name,)
    drawn = rendered_pools(bench, columns, all_but_one=all_but_one)
    if drawn is None:
        pools, votes, how = _pools(table, columns, all_but_one=all_but_one), settings.votes, RESAMPLED
        count = settings.group
    else:
        pools = [pool_of(codes, groups) for codes, groups in drawn.groups]
        votes, count, how = settings.votes, min(settings.group, drawn.size), drawn.note
    usable = sum(pool is not None for pool in pools)
    if not columns or usable < 2:
        what = "share all factors but one and differ in it" if all_but_one else "share a value"
        why = "every code is constant" if not columns else f"{usable} factors have rows that {what}: 2 are needed"
        return [undefined_result(each, why, len(table)) for each in names]
    # the published classifier of pairs sees the codes' own units
    raw = name == "beta_vae" and not settings.robust
    unit = np.ones(len(columns)) if raw else _unit(table.codes[:, columns], feature)
    verdict = _verdict(cast(pools, feature, unit, votes, count, bench.seed), name, robust=settings.robust)
    chance = float("nan")
    if settings.robust and not bench.quick:
        chance = _chance(bench, pools, feature, unit, votes, count, name)
    return _findings(bench, names, verdict, chance, usable, how)


def _chance(
    bench: PanelContext, pools: list[Pool | None], feature: Feature, unit: Floats, votes: int, count: int, name: str
) -> float:
    """What is credited when the rows of every pool are dealt out anew over its groups."""
    order = next(iter(permutations(bench.seed, max(len(p.codes) for p in pools if p is not None), 1)))
    mixed: list[Pool | None] = [
        None if p is None else Pool(p.codes[order[order < len(p.codes)]], p.order, p.first, p.size) for p in pools
    ]
    found = cast(mixed, feature, unit, votes, count, bench.seed)
    return _verdict(found, name, robust=True).credited


def _verdict(votes: Votes, name: str, *, robust: bool) -> MajorityVote:
    if name == "beta_vae" and not robust:
        return linear(votes)
    if name == "z_max_var":
        choice = votes.features.argmax(axis=1)
        plain = majority(votes, choice)
        if not robust:
            return plain
        # what is gone here is the spread of all other codes
        return _all_but_one(votes, choice)
    return majority(votes, votes.features.argmin(axis=1))


def _all_but_one(votes: Votes, choice: Ids) -> MajorityVote:
    """A right vote counts by how much of the group's spread, in units of each code's own, lies in the chosen code."""
    share = np.maximum(votes.features, 0.0)
    total = share.sum(axis=1, keepdims=True)
    return majority(Votes(1 - share / np.where(total > 0, total, 1.0), votes.factors, votes.known), choice)


def _findings(
    bench: PanelContext, names: tuple[str, ...], verdict: MajorityVote, chance: float, known: int, how: str
) -> list[ScoreResult]:
    n = len(bench.table)
    plain = wilson(verdict.right, verdict.n)
    note = f"{how}; interval over the {verdict.n} votes alone"
    found = []
    for name in names:
        credited = len(names) == 2 and name == names[0]
        value = verdict.credited if credited else verdict.plain
        usual = None if bench.quick else ScoreParts(np.asarray(chance if credited else 1 / known))
        half = Z * verdict.error
        ends = (value - half, value + half) if credited else (plain.low, plain.high)
        interval = None if bench.quick or np.isnan(value) else ends
        found.append(
            ScoreResult(
                name, ScoreParts(np.asarray(value)), n, chance=usual, why="too few votes", note=note, interval=interval
            )
        )
    return found
