"""The panel as a metric of a model: its codes against the labels, or against all factors of the data."""

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
from ccvae_eval.metrics.disentanglement.panel import (
    BOOTSTRAP_DRAWS,
    HEADLINE,
    NAME,
    VALUES,
    VERSION,
    measure_panel,
    wanted_scores,
)
from ccvae_eval.metrics.disentanglement.settings import PanelSettings
from ccvae_eval.metrics.disentanglement.table import FactorKind, PanelTable, has_few_levels, table_of
from ccvae_eval.model.interface import supports
from ccvae_eval.statistics.resampling import ResampleWeights


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

    Compactness (each factor in one latent): infoc, mig, sap, dci_completeness, jemmig, dmig, rmig, snc, nk.
    Modularity (each latent encodes one factor): infom, modularity, dci_disentanglement, mig_sup, dcimig, irs,
    factor_vae, beta_vae, z_max_var. Information (predictable from all latents together, invariant to rotation): infoe,
    explicitness, dci_informativeness, downstream. Others: dci_es, dependence.

    Profile ``reference`` reproduces the published code: bins of equal width, plug-in information, support vector
    machines, impurity gains. Profile ``robust`` (default) corrects known weaknesses of these; docs/metrics.md, section
    8, lists each.

    Chance: factors permuted among the rows; 1/K for plain votes. Reference: where factors are correlated, the score of
    the factors themselves as codes, since no code reaches 1. Intervals: 95 % confidence intervals from subsampling
    without replacement for information and IRS; from a bootstrap of the test rows, conditional on the fit, for fitted
    scores; Wilson's for votes, over the votes alone, although other rows would vary those scores up to two and a half
    times as much.
    Range: mostly 0 to 1, or at most 1 where the chance level is subtracted; the table lists each.
    Direction: higher is better; neither for the dependence of latents. Undefined: compactness for one latent,
    modularity for one factor, shares of information without an active latent. Cost: decodes nothing; 2 to 8 seconds.
    Pitfalls: modularity of permuted factors is far above 0; DCI is only meaningful if dci_informativeness is above
    chance; factor_vae and beta_vae are resampled from the rows where the data cannot be rendered, as a note says.
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
    default_sample: ClassVar[int] = 10_000
    # with permuted labels no latent is active, and the headline is undefined instead of near its chance level
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label"}
    values: ClassVar[Mapping[str, ValueSpec]] = VALUES

    def needs(self, subject: Subject) -> Needs:
        """No decoded images.

        Raises:
            UndefinedError: there are no labels or other factors.
            UsageError: an unknown score.
        """
        wanted_scores(self)
        if not subject.schema.names and not (self.against == "all" and supports(subject.data, HasFactors)):
            raise UndefinedError("needs at least one label to score the codes against", where=NAME)
        return Needs(images=False)

    def start(self, subject: Subject) -> DisentanglementAccumulator:
        return DisentanglementAccumulator(self, subject)


@dataclass
class DisentanglementAccumulator:
    """Computes the panel from the encoded sample, without a pass over decoded images."""

    metric: Disentanglement
    subject: Subject

    def update(self, batch: Decoded) -> None:
        """Never called: nothing is decoded for this metric."""

    def compute(self, weights: ResampleWeights) -> Measurement:
        subject = self.subject
        own = ResampleWeights(weights.seed, weights.n, min(BOOTSTRAP_DRAWS, weights.draws), weights.level)
        context = PanelContext(
            subject_table(subject, self.metric), self.metric, subject.seed, own, subject.posterior, subject.data,
            self._encode,
        )  # fmt: skip
        if subject.given:
            context.notes.append(
                f"the encoder was given {', '.join(sorted(subject.given))}: scores of these labels do not show what it "
                "infers from images"
            )
        return measure_panel(context)

    def _encode(self, images: Images) -> Floats:
        """Codes of rendered images, shape (n, D)."""
        posterior = self.subject.encode(images)
        codes = posterior.loc
        if self.metric.point == "sample":
            noise = self.subject.noise("panel", np.arange(len(codes)), codes.shape[1])
            codes = posterior.at(noise)
        return codes.double().numpy()


def subject_table(subject: Subject, metric: PanelSettings) -> PanelTable:
    """The codes and labels of a subject, with the data's factors if ``against="all"``, and the blocks of its layout."""
    codes = (subject.posterior.loc if metric.point == "mean" else subject.codes).double().numpy()
    names = [n for n in subject.schema.names if subject.selected is None or n in subject.selected]
    columns = [subject.column(name).double().numpy() for name in names]
    kinds: list[FactorKind] = [
        "discrete" if subject.schema[name].kind != "continuous" or has_few_levels(column) else "continuous"
        for name, column in zip(names, columns, strict=True)
    ]
    if metric.against == "all" and supports(subject.data, HasFactors):
        factors = subject.data.factors(subject.ids)
        for i, name in enumerate(subject.data.factor_names):
            if name not in names:
                names.append(name)
                columns.append(factors[:, i])
                kinds.append("discrete" if has_few_levels(factors[:, i]) else "continuous")
    # ordered by latent dimension, so that numbers do not depend on the order of the characteristics
    layout = sorted(subject.layout.characteristics.items(), key=lambda item: item[1])
    blocks = [sorted(block) for _, block in layout]
    return table_of(
        codes, np.stack(columns, axis=1), names=names, kinds=kinds, blocks=blocks,
        block_names=[name for name, _ in layout], ids=subject.ids, where=NAME,
    )  # fmt: skip
