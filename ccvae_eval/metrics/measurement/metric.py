"""The metric ``measurement``: conditional dependence of each characteristic's code on its own and on other labels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ccvae_eval.core.results import Estimate, Measurement, too_few_images
from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.evaluation.accumulator import ImageAccumulator
from ccvae_eval.evaluation.metric import Needs
from ccvae_eval.evaluation.result_table import (
    ALL_GIVEN,
    NO_LABEL,
    NO_OTHER_LABEL,
    NOT_PREDICTED,
    ResultTable,
    Undefined,
)
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.measurement.settings import MeasurementTests as MeasurementTests
from ccvae_eval.model.interface import Label
from ccvae_eval.statistics.conditional_independence import (
    CovarianceTest,
    Decisions,
    covariance_test,
    linear_residuals,
    logistic_residuals,
)
from ccvae_eval.statistics.probes import folds_of, standardised
from ccvae_eval.statistics.resampling import ResampleWeights

INCOMPLETE = "no image has all labels"
COUNTS = ("distance", "missing", "extra")


def needs(metric: MeasurementTests, subject: Subject) -> Needs:
    del metric, subject
    return Needs(images=False)


@dataclass(frozen=True, slots=True, eq=False)
class LabelColumns:
    """The labels as regressors and as variables to test, on the images that have all of them.

    Args:
        rows: images with every label that has ``least`` images on both sides, shape (N,).
        regressors: columns of each label, by name, shape (n, C), bool for classes; also of labels that are not tested.
        tested: columns of each label that can be tested, by name, shape (n, T).
        undefined: reason for each other label.
    """

    rows: Bools
    regressors: dict[str, Floats | Bools]
    tested: dict[str, Floats | Bools]
    undefined: dict[str, str]

    @classmethod
    def of(cls, labels: Iterable[Label], values: Floats, least: int) -> LabelColumns:
        """Columns of labels with their values, shape (N, L), NaN = missing."""
        schema = list(labels)
        undefined, kept = {}, []
        for label, column in zip(schema, values.T, strict=True):
            known = column[~np.isnan(column)]
            why = _tested_columns(label, known, least)[1] if len(known) else NO_LABEL
            if why:
                undefined[label.name] = why
            else:
                kept.append((label, column))
        rows = np.ones(len(values), bool)
        for _, column in kept:
            rows &= ~np.isnan(column)
        regressors, tested = dict[str, Floats | Bools](), dict[str, Floats | Bools]()
        for label, column in kept:
            regressors[label.name] = _indicators(label, column[rows])
            columns, why = _tested_columns(label, column[rows], least) if rows.any() else (None, INCOMPLETE)
            if columns is None:
                undefined[label.name] = f"{why} (of the images that have all labels)"
            else:
                tested[label.name] = columns
        return cls(rows, regressors, tested, undefined)

    def others(self, name: str) -> Floats:
        """Regressors of all labels but one, shape (n, C)."""
        columns = [column for label, column in self.regressors.items() if label != name]
        return np.concatenate([np.empty((int(self.rows.sum()), 0)), *columns], axis=1)


def _indicators(label: Label, column: Floats) -> Floats | Bools:
    """The label as numbers: a continuous label itself, else an indicator of each class but the first."""
    if label.kind == "continuous":
        return column[:, None].astype(np.float64)
    return np.asarray(column[:, None] == np.arange(1, label.cardinality))


def _tested_columns(label: Label, column: Floats, least: int) -> tuple[Floats | Bools | None, str]:
    """Indicators with ``least`` images on both sides, or the reason why there is none."""
    columns = _indicators(label, column)
    if label.kind == "continuous":
        distinct = len(np.unique(column))
        return (columns, "") if distinct > 1 else (None, "the label is constant")
    counts = columns.sum(axis=0).astype(int)
    usable = np.minimum(counts, len(column) - counts) >= least
    if usable.any():
        return columns[:, usable], ""
    # the side that lacks the fewest images
    sides = [(int(min(n, len(column) - n)), label.class_name(k + 1)) for k, n in enumerate(counts)]
    count, name = max(sides)
    if label.kind == "binary":
        name = label.class_name(int(counts[0] * 2 <= len(column)))
    return None, too_few_images(count, least, name)


Pair = tuple[str, str]
"""A characteristic and a label."""


class MeasurementAccumulator(ImageAccumulator[MeasurementTests]):
    """Computes all values from the codes; no image is decoded."""

    def compute(self, weights: ResampleWeights) -> Measurement:
        subject, metric = self.subject, self.metric
        labels = LabelColumns.of(subject.schema, subject.labels.numpy(), metric.least)
        names = [name for name in subject.characteristics if name in labels.tested]
        tests = self._tests(names, labels)
        decisions = Decisions(list(tests.values()), metric.alpha)
        table = ResultTable(metric, subject, weights, given_counts=False)
        unassigned = [n for n in subject.unassigned if subject.selected is None or n in subject.selected]
        self._add_totals(table, decisions, tests, sum(name in labels.tested for name in unassigned))
        for name in names:
            _add_counts(table, name, decisions, tests)
        for name in (name for name in subject.characteristics if name in labels.undefined):
            # foreign labels are not tested either: the own label cannot be held fixed
            table.undefined(name, labels.undefined[name], COUNTS)
        for name in unassigned:
            _add_unassigned(table, name, labels)
        for (name, judged), p in zip(tests, decisions.adjusted, strict=True):
            value = Estimate(p, n=tests[name, judged].n)
            table.add("p_value", name, value, {"judged": judged}, mean_at=None)
        for name, why in ((name, why) for name in names for why in labels.undefined.items()):
            table.add("p_value", name, Undefined(why[1]), {"judged": why[0]}, mean_at=None)
        self._keep_matrix(names, list(labels.tested), tests, decisions.rejected)
        return table.measurement(self._notes(labels, len(tests)), self.pictures.arrays(), ("p_value",))

    def _tests(self, names: Sequence[str], labels: LabelColumns) -> dict[Pair, CovarianceTest]:
        """The test of each characteristic and label."""
        subject, metric, rows = self.subject, self.metric, labels.rows
        folds = folds_of(subject.ids[rows])
        found = {}
        for judged, indicators in labels.tested.items():
            given, columns = labels.others(judged), indicators.astype(np.float64)
            if subject.schema[judged].kind == "continuous":
                residuals = linear_residuals(columns, given, folds)
            else:
                residuals = logistic_residuals(columns, given, folds, strength=metric.strength)
            for name in names:
                block = subject.latents(subject.layout[name], metric.code)[rows]
                left = linear_residuals(self._inputs(block), given, folds)
                found[name, judged] = covariance_test(left, residuals, seed=subject.seed)
        return {(name, judged): found[name, judged] for name in names for judged in labels.tested}

    def _inputs(self, block: Floats) -> Floats:
        quadratic = self.metric.probe == "quadratic"
        return np.concatenate([block, standardised(block) ** 2], axis=1) if quadratic else block

    def _add_totals(self, table: ResultTable, decisions: Decisions, tests: Collection[Pair], absent: int) -> None:
        """Add the totals over the characteristics that the encoder is not given.

        ``absent`` is the number of tested labels to which no latent dimension was assigned: they are missing, too.
        """
        own, foreign = _expected(tests, [n for n in self.subject.characteristics if n not in self.subject.given])
        reason = ALL_GIVEN if tests and not own else "no label can be tested"
        for value, chosen, more in (
            ("distance", own | foreign, absent), ("missing", own, absent), ("extra", foreign, 0),
        ):  # fmt: skip
            chance = 0.0 if value == "extra" else float(len(own) + more)
            if not chosen:
                found: Estimate | Undefined = NO_OTHER_LABEL if value == "extra" and own else Undefined(reason)
            else:
                e = decisions.differing(chosen, table.weights.level)
                found = replace(e, value=e.value + more, low=e.low + more, high=e.high + more)
            table.add(value, None, found, chance=chance, excluded=0)

    def _keep_matrix(
        self, names: Sequence[str], judged: Sequence[str], tests: Mapping[Pair, CovarianceTest], found: Bools
    ) -> None:
        """Keep the size of every dependence, and which were found, for a figure."""
        if not tests:
            return
        shape = len(names), len(judged)
        sizes = np.array([test.strength for test in tests.values()])
        self.pictures.kept["dependence"] = sizes.reshape(shape)
        self.pictures.kept["found"] = found.reshape(shape)
        self.pictures.kept["characteristics"], self.pictures.kept["labels"] = np.array(names), np.array(judged)

    def _notes(self, labels: LabelColumns, tests: int) -> list[str]:
        notes = [f"{tests} tests, adjusted together (Holm) at level {self.metric.alpha:g}"] if tests else []
        if tests and (missing := int((~labels.rows).sum())):
            notes.append(f"{missing} images lack a label and do not enter")
        return notes


def _expected(tests: Iterable[Pair], names: Collection[str]) -> tuple[dict[int, bool], dict[int, bool]]:
    """What the layout expects of some characteristics: the places of their tests on own, and on foreign labels.

    A dependence is expected (True) on the own label only.
    """
    places = [(place, *pair) for place, pair in enumerate(tests) if pair[0] in names]
    own = {place: True for place, name, judged in places if name == judged}
    foreign = {place: False for place, name, judged in places if name != judged}
    return own, foreign


def _add_counts(table: ResultTable, name: str, decisions: Decisions, tests: Iterable[Pair]) -> None:
    """Add the counts of one characteristic."""
    own, foreign = _expected(tests, [name])
    level = table.weights.level
    found: dict[str, Estimate | Undefined] = {
        "distance": decisions.differing(own | foreign, level),
        "missing": decisions.differing(own, level),
        "extra": decisions.differing(foreign, level) if foreign else NO_OTHER_LABEL,
    }
    for value, estimate in found.items():
        table.add(value, name, estimate, mean_at=None, chance=float(value != "extra"))


def _add_unassigned(table: ResultTable, name: str, labels: LabelColumns) -> None:
    """Add a label that no latent dimension was assigned to: it is missing."""
    if name in labels.undefined:
        table.undefined(name, labels.undefined[name], COUNTS)
        return
    one = Estimate(1.0, n=int(labels.rows.sum()))
    for value in ("distance", "missing"):
        table.add(value, name, one, mean_at=None, chance=1.0, note=NOT_PREDICTED)
    table.add("extra", name, Undefined(NOT_PREDICTED), mean_at=None)
