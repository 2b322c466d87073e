"""The whole panel: scores, chance, intervals, the reference under correlation, and what stands beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.errors import UndefinedError
from ccvae_eval.measure import Estimate, Measurement, Reason, Value
from ccvae_eval.metrics.disentanglement.bench import Bench
from ccvae_eval.metrics.disentanglement.correlation import factor_correlations, factors_as_codes
from ccvae_eval.metrics.disentanglement.findings import CODE, Finding
from ccvae_eval.metrics.disentanglement.scores import DEFAULT, SCORES, VALUES, score_of
from ccvae_eval.metrics.disentanglement.settings import Settings
from ccvae_eval.metrics.disentanglement.table import Table, table_of
from ccvae_eval.statistics.resampling import ResampleWeights
from ccvae_eval.statistics.threads import one_thread
from ccvae_eval.types import Floats, Plain

NAME, VERSION, HEADLINE = "disentanglement", 4, "infom"

MOST_ENTRIES = 2_000
"""Entries of a matrix that are written as values; larger ones are pictures only."""

FEWEST_ROWS = 10
"""Fewer rows, in either part, give no panel."""

FIT_DRAWS = 500
"""Bootstrap weights of a panel: they are kept in memory up to 134,000 rows."""


def wanted_scores(settings: Settings) -> tuple[str, ...]:
    """The names of the scores that are asked for.

    Raises:
        UsageError: an unknown name.
    """
    if settings.every:
        return tuple(SCORES)
    return tuple(dict.fromkeys(score_of(name) for name in settings.score)) or DEFAULT


def panel(codes: Any, factors: Any, settings: Settings | None = None, *, seed: int = 0, **arrays: Any) -> Measurement:
    """Scores codes against factors.

    Args:
        codes: shape (N, D).
        factors: shape (N, K); text, classes, numbers; NaN or "" = missing.
        settings: which scores, and how; see :class:`Disentanglement`.
        seed: of every draw.
        **arrays: ``names``, ``kinds``, ``blocks``, ``block_names``, ``train``, ``test``, as in :func:`table_of`.

    Returns:
        One value for each score (``characteristic`` None), with those of each factor and of each code beside it.
    """
    table = table_of(codes, factors, **arrays)
    return measured(Bench(table, settings or Settings(), seed, ResampleWeights(seed, len(table), FIT_DRAWS)))


def score(name: str, codes: Any, factors: Any, *, profile: Any = "robust", seed: int = 0, **arrays: Any) -> float:
    """One number: the total of one value, NaN where it is undefined; arguments as in :func:`panel`.

    >>> rows = np.arange(600)
    >>> factors = np.stack([rows % 3, rows // 3 % 2], axis=1)
    >>> round(score("mig", factors + 0.0, factors, profile="reference"), 2)
    1.0
    """
    asked = score_of(name)
    table = table_of(codes, factors, **arrays)
    weights = ResampleWeights(seed, len(table), FIT_DRAWS)
    bench = Bench(table, Settings(profile=profile, score=(asked,)), seed, weights, quick=True)
    with one_thread():
        found = {finding.name: finding for finding in SCORES[asked].compute(bench)}
    return float(found[name if name in found else next(iter(found))].point.total)


def measured(bench: Bench) -> Measurement:
    """The measurement of one bench."""
    settings, table = bench.settings, bench.table
    names = wanted_scores(settings)
    least = min(len(table.train), len(table.test)) if len(table.test) else len(table.train)
    if least < FEWEST_ROWS:
        raise UndefinedError(
            f"{len(table.train)} rows to fit and {len(table.test)} to judge on: {FEWEST_ROWS} of each are needed",
            where=NAME,
        )
    with one_thread():
        correlations = factor_correlations(table)
        findings = [finding for name in names for finding in SCORES[name].compute(bench)]
        references = _references(bench, names, correlations)
        values = _values(bench, findings, references)
        values += _beside(bench, correlations)
    ordered = sorted(values, key=lambda value: list(VALUES).index(value.name))
    headline = HEADLINE if any(value.name == HEADLINE for value in values) else findings[0].name
    nothing = all(np.isnan(finding.point.total) for finding in findings)
    whys = dict.fromkeys(finding.why for finding in findings if finding.why)
    return Measurement(
        NAME,
        VERSION,
        _plain(asdict(settings)),
        headline,
        tuple(ordered),
        "undefined" if nothing else "ok",
        Reason("undefined", "; ".join(whys)) if nothing else None,
        _evidence(table),
        _pictures(bench, correlations),
        tuple(_notes(bench, names, correlations)),
    )


def _plain(settings: dict[str, Any]) -> dict[str, Plain]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


def _values(bench: Bench, findings: Sequence[Finding], references: dict[str, float]) -> list[Value]:
    found = []
    factors, level = bench.table.factor_names, bench.weights.level
    for finding in findings:
        rows = finding.values(factors, bench.names, level)
        if not np.isnan(references.get(finding.name, np.nan)) and rows[0].estimate.defined:
            rows[0] = replace(rows[0], reference=references[finding.name])
        found += [_clipped(row) for row in rows]
    return found


def _clipped(value: Value) -> Value:
    low, high = VALUES[value.name].range
    least, greatest = -np.inf if low is None else low, np.inf if high is None else high
    estimate = value.estimate
    ends = np.clip([estimate.low, estimate.high], least, greatest)
    # a clipped or one-sided score may lie at the end of what its subsamples say
    bottom, top = (float(e) for e in ends)
    if estimate.defined and not np.isnan(bottom):
        bottom, top = min(bottom, estimate.value), max(top, estimate.value)
    return replace(value, estimate=replace(estimate, low=bottom, high=top))


def _correlated(bench: Bench, correlations: Floats) -> Floats:
    """The association of every two different factors, -1 where there is none to speak of."""
    return np.nan_to_num(np.tril(correlations, -1), nan=0.0) * (np.tril(correlations, -1) > bench.settings.correlated)


def _references(bench: Bench, names: Sequence[str], correlations: Floats) -> dict[str, float]:
    """What the factors themselves score, where they are correlated; else nothing: it is 1."""
    if not _correlated(bench, correlations).any():
        return {}
    table = factors_as_codes(bench.table, bench.seed)
    ideal = Bench(table, bench.settings, bench.seed, bench.weights, quick=True)
    skipped = {"dci_es", "dependence", "rmig"}
    if not bench.settings.robust:
        # the published booster takes minutes
        skipped |= {"dci", "nk"}
    found: dict[str, float] = {}
    for name in names:
        if name not in skipped:
            found |= {f.name: float(f.point.total) for f in SCORES[name].compute(ideal) if not f.at}
    return found


def _beside(bench: Bench, correlations: Floats) -> list[Value]:
    """What stands beside the scores: how factors go together, active codes, the information matrix."""
    n, names, factors = len(bench.rows), bench.names, bench.table.factor_names
    info = bench.information
    active = int(info.active.sum())
    found = [Value("active_codes", Estimate(float(active), n=n), note=_inactive(bench))]
    for i in range(len(factors)):
        for j in range(i):
            shown = len(factors) <= 40 or correlations[i, j] > bench.settings.correlated
            if shown:
                note = "" if not np.isnan(correlations[i, j]) else "a factor is constant"
                at = {"with": factors[j]}
                value = float(correlations[i, j])
                found.append(Value("factor_correlation", Estimate(value, n=n), factors[i], at, note=note))
    if len(names) * len(factors) <= MOST_ENTRIES:
        for k, factor in enumerate(factors):
            entropy = float(info.factor_entropy[k])
            for j, name in enumerate(names):
                share = float(info.mutual[j, k] / entropy) if entropy > 1e-12 else float("nan")
                note = "" if entropy > 1e-12 else "the factor is constant"
                found.append(Value("information", Estimate(share, n=n), factor, {CODE: name}, note=note))
    return found


def _inactive(bench: Bench) -> str:
    quiet = [name for name, active in zip(bench.names, bench.information.active, strict=True) if not active]
    return f"inactive: {_listed(quiet)}" if quiet else ""


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _notes(bench: Bench, names: Sequence[str], correlations: Floats) -> list[str]:
    table = bench.table
    notes = list(bench.notes)
    strong = np.argwhere(_correlated(bench, correlations))
    if len(strong):
        order = sorted(strong.tolist(), key=lambda ij: -correlations[ij[0], ij[1]])
        pairs = [f"{table.factors[i].name} with {table.factors[j].name} {correlations[i, j]:.2f}" for i, j in order]
        notes.append(
            f"factors are correlated ({_listed(pairs, 4)}): the best that a code can score is below 1; the reference "
            "is what the factors themselves score"
        )
    if quiet := _inactive(bench):
        notes.append(f"{quiet} (no factor is told beyond permuted ones)" if _pruned_by_information(bench) else quiet)
    if bench.twins:
        twins = [f"{table.names[a]} repeats {table.names[b]}" for a, b in bench.twins.items()]
        notes.append(f"set aside, a monotone transform of another code: {_listed(twins)}")
    missing = [f"{f.name} {int((~f.known).sum())}" for f in table.factors if not f.known.all()]
    if missing:
        notes.append(f"missing values: {_listed(missing)}")
    constant = [f.name for f in table.factors if f.levels < 2]
    if constant:
        notes.append(f"constant, left out: {_listed(constant)}")
    if "dci" in names:
        which = (
            f"{bench.settings.predictor}, {bench.settings.importance} importance, {bench.settings.fits} fits"
            if bench.settings.robust
            else "gradient_boosting of scikit-learn, impurity gain"
        )
        notes.append(f"DCI's predictor: {which}")
    notes.append(
        f"{bench.settings.profile} profile: information on {len(bench.rows)} rows in {bench.counts.bins} bins of "
        f"equal {'mass' if bench.settings.robust else 'width'}; fitted on {len(table.train)} rows, judged on "
        f"{len(table.test)}"
    )
    return notes


def _pruned_by_information(bench: Bench) -> bool:
    return bench.settings.robust and bench.settings.pruning == "information"


def _evidence(table: Table) -> dict[str, NDArray[np.generic]]:
    factors = np.stack([factor.classes if factor.discrete else factor.values for factor in table.factors], axis=1)
    return {"codes": table.codes, "factors": factors.astype(np.float64)}


def _pictures(bench: Bench, correlations: Floats) -> dict[str, NDArray[np.generic]]:
    info = bench.information
    entropy = np.where(info.factor_entropy > 1e-12, info.factor_entropy, np.nan)
    return {
        "information": np.asarray(info.mutual / entropy),
        "correlation": correlations,
        "codes": np.array(bench.names),
        "factors": np.array(bench.table.factor_names),
        "active": info.active,
    }
