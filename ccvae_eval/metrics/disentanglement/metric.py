"""The panel as a metric of a model: its codes against the labels, or against all factors of the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ccvae_eval.core.errors import UndefinedError
from ccvae_eval.core.results import Measurement
from ccvae_eval.core.types import Floats, Images
from ccvae_eval.data.interface import HasFactors
from ccvae_eval.evaluation.accumulator import ImageAccumulator
from ccvae_eval.evaluation.metric import Needs
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.disentanglement.context import PanelContext
from ccvae_eval.metrics.disentanglement.scores import BOOTSTRAP_DRAWS, measure_panel, wanted_scores
from ccvae_eval.metrics.disentanglement.settings import NAME, Disentanglement, PanelSettings
from ccvae_eval.metrics.disentanglement.table import FactorKind, PanelTable, has_few_levels, table_of
from ccvae_eval.model.interface import supports
from ccvae_eval.statistics.resampling import MAX_RANKED, ResampleWeights


def needs(metric: Disentanglement, subject: Subject) -> Needs:
    """No decoded images.

    Raises:
        UndefinedError: there are no labels or other factors.
        UsageError: an unknown score.
    """
    wanted_scores(metric)
    if not subject.schema.names and not (metric.against == "all" and supports(subject.data, HasFactors)):
        raise UndefinedError("needs at least one label to score the codes against", where=NAME)
    return Needs(images=False)


class DisentanglementAccumulator(ImageAccumulator[Disentanglement]):
    """Computes the panel from the encoded sample, without a pass over decoded images."""

    def compute(self, weights: ResampleWeights) -> Measurement:
        subject = self.subject.subsample(MAX_RANKED)
        own = ResampleWeights(weights.seed, len(subject), min(BOOTSTRAP_DRAWS, weights.draws), weights.level)
        context = PanelContext(
            subject_table(subject, self.metric), self.metric, subject.seed, own, subject.posterior, subject.data,
            self._encode,
        )  # fmt: skip
        if len(subject) < len(self.subject):
            context.notes.append(f"scores of {len(subject):,} of {len(self.subject):,} images, evenly spaced")
        if subject.given:
            context.notes.append(
                f"the encoder was given {', '.join(sorted(subject.given))}: scores of these labels do not show what it "
                "infers from images"
            )
        found = measure_panel(self.metric, context)
        if len(subject) < len(self.subject):
            found = replace(found, evidence={**found.evidence, "scored_ids": subject.ids})
        return found

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
