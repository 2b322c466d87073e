"""Which scores there are: what each is called, what family it belongs to, what its values mean, what computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ccvae_eval.errors import UsageError, suggestion
from ccvae_eval.measure import ValueSpec
from ccvae_eval.metrics.disentanglement import gaps
from ccvae_eval.metrics.disentanglement.alignment import nk, snc
from ccvae_eval.metrics.disentanglement.bench import Bench
from ccvae_eval.metrics.disentanglement.capacity import dci_es
from ccvae_eval.metrics.disentanglement.counting import Information
from ccvae_eval.metrics.disentanglement.dci import dci
from ccvae_eval.metrics.disentanglement.dependence import dependence
from ccvae_eval.metrics.disentanglement.findings import Finding
from ccvae_eval.metrics.disentanglement.posterior import rmig
from ccvae_eval.metrics.disentanglement.readouts import downstream, explicitness, infoe
from ccvae_eval.metrics.disentanglement.robustness import irs
from ccvae_eval.metrics.disentanglement.sap import sap
from ccvae_eval.metrics.disentanglement.votes import beta_vae, factor_vae, z_max_var

Compute = Callable[[Bench], list[Finding]]

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


def _formula(name: str, formula: Callable[[Information], gaps.Parts], why: str) -> Compute:
    return lambda bench: [bench.informed(name, formula, why)]


def _modularity(bench: Bench) -> list[Finding]:
    robust = bench.settings.robust
    why = NOBODY if len(bench.table.factors) > 1 else TWO_FACTORS
    return [bench.informed("modularity", lambda info: gaps.modularity(info, weighted=robust), why)]


def _jemmig(bench: Bench) -> list[Finding]:
    return [bench.informed("jemmig", gaps.jemmig, TWO_CODES, at={"bins": bench.counts.bins})]


def _informed_only(name: str, formula: Callable[[Information], gaps.Parts], why: str) -> Compute:
    """InfoM and InfoC: undefined unless some code tells something."""

    def compute(bench: Bench) -> list[Finding]:
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
