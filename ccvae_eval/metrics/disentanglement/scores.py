"""The panel: its registry of scores and values, and the measurement of a table with chance levels and references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from ccvae_eval.core.devices import one_thread
from ccvae_eval.core.errors import UndefinedError, UsageError, listed, suggestion
from ccvae_eval.core.results import Estimate, Measurement
from ccvae_eval.core.types import Floats
from ccvae_eval.evaluation.metric import Metric
from ccvae_eval.evaluation.result_table import NO_CONDITION, At, ResultTable
from ccvae_eval.metrics.disentanglement import information_scores as formulas
from ccvae_eval.metrics.disentanglement.alignment import nk, snc
from ccvae_eval.metrics.disentanglement.capacity import dci_es, rmig
from ccvae_eval.metrics.disentanglement.context import CODE, PanelContext, ScoreResult
from ccvae_eval.metrics.disentanglement.dci import dci
from ccvae_eval.metrics.disentanglement.dependence import dependence
from ccvae_eval.metrics.disentanglement.group_scores import (
    beta_vae,
    consistency,
    factor_vae,
    restrictiveness,
    z_max_var,
)
from ccvae_eval.metrics.disentanglement.identifiability import mcc, r2, tad
from ccvae_eval.metrics.disentanglement.information_scores import Information, ScoreParts
from ccvae_eval.metrics.disentanglement.linear_probes import downstream, explicitness, infoe
from ccvae_eval.metrics.disentanglement.robustness import irs
from ccvae_eval.metrics.disentanglement.sap import sap
from ccvae_eval.metrics.disentanglement.settings import HEADLINE, NAME, VALUES, PanelSettings, Profile
from ccvae_eval.metrics.disentanglement.table import FactorKind, factor_correlations, factors_as_codes, table_of
from ccvae_eval.statistics.resampling import ResampleWeights

MAX_MATRIX_VALUES = 2_000
"""Larger information matrices are figures only, not values."""

MAX_FACTORS = 40
"""With more factors, only their strong correlations are values."""

MIN_ROWS = 10
"""Fewest training rows, and fewest test rows."""

BOOTSTRAP_DRAWS = 500
"""Bootstrap resamples of the test rows."""

Compute = Callable[[PanelContext], list[ScoreResult]]

COMPACTNESS, MODULARITY, INFORMATION, OTHER = "compactness", "modularity", "information", "other"
FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        COMPACTNESS: "each factor is encoded in one latent",
        MODULARITY: "each latent encodes one factor",
        INFORMATION: "the factors can be predicted from all latents together (invariant to rotation)",
        OTHER: "other scores",
    }
)

TWO_LATENTS = "needs two latent dimensions and a factor that varies"
TWO_FACTORS = "needs two factors, at least one of which varies"
NO_ACTIVE_LATENT = "no latent dimension is more informative about any factor than about permuted ones"


@dataclass(frozen=True, slots=True)
class Score:
    """One score of the panel.

    Args:
        family: compactness, modularity, information or other.
        compute: computes its results.
        default: True if the score belongs to the default set.
    """

    family: str
    compute: Compute
    default: bool = False


def _score(formula: Callable[[Information], ScoreParts], reason: str, *, active: bool = False) -> Compute:
    """The score that a formula is named after; ``active`` if it is undefined without an active latent."""

    def compute(context: PanelContext) -> list[ScoreResult]:
        why = NO_ACTIVE_LATENT if active and not context.information.active.any() else reason
        return [context.information_result(formula.__name__, formula, why)]

    return compute


def _modularity(context: PanelContext) -> list[ScoreResult]:
    robust = context.settings.robust
    reason = NO_ACTIVE_LATENT if len(context.table.factors) > 1 else TWO_FACTORS
    return [context.information_result("modularity", lambda info: formulas.modularity(info, weighted=robust), reason)]


def _jemmig(context: PanelContext) -> list[ScoreResult]:
    return [context.information_result("jemmig", formulas.jemmig, TWO_LATENTS, at={"bins": context.binned.bins})]


SCORES: Mapping[str, Score] = MappingProxyType(
    {
        "infoc": Score(COMPACTNESS, _score(formulas.infoc, "needs two active latent dimensions", active=True), True),
        "mig": Score(COMPACTNESS, _score(formulas.mig, TWO_LATENTS), True),
        "sap": Score(COMPACTNESS, sap, True),
        "jemmig": Score(COMPACTNESS, _jemmig),
        "dmig": Score(COMPACTNESS, _score(formulas.dmig, TWO_LATENTS)),
        "rmig": Score(COMPACTNESS, rmig),
        "snc": Score(COMPACTNESS, snc),
        "nk": Score(COMPACTNESS, nk),
        "mcc": Score(COMPACTNESS, mcc),
        "tad": Score(COMPACTNESS, tad),
        "dci": Score(MODULARITY, dci, True),
        "infom": Score(MODULARITY, _score(formulas.infom, TWO_FACTORS, active=True), True),
        "modularity": Score(MODULARITY, _modularity, True),
        "mig_sup": Score(MODULARITY, _score(formulas.mig_sup, TWO_FACTORS, active=True)),
        "dcimig": Score(MODULARITY, _score(formulas.dcimig, TWO_FACTORS)),
        "factor_vae": Score(MODULARITY, factor_vae),
        "beta_vae": Score(MODULARITY, beta_vae),
        "z_max_var": Score(MODULARITY, z_max_var),
        "consistency": Score(MODULARITY, consistency),
        "restrictiveness": Score(MODULARITY, restrictiveness),
        "irs": Score(MODULARITY, irs),
        "infoe": Score(INFORMATION, infoe, True),
        "explicitness": Score(INFORMATION, explicitness, True),
        "downstream": Score(INFORMATION, downstream),
        "r2": Score(INFORMATION, r2),
        "dci_es": Score(OTHER, dci_es),
        "dependence": Score(OTHER, dependence),
    }
)
"""Every score, by the name that ``--score`` takes."""

DEFAULT = tuple(name for name, score in SCORES.items() if score.default)

FAMILY_OF: Mapping[str, str] = MappingProxyType(
    {"dci_completeness": COMPACTNESS, "dci_informativeness": INFORMATION, "dci_informativeness_train": INFORMATION}
    | {"explicitness_train": INFORMATION, "dci_disentanglement": MODULARITY}
    | {"mcc_rank": COMPACTNESS, "captured": COMPACTNESS, "r2_linear": INFORMATION, "r2_nonlinear": INFORMATION}
)
"""Values whose family differs from that of their score."""

CONTEXT_VALUES = ("udr", "information", "factor_correlation", "active_codes")
"""Values that no score of ``SCORES`` computes."""


def score_of(value: str) -> str:
    """The score that computes a value; the name of a score is its own.

    >>> score_of("dci_completeness"), score_of("mig_sup"), score_of("mutual_info_score")
    ('dci', 'mig_sup', 'dependence')

    Raises:
        UsageError: an unknown name.
    """
    if value in SCORES:
        return value
    known = [name for name in VALUES if name not in CONTEXT_VALUES]
    if value not in known:
        hint = suggestion(value, [*SCORES, *known])
        raise UsageError(f"{value!r} is not a score of the panel", where="disentanglement", hint=hint)
    if value in ("dci_explicitness", "dci_size"):
        return "dci_es"
    if value == "captured":
        return "tad"
    longest = sorted(SCORES, key=len, reverse=True)
    return next((name for name in longest if value.startswith(f"{name}_")), "dependence")


def family_of(value: str) -> str:
    """The family that a value is shown under."""
    if value in FAMILY_OF:
        return FAMILY_OF[value]
    name = value.removesuffix("_votes").removesuffix("_raw").removesuffix("_continuous")
    return SCORES[name].family if name in SCORES else OTHER


def wanted_scores(settings: PanelSettings) -> tuple[str, ...]:
    """Names of the scores that the settings select.

    Raises:
        UsageError: an unknown name.
    """
    if settings.every:
        return tuple(SCORES)
    return tuple(dict.fromkeys(score_of(name) for name in settings.score)) or DEFAULT


def score(
    codes: Any,
    factors: Any,
    name: str,
    *,
    profile: Profile = "robust",
    seed: int = 0,
    names: Sequence[str] | None = None,
    kinds: Sequence[FactorKind] | None = None,
    blocks: Sequence[Sequence[int]] | None = None,
    block_names: Sequence[str] | None = None,
    train: Any = None,
    test: Any = None,
) -> float:
    """The total of one value of the panel as a number, NaN if it is undefined.

    Args:
        codes: shape (N, D).
        factors: numbers or text, shape (N, K); NaN and "" are missing values.
        name: the value, such as "mig" or "dci_completeness".
        profile: "robust", or "reference" for the published definition.
        seed: seed of all random streams.
        names, kinds, blocks, block_names, train, test: as in
            :func:`ccvae_eval.metrics.disentanglement.table_of`.

    Raises:
        DataError: invalid arrays.
        UsageError: an unknown name.

    >>> rows = np.arange(600)
    >>> factors = np.stack([rows % 3, rows // 3 % 2], axis=1)
    >>> round(score(factors + 0.0, factors, "mig", profile="reference"), 2)
    1.0
    """
    wanted = score_of(name)
    table = table_of(
        codes, factors, names=names, kinds=kinds, blocks=blocks, block_names=block_names, train=train, test=test
    )
    weights = ResampleWeights(seed, len(table), BOOTSTRAP_DRAWS)
    context = PanelContext(table, PanelSettings(profile=profile, score=(wanted,)), seed, weights, point_only=True)
    with one_thread():
        found = {result.name: result for result in SCORES[wanted].compute(context)}
    return float(found[name if name in found else next(iter(found))].point.total)


def measure_panel(metric: Metric, context: PanelContext) -> Measurement:
    """Computes the scores that the context's settings select, which are those of the metric.

    Raises:
        UndefinedError: fewer than ten training or test rows.
        UsageError: an unknown score.
    """
    data, names = context.table, wanted_scores(context.settings)
    if len(data.train) < MIN_ROWS or 0 < len(data.test) < MIN_ROWS:
        raise UndefinedError(
            f"needs at least {MIN_ROWS} training rows and {MIN_ROWS} test rows, "
            f"got {len(data.train)} and {len(data.test)}",
            where=NAME,
        )
    with one_thread():
        correlations = factor_correlations(data)
        results = [result for name in names for result in SCORES[name].compute(context)]
        references = _references(context, names, correlations)
    factors = np.stack([factor.classes if factor.discrete else factor.values for factor in data.factors], axis=1)
    table = ResultTable(metric, data, context.weights)
    table.evidence.update(codes=data.codes, factors=factors.astype(np.float64))
    for result in results:
        result.add_to(table, data.factor_names, context.latent_names, references.get(result.name))
    _add_context_values(table, context, correlations)
    pictures = {
        "information": context.information.shares,
        "correlation": correlations,
        "codes": np.array(context.latent_names),
        "factors": np.array(data.factor_names),
        "active": context.information.active,
    }
    found = table.measurement(_notes(context, names, correlations), pictures, CONTEXT_VALUES)
    shown = [result.name for result in results]
    return replace(found, headline=HEADLINE if HEADLINE in shown else shown[0])


def _strong_correlations(context: PanelContext, correlations: Floats) -> Floats:
    """Correlations above the setting ``correlated`` below the diagonal, 0 elsewhere."""
    lower = np.tril(correlations, -1)
    return np.nan_to_num(lower, nan=0.0) * (lower > context.settings.correlated)


def _references(context: PanelContext, names: Sequence[str], correlations: Floats) -> dict[str, float]:
    """Scores of the factors themselves as codes if factors are correlated; empty otherwise, since they are 1."""
    if not _strong_correlations(context, correlations).any():
        return {}
    table = factors_as_codes(context.table, context.seed)
    ideal = PanelContext(table, context.settings, context.seed, context.weights, point_only=True)
    # the published boosting of dci and nk takes minutes
    skipped = {"dci_es", "dependence", "rmig"} | (set() if context.settings.robust else {"dci", "nk"})
    results = [result for name in names if name not in skipped for result in SCORES[name].compute(ideal)]
    totals = {result.name: float(result.point.total) for result in results if not result.at}
    return {name: total for name, total in totals.items() if not np.isnan(total)}


def _add_context_values(table: ResultTable, context: PanelContext, correlations: Floats) -> None:
    """Adds the values beside the scores: active latents, correlations of factors, information matrix."""
    n, names, factors = len(context.rows), context.latent_names, context.table.factor_names

    def add(name: str, factor: str | None, value: float, at: At = NO_CONDITION, why: str = "", note: str = "") -> None:
        table.add(name, factor, Estimate(float(value), n=n), at, mean_at=None, why=why, note=note, excluded=0)

    add("active_codes", None, context.information.active.sum(), note=_inactive(context))
    for i, j in zip(*np.tril_indices(len(factors), -1), strict=True):
        if len(factors) <= MAX_FACTORS or correlations[i, j] > context.settings.correlated:
            at = {"with": factors[j]}
            add("factor_correlation", factors[i], correlations[i, j], at, why="a factor is constant")
    if len(names) * len(factors) <= MAX_MATRIX_VALUES:
        for factor, shares in zip(factors, context.information.shares.T, strict=True):
            for name, share in zip(names, shares, strict=True):
                add("information", factor, share, {CODE: name}, why="the factor is constant")


def _inactive(context: PanelContext) -> str:
    active = context.information.active
    inactive = [name for name, on in zip(context.latent_names, active, strict=True) if not on]
    return f"inactive: {listed(inactive, most=12)}" if inactive else ""


def _notes(context: PanelContext, names: Sequence[str], correlations: Floats) -> list[str]:
    table, settings = context.table, context.settings
    notes = list(context.notes)
    strong = np.argwhere(_strong_correlations(context, correlations))
    if len(strong):
        order = sorted(strong.tolist(), key=lambda ij: -correlations[ij[0], ij[1]])
        pairs = [f"{table.factors[i].name} with {table.factors[j].name} {correlations[i, j]:.2f}" for i, j in order]
        notes.append(
            f"factors are correlated ({listed(pairs, 4)}), so the best possible scores are below 1; the reference is "
            "the score of the factors themselves"
        )
    if inactive := _inactive(context):
        by_information = settings.robust and settings.pruning == "information"
        reason = " (not more informative about any factor than about permuted ones)" if by_information else ""
        notes.append(f"{inactive}{reason}")
    if context.duplicate_blocks:
        pairs = [f"{table.names[a]} repeats {table.names[b]}" for a, b in context.duplicate_blocks.items()]
        notes.append(f"left out, a monotone transform of another latent dimension: {listed(pairs)}")
    if missing := [f"{f.name} {int((~f.known).sum())}" for f in table.factors if not f.known.all()]:
        notes.append(f"missing values: {listed(missing)}")
    if constant := [f.name for f in table.factors if f.levels < 2]:
        notes.append(f"left out, constant: {listed(constant)}")
    if "dci" in names:
        predictor = "gradient boosting of scikit-learn, gain importance"
        if settings.robust:
            predictor = f"{settings.predictor}, {settings.importance} importance, {settings.fits} fits"
        notes.append(f"DCI's predictor: {predictor}")
    notes.append(
        f"{settings.profile} profile: information on {len(context.rows)} rows in {context.binned.bins} bins of equal "
        f"{'mass' if settings.robust else 'width'}; fitted on {len(table.train)} rows, scored on {len(table.test)}"
    )
    return notes
