"""The panel as a metric of a model: its codes against the labels, or against all that the data know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ccvae_eval.core.errors import UndefinedError
from ccvae_eval.core.results import Measurement, ValueSpec
from ccvae_eval.core.types import Floats, Images
from ccvae_eval.data.interface import HasFactors
from ccvae_eval.evaluation.metric import LAWS, Decoded, Needs
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.disentanglement.context import PanelContext
from ccvae_eval.metrics.disentanglement.panel import FIT_DRAWS, HEADLINE, NAME, VALUES, VERSION, measured, wanted_scores
from ccvae_eval.metrics.disentanglement.settings import PanelSettings
from ccvae_eval.metrics.disentanglement.table import FactorKind, PanelTable, has_few_levels, table_of
from ccvae_eval.statistics.resampling import ResampleWeights


@dataclass(frozen=True, slots=True)
class Disentanglement(PanelSettings):
    r"""Codes against factors: compactness, modularity and information, shown apart and never averaged.

    I = I(z_j; v_k), the information of code j (a column, or the block of a characteristic) with factor k, on bins of
    equal mass, corrected after Miller and Madow, what permuted factors give taken off; H = entropy. Headlines:

    - ``infom`` = mean over active codes of the share of all that a code knows that belongs to one factor;
    - ``infoc`` = mean over factors of the share of all that is known of a factor that lies in one code;
    - ``infoe`` = share of a factor's uncertainty that a linear reader takes away on held-out rows;
    - ``dci_disentanglement``, ``dci_completeness``, ``dci_informativeness``: from how much a predictor's held-out
      loss grows when a code is another row's.

    Compactness (does a factor live in one code): infoc, mig, sap, dci_completeness, jemmig, dmig, rmig, snc, nk.
    Modularity (does a code know one factor): infom, modularity, dci_disentanglement, mig_sup, dcimig, irs, factor_vae,
    beta_vae, z_max_var. Information (is it there at all, blind to rotation): infoe, explicitness,
    dci_informativeness, downstream. Others: dci_es, dependence.

    Profile ``reference`` computes what the published code computes: bins of equal width, plug-in information, support
    vector machines, impurity gains. Profile ``robust`` (default) is cured of what is known to be wrong with it: see
    docs/metrics.md, section 8, for each.

    Chance: factors permuted among the rows; 1/K for plain votes. Reference: under correlated factors the score of the
    factors themselves, for then no code reaches 1. Intervals: subsampling without replacement for information and
    IRS; bootstrap of held-out rows, conditional on the fit, for what is fitted; Wilson's for votes, of the votes
    alone: other rows would move those scores up to two and a half times as far.
    Range: most 0 to 1, or at most 1 where what chance gives is taken off; the table has each score's own.
    Direction: higher is better, none for the dependence of codes. Undefined: one code (compactness), one factor
    (modularity), no code that tells anything. Cost: nothing decoded; 2 to 8 seconds.
    Pitfalls: permuted modularity lies far above 0; DCI where the predictor knows little says little; factor_vae and
    beta_vae are resampled from the rows where the data cannot be drawn, and say so.
    Reference: docs/metrics.md, section 8.

    Args:
        profile: robust, or reference: the published parameters.
        score: this score; repeatable. Default: infom, infoc, infoe, dci, mig, sap, modularity, explicitness.
        every: all scores.
        point: the posterior's mean, or a sample, as the code.
        against: the labels, or all that the data know besides.
        predictor: of DCI: forest, boosting (histograms), gradient_boosting or linear (lasso, logistic).
        importance: of DCI: permutation (held-out loss), or gain (what the predictor says itself).
        fits: seeded fits of DCI's predictor that are averaged.
        bins: of each code, at most (fewer where there are fewer than 50 rows for each).
        pruning: which codes are active: those that tell a factor beyond permuted ones (information), or those that
            span a twentieth of the widest (range).
        shuffles: permuted factors that the null is averaged over.
        draws: subsamples for the intervals of information.
        votes: of factor_vae, beta_vae and z_max_var.
        group: rows of a vote.
        quantile: of IRS.
        leaves: of the largest tree of dci_es.
        correlated: association of two factors (Cramér's V) that is warned about.
    """

    name: ClassVar[str] = NAME
    version: ClassVar[int] = VERSION
    headline: ClassVar[str] = HEADLINE
    default_sample: ClassVar[int] = 10_000
    # with permuted labels the headline is a share of nothing: undefined, and not near its chance
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label"}
    values: ClassVar[Mapping[str, ValueSpec]] = VALUES

    def needs(self, subject: Subject) -> Needs:
        """Nothing decoded.

        Raises:
            UndefinedError: if there is no factor.
            UsageError: an unknown score.
        """
        wanted_scores(self)
        if not subject.schema.names and not (self.against == "all" and isinstance(subject.data, HasFactors)):
            raise UndefinedError("there is no label to score the codes against", where=NAME)
        return Needs(images=False)

    def start(self, subject: Subject) -> DisentanglementAccumulator:
        return DisentanglementAccumulator(self, subject)


@dataclass
class DisentanglementAccumulator:
    """The accumulator: everything is known before the pass."""

    metric: Disentanglement
    subject: Subject

    def update(self, batch: Decoded) -> None:
        """Never called: nothing is decoded for this metric."""

    def compute(self, weights: ResampleWeights) -> Measurement:
        subject = self.subject
        own = ResampleWeights(weights.seed, weights.n, min(FIT_DRAWS, weights.draws), weights.level)
        bench = PanelContext(
            subject_table(subject, self.metric), self.metric, subject.seed, own, subject.posterior, subject.data,
            self._encode,
        )  # fmt: skip
        if subject.given:
            bench.notes.append(f"the encoder was given {', '.join(sorted(subject.given))}: their information is no "
                               "finding")  # fmt: skip
        return measured(bench)

    def _encode(self, images: Images) -> Floats:
        """Codes of images that were drawn for the purpose, shape (N, D)."""
        posterior = self.subject.encode(images)
        codes = posterior.loc
        if self.metric.point == "sample":
            noise = self.subject.noise("panel", np.arange(len(codes)), codes.shape[1])
            codes = posterior.at(noise)
        return codes.double().numpy()


def subject_table(subject: Subject, metric: PanelSettings) -> PanelTable:
    """A subject's codes with its labels (and the data's other factors, if asked); blocks as its layout has them."""
    codes = (subject.posterior.loc if metric.point == "mean" else subject.codes).double().numpy()
    names = [n for n in subject.schema.names if subject.selected is None or n in subject.selected]
    columns = [subject.column(name).double().numpy() for name in names]
    kinds: list[FactorKind] = [
        "discrete" if subject.schema[name].kind != "continuous" or has_few_levels(column) else "continuous"
        for name, column in zip(names, columns, strict=True)
    ]
    if metric.against == "all" and isinstance(subject.data, HasFactors):
        drawn = subject.data.factors(subject.ids)
        for i, name in enumerate(subject.data.factor_names):
            if name not in names:
                names.append(name)
                columns.append(drawn[:, i])
                kinds.append("discrete" if has_few_levels(drawn[:, i]) else "continuous")
    # in the order of the columns, so that no number depends on the order in which characteristics are named
    layout = sorted(subject.layout.characteristics.items(), key=lambda item: item[1])
    blocks = [sorted(block) for _, block in layout]
    return table_of(
        codes, np.stack(columns, axis=1), names=names, kinds=kinds, blocks=blocks,
        block_names=[name for name, _ in layout], ids=subject.ids, where=NAME,
    )  # fmt: skip
