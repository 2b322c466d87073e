"""Which scores there are: what each is called, what family it belongs to, what its values mean, what computes it.

The whole panel: scores, chance, intervals, the reference under correlation, and what stands beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import UndefinedError, UsageError, suggestion
from ccvae_eval.core.results import Estimate, Measurement, Reason, Value, ValueSpec
from ccvae_eval.core.types import Floats, Plain
from ccvae_eval.metrics.disentanglement import information_scores as gaps
from ccvae_eval.metrics.disentanglement.alignment import nk, snc
from ccvae_eval.metrics.disentanglement.capacity import dci_es, rmig
from ccvae_eval.metrics.disentanglement.context import CODE, PanelContext, ScoreResult
from ccvae_eval.metrics.disentanglement.dci import dci
from ccvae_eval.metrics.disentanglement.dependence import dependence
from ccvae_eval.metrics.disentanglement.group_scores import beta_vae, factor_vae, z_max_var
from ccvae_eval.metrics.disentanglement.information_scores import Information
from ccvae_eval.metrics.disentanglement.linear_probes import downstream, explicitness, infoe
from ccvae_eval.metrics.disentanglement.robustness import irs
from ccvae_eval.metrics.disentanglement.sap import sap
from ccvae_eval.metrics.disentanglement.settings import PanelSettings
from ccvae_eval.metrics.disentanglement.table import PanelTable, factor_correlations, factors_as_codes, table_of
from ccvae_eval.statistics.resampling import ResampleWeights
from ccvae_eval.statistics.threads import one_thread

Compute = Callable[[PanelContext], list[ScoreResult]]

COMPACTNESS, MODULARITY, INFORMATION, OTHER = "compactness", "modularity", "information", "other"
FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        COMPACTNESS: "does each factor live in one code",
        MODULARITY: "does each code know one factor",
        INFORMATION: "is the information there at all (blind to rotation)",
        OTHER: "what belongs to none of the three",
    }
)

PERMUTED, GUESS, EACH = "factors permuted", "1/K", "codes shuffled one by one"
ROBUST = "factors permuted (robust profile)"
DEALT = "groups dealt anew"
IDEAL = "the factors themselves, where they are correlated"
NO_SHARE = "no importance of permuted factors counts, and a share of nothing is none"
PUBLISHED = "the published code, whose value it is, has none"
AXIS = ("mix", "shuffle")
MIXED = ("mix",)
"""Of a score that is a share of what is known: undefined where nothing is, at the end of ``shuffle``."""
TOLD = ("shuffle",)
"""Of a score that is blind to rotation by design."""
SEPT = ("seep",)
"""Of a score of what is lost without a code: half-way turned into another label's, that one tells as much without."""
DEPENDENT = ("correlate",)
"""Of how codes depend on each other."""

TWO_CODES, TWO_FACTORS = "needs two codes and a factor that varies", "needs two factors and a code that knows one"
NOBODY = "no code tells any factor beyond permuted ones"


@dataclass(frozen=True, slots=True)
class Score:
    """One score of the panel.

    Args:
        family: compactness, modularity, information or other.
        compute: its findings.
        default: whether it belongs to the set that is shown unasked.
    """

    family: str
    compute: Compute
    default: bool = False


def _formula(name: str, formula: Callable[[Information], gaps.ScoreParts], why: str) -> Compute:
    return lambda bench: [bench.informed(name, formula, why)]


def _modularity(bench: PanelContext) -> list[ScoreResult]:
    robust = bench.settings.robust
    why = NOBODY if len(bench.table.factors) > 1 else TWO_FACTORS
    return [bench.informed("modularity", lambda info: gaps.modularity(info, weighted=robust), why)]


def _jemmig(bench: PanelContext) -> list[ScoreResult]:
    return [bench.informed("jemmig", gaps.jemmig, TWO_CODES, at={"bins": bench.counts.bins})]


def _informed_only(name: str, formula: Callable[[Information], gaps.ScoreParts], why: str) -> Compute:
    """InfoM and InfoC: undefined unless some code tells something."""

    def compute(bench: PanelContext) -> list[ScoreResult]:
        few = why if bench.information.active.any() else NOBODY
        return [bench.informed(name, formula, few)]

    return compute


SCORES: Mapping[str, Score] = MappingProxyType(
    {
        "infoc": Score(COMPACTNESS, _informed_only("infoc", gaps.infoc, "needs two active codes"), True),
        "mig": Score(COMPACTNESS, _formula("mig", gaps.mig, TWO_CODES), True),
        "sap": Score(COMPACTNESS, sap, True),
        "jemmig": Score(COMPACTNESS, _jemmig),
        "dmig": Score(COMPACTNESS, _formula("dmig", gaps.dmig, TWO_CODES)),
        "rmig": Score(COMPACTNESS, rmig),
        "snc": Score(COMPACTNESS, snc),
        "nk": Score(COMPACTNESS, nk),
        "dci": Score(MODULARITY, dci, True),
        "infom": Score(MODULARITY, _informed_only("infom", gaps.infom, TWO_FACTORS), True),
        "modularity": Score(MODULARITY, _modularity, True),
        "mig_sup": Score(MODULARITY, _informed_only("mig_sup", gaps.mig_sup, TWO_FACTORS)),
        "dcimig": Score(MODULARITY, _formula("dcimig", gaps.dcimig, TWO_FACTORS)),
        "factor_vae": Score(MODULARITY, factor_vae),
        "beta_vae": Score(MODULARITY, beta_vae),
        "z_max_var": Score(MODULARITY, z_max_var),
        "irs": Score(MODULARITY, irs),
        "infoe": Score(INFORMATION, infoe, True),
        "explicitness": Score(INFORMATION, explicitness, True),
        "downstream": Score(INFORMATION, downstream),
        "dci_es": Score(OTHER, dci_es),
        "dependence": Score(OTHER, dependence),
    }
)
"""Every score, by the name that ``--score`` takes."""

DEFAULT = tuple(name for name, score in SCORES.items() if score.default)

FAMILY_OF: Mapping[str, str] = MappingProxyType(
    {"dci_completeness": COMPACTNESS, "dci_informativeness": INFORMATION, "dci_informativeness_train": INFORMATION}
    | {"explicitness_train": INFORMATION, "dci_disentanglement": MODULARITY}
)
"""Values whose family is not that of their score."""


def _spec(
    summary: str, chance: str = PERMUTED, low: float | None = 0.0, high: float | None = 1.0, unit: str = "",
    better: bool | None = True, dials: tuple[str, ...] = AXIS, no_chance: str = "",
) -> ValueSpec:  # fmt: skip
    return ValueSpec(summary, unit, better, (low, high), chance, dials=dials, no_chance=no_chance, reference=IDEAL)


VOTED = "; interval of the votes alone, not of the rows"
VALUES: Mapping[str, ValueSpec] = MappingProxyType(
    {
        "infom": _spec("of all that a code knows, how much belongs to one factor", PERMUTED, None, dials=MIXED),
        "infoc": _spec("of all that is known of a factor, how much lies in one code", PERMUTED, None, dials=MIXED),
        "infoe": _spec("share of a factor's uncertainty that a linear reader takes away", "training frequencies", None,
                       dials=TOLD),
        "dci_disentanglement": _spec("does a code matter for one factor only", "", dials=MIXED, no_chance=NO_SHARE),
        "dci_completeness": _spec("does one code matter for a factor", "", dials=MIXED, no_chance=NO_SHARE),
        "dci_informativeness": _spec("held-out accuracy of the predictor (R2 of numbers)", ROBUST, None, dials=TOLD),
        "dci_informativeness_train": _spec("its accuracy on the training rows", "", None, dials=TOLD,
                                           no_chance=PUBLISHED),
        "mig": _spec("gap in information between the two codes that know a factor best", low=None, high=None),
        "sap": _spec("gap between the two codes that tell a factor best, each alone", ROBUST),
        "sap_continuous": _spec("the same as squared correlation, factors taken as numbers", "", no_chance=PUBLISHED),
        "modularity": _spec("how far each code keeps to one factor", low=None, dials=MIXED),
        "explicitness": _spec("how well a linear reader ranks each class above the rest", "factors permuted", -1.0,
                              dials=TOLD),
        "explicitness_train": _spec("the same on the training rows", "factors permuted", -1.0, dials=TOLD),
        "mig_sup": _spec("gap in information between the two factors that a code knows best", PERMUTED, None, None,
                         dials=MIXED),
        "dmig": _spec("gap over what a factor shares with no other", low=None, high=None),
        "rmig": _spec("gap in the information that the posteriors carry", "", None, None, "nats",
                      no_chance="permuted factors would need their own sums over a grid of every posterior"),
        "jemmig": _spec("1 minus joint entropy less the gap, normalised", low=None),
        "dcimig": _spec("best gap for each factor over all entropy", low=None),
        "snc": _spec("what each factor's own code tells alone, guessing = 0"),
        "snc_raw": _spec("its balanced accuracy"),
        "nk": _spec("share of what is told that is lost without the factor's own code", PERMUTED, -1.0, dials=SEPT),
        "nk_raw": _spec("loss of balanced accuracy", PERMUTED, -1.0, dials=SEPT),
        "factor_vae": _spec(f"votes of the code that varies least under a fixed factor{VOTED}", DEALT, dials=MIXED),
        "factor_vae_votes": _spec(f"plain share of right votes{VOTED}", GUESS, dials=TOLD),
        "beta_vae": _spec(f"which factor pairs share, told from their differences{VOTED}", DEALT, dials=MIXED),
        "beta_vae_votes": _spec(f"plain share of right votes{VOTED}", GUESS, dials=TOLD),
        "z_max_var": _spec(f"votes of the code that varies most when one factor does{VOTED}", DEALT, dials=MIXED),
        "z_max_var_votes": _spec(f"plain share of right votes{VOTED}", GUESS, dials=TOLD),
        "irs": _spec("how still a code stands while its factor does", PERMUTED, None, dials=MIXED),
        "irs_raw": _spec("the same before what permuted factors give is taken off", PERMUTED, None, dials=MIXED),
        "downstream": _spec("held-out accuracy of a linear reader after so many labels", "most frequent class",
                            dials=TOLD),
        "dci_explicitness": _spec("how little capacity a reader needs", "", dials=MIXED,
                                  no_chance="no reader of permuted factors gets better with capacity"),
        "dci_size": _spec("factors over active codes", "", 0.0, None, dials=(), no_chance="it counts"),
        "gaussian_total_correlation": _spec("dependence of the codes as if Gaussian", EACH, 0.0, None, "nats", None,
                                            DEPENDENT),
        "gaussian_wasserstein_correlation": _spec("distance from independent codes", EACH, 0.0, None, "", None,
                                                  DEPENDENT),
        "gaussian_wasserstein_correlation_norm": _spec("that distance over the trace", EACH, 0.0, None, "", None,
                                                       DEPENDENT),
        "mutual_info_score": _spec("mean information between two codes", EACH, None, None, "nats", None, DEPENDENT),
        "udr": _spec("do other seeds find the same codes", "codes turned at random", 0.0, dials=("turn",)),
        "information": _spec("information of a code with a factor, over the factor's entropy", "", None, None,
                             better=None, dials=(), no_chance="what permuted factors give is taken off already"),
        "factor_correlation": _spec("association of two factors (Cramér's V)", "", 0.0, 1.0, better=None, dials=(),
                                    no_chance="what independent factors give is taken off already"),
        "active_codes": _spec("codes that take part where a sum runs over codes", "", 0.0, None, better=None, dials=(),
                              no_chance="it counts"),
    }
)  # fmt: skip


def score_of(value: str) -> str:
    """The score that a value belongs to; a score's own name is taken as well.

    >>> score_of("dci_completeness"), score_of("mig_sup"), score_of("mutual_info_score")
    ('dci', 'mig_sup', 'dependence')

    Raises:
        UsageError: an unknown name.
    """
    known = [name for name in VALUES if name not in ("udr", "information", "factor_correlation", "active_codes")]
    if value in SCORES:
        return value
    if value not in known:
        raise UsageError(
            f"there is no score {value!r}", where="disentanglement", hint=suggestion(value, [*SCORES, *known])
        )
    if value in ("dci_explicitness", "dci_size"):
        return "dci_es"
    longest = sorted(SCORES, key=len, reverse=True)
    return next((name for name in longest if value.startswith(f"{name}_")), "dependence")


def family_of(value: str) -> str:
    """The family that a value is shown under."""
    if value in FAMILY_OF:
        return FAMILY_OF[value]
    name = value.removesuffix("_votes").removesuffix("_raw").removesuffix("_continuous")
    return SCORES[name].family if name in SCORES else OTHER


NAME, VERSION, HEADLINE = "disentanglement", 4, "infom"

MOST_ENTRIES = 2_000
"""Entries of a matrix that are written as values; larger ones are pictures only."""

FEWEST_ROWS = 10
"""Fewer rows, in either part, give no panel."""

FIT_DRAWS = 500
"""Bootstrap weights of a panel: they are kept in memory up to 134,000 rows."""


def wanted_scores(settings: PanelSettings) -> tuple[str, ...]:
    """The names of the scores that are asked for.

    Raises:
        UsageError: an unknown name.
    """
    if settings.every:
        return tuple(SCORES)
    return tuple(dict.fromkeys(score_of(name) for name in settings.score)) or DEFAULT


def panel(
    codes: Any, factors: Any, settings: PanelSettings | None = None, *, seed: int = 0, **arrays: Any
) -> Measurement:
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
    return measured(
        PanelContext(table, settings or PanelSettings(), seed, ResampleWeights(seed, len(table), FIT_DRAWS))
    )


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
    bench = PanelContext(table, PanelSettings(profile=profile, score=(asked,)), seed, weights, quick=True)
    with one_thread():
        found = {finding.name: finding for finding in SCORES[asked].compute(bench)}
    return float(found[name if name in found else next(iter(found))].point.total)


def measured(bench: PanelContext) -> Measurement:
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


def _values(bench: PanelContext, findings: Sequence[ScoreResult], references: dict[str, float]) -> list[Value]:
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


def _correlated(bench: PanelContext, correlations: Floats) -> Floats:
    """The association of every two different factors, -1 where there is none to speak of."""
    return np.nan_to_num(np.tril(correlations, -1), nan=0.0) * (np.tril(correlations, -1) > bench.settings.correlated)


def _references(bench: PanelContext, names: Sequence[str], correlations: Floats) -> dict[str, float]:
    """What the factors themselves score, where they are correlated; else nothing: it is 1."""
    if not _correlated(bench, correlations).any():
        return {}
    table = factors_as_codes(bench.table, bench.seed)
    ideal = PanelContext(table, bench.settings, bench.seed, bench.weights, quick=True)
    skipped = {"dci_es", "dependence", "rmig"}
    if not bench.settings.robust:
        # the published booster takes minutes
        skipped |= {"dci", "nk"}
    found: dict[str, float] = {}
    for name in names:
        if name not in skipped:
            found |= {f.name: float(f.point.total) for f in SCORES[name].compute(ideal) if not f.at}
    return found


def _beside(bench: PanelContext, correlations: Floats) -> list[Value]:
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


def _inactive(bench: PanelContext) -> str:
    quiet = [name for name, active in zip(bench.names, bench.information.active, strict=True) if not active]
    return f"inactive: {_listed(quiet)}" if quiet else ""


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _notes(bench: PanelContext, names: Sequence[str], correlations: Floats) -> list[str]:
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


def _pruned_by_information(bench: PanelContext) -> bool:
    return bench.settings.robust and bench.settings.pruning == "information"


def _evidence(table: PanelTable) -> dict[str, NDArray[np.generic]]:
    factors = np.stack([factor.classes if factor.discrete else factor.values for factor in table.factors], axis=1)
    return {"codes": table.codes, "factors": factors.astype(np.float64)}


def _pictures(bench: PanelContext, correlations: Floats) -> dict[str, NDArray[np.generic]]:
    info = bench.information
    entropy = np.where(info.factor_entropy > 1e-12, info.factor_entropy, np.nan)
    return {
        "information": np.asarray(info.mutual / entropy),
        "correlation": correlations,
        "codes": np.array(bench.names),
        "factors": np.array(bench.table.factor_names),
        "active": info.active,
    }
