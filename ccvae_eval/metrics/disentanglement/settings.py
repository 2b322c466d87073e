"""Settings of the disentanglement panel with their ranges, its values, and the presentation of the metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import ORACLE, ValueSpec
from ccvae_eval.core.typed import Range, check
from ccvae_eval.evaluation.metric import LAWS, MORE_IMAGES, Accumulator, Needs

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ccvae_eval.core.results import Measurement
    from ccvae_eval.evaluation.subject import Subject
    from ccvae_eval.rendering.figures import Figures

NAME, VERSION, HEADLINE = "disentanglement", 4, "infom"

Profile = Literal["robust", "reference"]
Predictor = Literal["forest", "boosting", "gradient_boosting", "linear"]
Importance = Literal["permutation", "gain"]
Pruning = Literal["information", "range"]


@dataclass(frozen=True, slots=True)
class PanelSettings:
    """Settings of the panel; :class:`ccvae_eval.metrics.disentanglement.Disentanglement` documents each field."""

    profile: Profile = "robust"
    score: tuple[str, ...] = ()
    every: bool = False
    point: Literal["mean", "sample"] = "mean"
    against: Literal["labels", "all"] = "labels"
    predictor: Predictor = "forest"
    importance: Importance = "permutation"
    fits: Annotated[int, Range(least=1)] = 3
    bins: Annotated[int, Range(least=2)] = 20
    pruning: Pruning = "information"
    shuffles: Annotated[int, Range(least=2)] = 20
    draws: Annotated[int, Range(least=50)] = 500
    votes: Annotated[int, Range(least=10)] = 10_000
    group: Annotated[int, Range(least=2)] = 64
    quantile: Annotated[float, Range(above=0, most=1)] = 0.99
    leaves: Annotated[int, Range(least=2)] = 512
    correlated: Annotated[float, Range(above=0, most=1)] = 0.2

    def __post_init__(self) -> None:
        check(self, "disentanglement")
        if not self.robust and (self.predictor, self.importance) != ("forest", "permutation"):
            raise UsageError(
                "the reference profile always uses gradient boosting with gain importance",
                where="disentanglement",
                hint="--predictor and --importance need --profile robust.",
            )

    @property
    def robust(self) -> bool:
        """True for the robust profile, False for the reference profile."""
        return self.profile == "robust"


# names of the nulls that give chance levels
PERMUTED, UNIFORM_GUESS, LATENTS_PERMUTED = "factors permuted", "1/K", "each latent dimension permuted by itself"
PERMUTED_ROBUST = "factors permuted (robust profile)"
GROUPS_PERMUTED = "rows permuted among groups"
# reasons for no chance level
NO_IMPORTANCE = "undefined for permuted factors, for which no importance is significant"
NOT_PUBLISHED = "the published code computes none"
COUNT = "a count has no chance level"
FACTORS_AS_CODES = f"the factors themselves as codes, where they are correlated; otherwise {ORACLE}"

# calibration dials, by the kind of score
MIX_AND_SHUFFLE = ("mix", "shuffle")
MIX_ONLY = ("mix",)
"""Scores relative to the total information, undefined at the end of ``shuffle``."""
SHUFFLE_ONLY = ("shuffle",)
"""Scores that are invariant to rotation by design."""
SEEP_ONLY = ("seep",)
"""Scores of the accuracy lost without a latent: half a turn with another latent leaves it recoverable from that one."""
CORRELATE_ONLY = ("correlate",)
"""Scores of the dependence of latents on each other."""


def _spec(
    summary: str, chance: str = PERMUTED, low: float | None = 0.0, high: float | None = 1.0, unit: str = "",
    better: bool | None = True, dials: tuple[str, ...] = MIX_AND_SHUFFLE, no_chance: str = "",
    reference: str = FACTORS_AS_CODES,
) -> ValueSpec:  # fmt: skip
    return ValueSpec(summary, unit, better, (low, high), chance, dials=dials, no_chance=no_chance, reference=reference)


def _dependence(summary: str, unit: str = "") -> ValueSpec:
    return _spec(summary, LATENTS_PERMUTED, 0.0, None, unit, None, CORRELATE_ONLY, reference=ORACLE)


def _no_score(summary: str, low: float | None, high: float | None, no_chance: str) -> ValueSpec:
    return _spec(summary, "", low, high, better=None, dials=(), no_chance=no_chance, reference=ORACLE)


GROUPS = "; confidence interval over the rendered groups, not over the rows"
INDEPENDENT = "codes independent of the factors"
VOTES = "; confidence interval over the votes, not over the rows"
VALUES: Mapping[str, ValueSpec] = MappingProxyType(
    {
        "infom": _spec("concentration of a latent's information on one factor", PERMUTED, None, dials=MIX_ONLY),
        "infoc": _spec("concentration of the information about a factor in one latent", PERMUTED, None,
                       dials=MIX_ONLY),
        "infoe": _spec("share of a factor's entropy that a linear probe explains", "training frequencies", None,
                       dials=SHUFFLE_ONLY),
        "dci_disentanglement": _spec("concentration of a latent's importance on one factor", "", dials=MIX_ONLY,
                                     no_chance=NO_IMPORTANCE),
        "dci_completeness": _spec("concentration of the importance for a factor in one latent", "", dials=MIX_ONLY,
                                  no_chance=NO_IMPORTANCE),
        "dci_informativeness": _spec("test accuracy of DCI's predictor (R2 of continuous factors)", PERMUTED_ROBUST,
                                     None, dials=SHUFFLE_ONLY),
        "dci_informativeness_train": _spec("accuracy of DCI's predictor on the training rows", "", None,
                                           dials=SHUFFLE_ONLY, no_chance=NOT_PUBLISHED),
        "mig": _spec("gap in information between the two latents most informative about a factor, over its entropy",
                     low=None, high=None),
        "sap": _spec("gap in accuracy between the two latents that predict a factor best, each alone",
                     PERMUTED_ROBUST),
        "sap_continuous": _spec("SAP with all factors as numbers: gap in squared correlation", "",
                                no_chance=NOT_PUBLISHED),
        "modularity": _spec("1 minus a latent's squared information about all factors but its best", low=None,
                            dials=MIX_ONLY),
        "explicitness": _spec("one-against-rest ROC area A of a linear probe (robust: 2A - 1)", PERMUTED, -1.0,
                              dials=SHUFFLE_ONLY),
        "explicitness_train": _spec("explicitness on the training rows", PERMUTED, -1.0, dials=SHUFFLE_ONLY),
        "mig_sup": _spec("gap in information between the two factors that a latent is most informative about",
                         PERMUTED, None, None, dials=MIX_ONLY),
        "dmig": _spec("MIG over the factor's entropy given a correlated factor", low=None, high=None),
        "rmig": _spec("MIG under the whole posterior, unnormalised", "", None, None, "nats", reference=ORACLE,
                      no_chance="too costly: permuted factors would need their own integrals over the posteriors"),
        "jemmig": _spec("1 minus joint entropy less the gap, normalised", low=None),
        "dcimig": _spec("largest information gap of a latent for each factor, over the entropy of all factors",
                        low=None),
        "snc": _spec("balanced accuracy of the aligned latent alone, rescaled so that guessing is 0"),
        "snc_raw": _spec("balanced accuracy of the aligned latent alone"),
        "nk": _spec("share of the accuracy above guessing that is lost without the aligned latent", PERMUTED, -1.0,
                    dials=SEEP_ONLY),
        "nk_raw": _spec("balanced accuracy lost without the aligned latent", PERMUTED, -1.0, dials=SEEP_ONLY),
        "mcc": _spec("mean absolute correlation of the factors with latent dimensions aligned to them"),
        "mcc_rank": _spec("mean absolute rank correlation of the factors with latent dimensions aligned to them"),
        "tad": _spec("gap in ROC area between the two best latent dimensions of a captured factor", "", 0.0, None,
                     dials=MIX_ONLY, no_chance="no permuted factor is captured"),
        "captured": _spec("factors that one latent dimension predicts with a ROC area of 0.75 and no other factor "
                          "explains", PERMUTED, 0.0, None, dials=SHUFFLE_ONLY),
        "factor_vae": _spec(f"weighted votes of the latent that varies least under a fixed factor{VOTES}",
                            GROUPS_PERMUTED, dials=MIX_ONLY),
        "factor_vae_votes": _spec(f"share of correct FactorVAE votes{VOTES}", UNIFORM_GUESS, dials=SHUFFLE_ONLY),
        "beta_vae": _spec(f"weighted votes of the latent that differs least in pairs that share a factor{VOTES}",
                          GROUPS_PERMUTED, dials=MIX_ONLY),
        "beta_vae_votes": _spec(f"share of correct BetaVAE votes{VOTES}", UNIFORM_GUESS, dials=SHUFFLE_ONLY),
        "z_max_var": _spec(f"weighted votes of the latent that varies most with one factor{VOTES}", GROUPS_PERMUTED,
                           dials=MIX_ONLY),
        "z_max_var_votes": _spec(f"share of correct z-max-var votes{VOTES}", UNIFORM_GUESS, dials=SHUFFLE_ONLY),
        "consistency": _spec(f"share of the variance of a factor's latent that the factor determines{GROUPS}",
                             INDEPENDENT, None, dials=MIX_ONLY),
        "restrictiveness": _spec(f"share of the variance of all other latents that a factor leaves unchanged{GROUPS}",
                                 INDEPENDENT, None, dials=MIX_ONLY),
        "irs": _spec("stability of a latent while its factor is fixed", PERMUTED, None, dials=MIX_ONLY),
        "irs_raw": _spec("IRS before the score of permuted factors is removed", PERMUTED, None, dials=MIX_ONLY),
        "r2_linear": _spec("share of a factor's variance that linear regression explains on test rows",
                           "mean of the training rows", None, dials=SHUFFLE_ONLY),
        "r2_nonlinear": _spec("share of a factor's variance that gradient boosting explains on test rows",
                              "mean of the training rows", None, dials=SHUFFLE_ONLY),
        "downstream": _spec("test accuracy of a linear probe after few labels", "most frequent class",
                            dials=SHUFFLE_ONLY),
        "dci_explicitness": _spec("1 minus the area under the loss-capacity curve of decision trees", "",
                                  dials=MIX_ONLY, reference=ORACLE,
                                  no_chance="undefined for permuted factors, for which capacity does not help"),
        "dci_size": _spec("number of factors over number of active latents", "", 0.0, None, dials=(), no_chance=COUNT,
                          reference=ORACLE),
        "gaussian_total_correlation": _dependence("total correlation of the latents under a Gaussian fit", "nats"),
        "gaussian_wasserstein_correlation": _dependence(
            "Wasserstein distance of a Gaussian fit from independent latents"),
        "gaussian_wasserstein_correlation_norm": _dependence("Wasserstein distance over the total variance"),
        "mutual_info_score": _spec("mean mutual information of two latents", LATENTS_PERMUTED, None, None, "nats",
                                   None, CORRELATE_ONLY, reference=ORACLE),
        "udr": _spec("agreement of the latents of models of different seeds", "codes rotated at random", 0.0,
                     dials=("turn",), reference="none"),
        "information": _no_score("mutual information of a latent with a factor, over the factor's entropy", None, None,
                                 "that of permuted factors is already subtracted"),
        "factor_correlation": _no_score("association of two factors (Cramér's V)", 0.0, 1.0,
                                        "that of independent factors is already subtracted"),
        "active_codes": _no_score("number of active latents", 0.0, None, COUNT),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Disentanglement(PanelSettings):
    r"""Published disentanglement scores of codes against factors, in three families that are never averaged.

    A latent z_j is one latent dimension, or the block of a characteristic; a factor v_k is a label or a factor of the
    data. I_jk is their mutual information on bins of equal mass, with the Miller-Madow correction and minus the mean
    over permuted factors; H is entropy. Headlines:

    - ``infom`` = concentration of a latent's information on one factor, mean over active latents;
    - ``infoc`` = concentration of the information about a factor in one latent, mean over factors;
    - ``infoe`` = share of a factor's entropy that a linear probe explains on test rows;
    - ``dci_disentanglement``, ``dci_completeness``, ``dci_informativeness``: from the increase of a predictor's loss on
      test rows when a latent is permuted.

    Compactness (each factor in one latent): infoc, mig, sap, dci_completeness, jemmig, dmig, rmig, snc, nk, mcc, tad.
    Modularity (each latent encodes one factor): infom, modularity, dci_disentanglement, mig_sup, dcimig, irs,
    factor_vae, beta_vae, z_max_var, consistency, restrictiveness. Information (predictable from all latents together,
    invariant to rotation): infoe, explicitness, dci_informativeness, downstream, r2. Others: dci_es, dependence.

    Profile ``reference`` reproduces the published code: bins of equal width, plug-in information, support vector
    machines, impurity gains. Profile ``robust`` (default) corrects known weaknesses of these; docs/metrics.md, section
    8, lists each.

    Chance: factors permuted among the rows; 1/K for plain votes. Reference: where factors are correlated, the score of
    the factors themselves as codes, since no code reaches 1. Intervals: 95% confidence intervals from subsampling
    without replacement for information and IRS; from a bootstrap of the test rows, conditional on the fit, for fitted
    scores; Wilson's for votes, over the votes alone, although other rows would vary those scores up to two and a half
    times as much.
    Range: mostly 0 to 1, or at most 1 where the chance level is subtracted; the table lists each.
    Direction: higher is better; neither for the dependence of latents. Undefined: compactness for one latent,
    modularity for one factor, shares of information without an active latent. Cost: decodes nothing; 2 to 8 seconds;
    of more than 20,000 images, the scores use 20,000, evenly spaced.
    Pitfalls: modularity of permuted factors is far above 0; DCI is only meaningful if dci_informativeness is above
    chance; factor_vae and beta_vae are resampled from the rows where the data cannot be rendered, as a note says;
    consistency and restrictiveness are undefined there.
    Reference: docs/metrics.md, section 8.

    Args:
        profile: robust, or reference: the published definitions.
        score: name of a score; repeatable. Default: infom, infoc, infoe, dci, mig, sap, modularity, explicitness.
        every: all scores.
        point: the code of an image: mean of the posterior, or a sample.
        against: factors: the labels, or all, with the generative factors of the data.
        predictor: predictor of DCI: forest, boosting (histograms), gradient_boosting or linear (lasso, logistic).
        importance: importance of DCI: permutation (increase of the test loss), or gain (the predictor's own).
        fits: seeded fits of DCI's predictor that are averaged.
        bins: most bins of a latent dimension; fewer if there are fewer than 50 rows per bin.
        pruning: active latents: those more informative about a factor than about permuted ones (information), or those
            with more than a twentieth of the widest range (range).
        shuffles: permutations of the factors for chance levels.
        draws: subsamples for the confidence intervals of information scores.
        votes: votes of factor_vae, beta_vae and z_max_var.
        group: images per vote.
        quantile: quantile of IRS.
        leaves: leaves of the largest tree of dci_es.
        correlated: association of two factors (Cramér's V) above which a note warns.
    """

    name: ClassVar[str] = NAME
    version: ClassVar[int] = VERSION
    headline: ClassVar[str] = HEADLINE
    reading: ClassVar[str] = (
        "The chance level is that of unrelated codes, 1 = each latent dimension encodes one factor only.\n"
        "Typical of a CCVAE: 0.39 on photographs of faces (chance 0.51), 0.94 on synthetic faces."
    )
    undefined: ClassVar[Mapping[str, str]] = {
        "needs at least one label to score the codes against": "name labels of the data (--labels), or factors",
        "needs q(z|x), which a table of codes does not have": "evaluate the checkpoint instead of its codes",
        "needs at least N training rows and N test rows, got N and N": MORE_IMAGES,
        "needs N training rows, got N": MORE_IMAGES,
        "needs N": "the score compares factors or latent dimensions, and these codes have too few that vary",
        "needs images rendered with given factors": "the score compares images that differ in one factor alone: "
            "faces, sprites and grids such as dsprites: can render them",
        "a factor is constant": MORE_IMAGES,
        "the factor is constant": MORE_IMAGES,
        "no factor N": f"no factor varies among enough rows; {MORE_IMAGES}",
        "no discrete factor N": f"no factor has classes that can be predicted; {MORE_IMAGES}",
        "no tree is better than guessing for any factor": "the codes do not encode the factors: train longer",
        "a model has no active latent dimension": "no dimension has more information than a permuted one: train longer",
        "no active latent N": "no dimension has more information than a permuted one: train longer",
        "no latent dimension is more informative about any factor than about permuted ones": "train longer",
        "every latent dimension is constant": "the posterior equals the prior everywhere (collapse): train longer",
        "a latent dimension is constant or a linear function of the others": "the covariance has no inverse",
        "the posterior is a point mass": "the score needs a posterior with a scale",
        "too few votes": MORE_IMAGES,
        "no test rows": MORE_IMAGES,
        "undefined on these rows": f"the score has no value for these codes; {MORE_IMAGES}",
    }  # fmt: skip
    default_sample: ClassVar[int] = 10_000
    # with permuted labels no latent is active, and the headline is undefined instead of near its chance level
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label"}
    order: ClassVar[int] = 9
    question: ClassVar[str] = "Compute the published disentanglement scores, for a checkpoint or for arrays."
    sentence: ClassVar[str] = (
        "Of the information in a latent dimension, {value} beyond an even spread concerns one factor (chance {chance})"
    )
    values: ClassVar[Mapping[str, ValueSpec]] = VALUES

    def needs(self, subject: Subject) -> Needs:
        from ccvae_eval.metrics.disentanglement.metric import needs

        return needs(self, subject)

    def start(self, subject: Subject) -> Accumulator:
        from ccvae_eval.metrics.disentanglement.metric import DisentanglementAccumulator

        return DisentanglementAccumulator(self, subject)

    @staticmethod
    def figures(measurement: Measurement) -> Figures:
        from ccvae_eval.metrics.disentanglement.figures import figures

        return figures(measurement)

    @staticmethod
    def tables(
        measurement: Measurement, specs: Mapping[str, ValueSpec], *, verbose: bool, ascii_only: bool
    ) -> RenderableType:
        from ccvae_eval.metrics.disentanglement.tables import tables

        del ascii_only
        return tables(measurement, specs, verbose=verbose)
