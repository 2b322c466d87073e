"""Scores from an independent classifier (the judge), and its reliability on a model's reconstructions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.types import Bools, Floats, Images
from ccvae_eval.data.interface import HasCounterfactuals
from ccvae_eval.evaluation.metric import Decoded
from ccvae_eval.evaluation.result_table import NO_CHARACTERISTIC, NO_JUDGE, ColumnStore
from ccvae_eval.evaluation.subject import Subject, once_per_subject
from ccvae_eval.judge import mean_recall, rank_correlation, trusted_labels
from ccvae_eval.judge.artifact import judged_on_cpu
from ccvae_eval.model.interface import supports

NOTABLE_RESPONSE = 0.05
"""Mean response of the judge to another label above which the notes mention it."""

JUDGED_CLASS = "judged class/"
"""Start of the keys of the judged classes of the reconstructions, before the label."""

JUDGED_VALUE = "judged value/"
"""Start of the keys of the judged values of continuous labels, from 0 (lowest level) to 1."""

UNCORRELATED = "the judged values of the reconstructions correlate with the label"

ANOTHER = "another image"
"""Name of the chance level of unchanged labels: two random images that the judge assigns to the same class."""

RESPONSE_IMAGES = 32
"""Images on which the judge's own response is measured."""

UNRECOGNISED = re.compile(r"balanced accuracy of the judge on the reconstructions only (?P<accuracy>\d\.\d+)")
"""Form of :func:`unrecognised`."""


def unrecognised(accuracy: float) -> str:
    """Reason why a label is not judged: the judge's balanced accuracy on the reconstructions.

    >>> UNRECOGNISED.fullmatch(unrecognised(0.614))["accuracy"]
    '0.61'
    """
    return f"balanced accuracy of the judge on the reconstructions only {accuracy:.2f}"


class JudgeReliability:
    """Balanced accuracy of the judge on this model's reconstructions (docs/metrics.md, section 0).

    A label with a balanced accuracy (continuous: a rank correlation) below 0.8 has no judged values: its response to an
    intervention could be due to the decoder's blur.

    Args:
        subject: the subject whose reconstructions are judged.
        columns: keeps the judged class of each image and label.
    """

    def __init__(self, subject: Subject, columns: ColumnStore | None = None) -> None:
        self.subject = subject
        self.columns = ColumnStore(len(subject)) if columns is None else columns
        self._rows: slice | None = None

    def update(self, batch: Decoded) -> None:
        """Adds a chunk the first time it is seen; does nothing without a judge or without the reconstruction."""
        rows = batch.chunk.rows
        if self.subject.judge is None or batch.reconstruction is None or rows == self._rows:
            return
        self._rows, judged = rows, batch.judged(None)
        names = [j for j in self.subject.schema.names if j in judged]
        found = {f"{JUDGED_CLASS}{j}": judged[j].argmax(1).double().numpy() for j in names}
        for j in names:
            if self._continuous(j):
                found[f"{JUDGED_VALUE}{j}"] = judged_position(judged[j])
        self.columns.put(NO_CHARACTERISTIC, rows, found)

    def _continuous(self, label: str) -> bool:
        return self.subject.schema[label].kind == "continuous"

    def _classes(self, label: str) -> Tensor:
        """Judged class of each reconstruction, shape (N,), int64."""
        return torch.from_numpy(self.columns.get(NO_CHARACTERISTIC, JUDGED_CLASS + label)).long()

    @cached_property
    def accuracy(self) -> dict[str, float]:
        """Balanced accuracy of each label that the judge predicts; NaN if only one class occurs.

        Rank correlation of the judged value and the label for a continuous label; NaN if one of them is constant.
        """
        labels = self.columns.under(NO_CHARACTERISTIC, JUDGED_CLASS)
        values = self.columns.under(NO_CHARACTERISTIC, JUDGED_VALUE)
        return {
            label: rank_correlation(torch.from_numpy(values[label]), self.subject.column(label))
            if label in values
            else mean_recall(self._classes(label), self.subject.column(label))
            for label in labels
        }

    @cached_property
    def trusted(self) -> tuple[str, ...]:
        """The labels that the judge recognises reliably."""
        return trusted_labels(self.accuracy)

    def same_class_rate(self, label: str) -> float:
        """Probability that the judge assigns two random reconstructions to the same class of a label.

        .. math:: \\sum_k n_k (n_k - 1) / (n (n - 1))
        """
        classes = self._classes(label)
        counts = torch.bincount(classes).double()
        return float((counts * (counts - 1)).sum() / max(len(classes) * (len(classes) - 1), 1))

    def why_not(self, label: str) -> str:
        """Reason why a label is not judged; "" if it is."""
        if self.subject.judge is None:
            return NO_JUDGE
        if label in self.trusted:
            return ""
        if label not in self.accuracy:
            return "the judge does not predict this label"
        accuracy = self.accuracy[label]
        if self._continuous(label):
            constant = "the label or its judged value is constant, so the judge cannot be validated"
            return constant if np.isnan(accuracy) else f"{UNCORRELATED} by only {accuracy:.2f}"
        if np.isnan(accuracy):
            return "only one class occurs, so the judge cannot be validated"
        return unrecognised(accuracy)

    def notes(self) -> list[str]:
        """Notes on the judge: its accuracy, its response to other labels, and the labels that are not judged."""
        record = getattr(self.subject.judge, "record", None)  # of a judge that was trained
        real: Mapping[str, float] = {} if record is None else record.balanced_accuracy
        known = [
            f"{label} {accuracy:.2f}" + (f" ({real[label]:.2f})" if label in real else "")
            for label, accuracy in self.accuracy.items()
            if not np.isnan(accuracy)
        ]
        beside = " (on real images)" if real else ""
        values = " (continuous: rank correlation)" if any(map(self._continuous, self.accuracy)) else ""
        start = f"the judge's balanced accuracy{values} on the reconstructions{beside}"
        notes = [f"{start}: {', '.join(known)}"] if known else []
        responses = sorted(((change, *pair) for pair, change in judge_response(self.subject).items()), reverse=True)
        if responses:
            others = [(change, i, j) for change, i, j in responses if i != j and change > NOTABLE_RESPONSE]
            notable = [f"{i} moves {j} by {change:.2f}" for change, i, j in others]
            listed = ", ".join(notable) or f"none moves another by more than {NOTABLE_RESPONSE}"
            notes.append(f"the judge's response on images rendered with one other label: {listed}")
        left_out = [label for label in self.accuracy if label not in self.trusted]
        return notes + [f"{label}: {self.why_not(label)}, not judged" for label in left_out]


def judged_change(before: Mapping[str, Tensor], after: Mapping[str, Tensor], prefix: str) -> dict[str, Floats]:
    """For each label j: ``{prefix}/kept/{j}`` (the judged class is unchanged) and ``{prefix}/change/{j}``, shape (N,).

    Args:
        before, after: the judge's log-probabilities of each label, shape (N, K).
        prefix: start of the keys.
    """
    found: dict[str, Floats] = {}
    for j in before:
        found[f"{prefix}/kept/{j}"] = unchanged_share(before[j], [after[j]])
        found[f"{prefix}/change/{j}"] = total_variation(before[j], after[j])
    return found


@once_per_subject
def judge_response(subject: Subject) -> dict[tuple[str, str], float]:
    """Response of the judge to label j in counterfactual images in which only label i differs, by (i, j).

    Mean total variation over ``RESPONSE_IMAGES`` images: the part of a judged change that is due to the judge itself.
    Empty without a judge, or if the data set renders no counterfactuals.
    """
    data = subject.data
    if subject.judge is None or not supports(data, HasCounterfactuals):
        return {}
    first = subject.subsample(RESPONSE_IMAGES)
    (before,) = judged(subject, [data.batch(first.ids).images.to(subject.device)])
    found: dict[tuple[str, str], float] = {}
    for i in subject.schema.names:
        if i not in data.schema or subject.schema[i].kind == "continuous":
            continue
        then = first.target_class(i)
        known = (then >= 0).numpy()
        if not known.any():
            continue
        changed = data.with_attribute(first.ids[known], i, then[then >= 0].numpy().astype(np.float32))
        (after,) = judged(subject, [changed.to(subject.device)])
        for j in subject.schema.names:
            if j in before:
                found[i, j] = float(total_variation(before[j][torch.from_numpy(known)], after[j]).mean())
    return found


def total_variation(before: Tensor, after: Tensor) -> Floats:
    r"""Total variation distance between two judged distributions of one label, on the CPU; for a binary label \|dp\|.

    .. math:: \tfrac12 \sum_k |p_k - q_k|

    Args:
        before, after: log-probabilities, shape :math:`(N, K)`.

    Returns:
        Distances in [0, 1], shape :math:`(N,)`.

    >>> total_variation(torch.tensor([[0.25, 0.75]]).double().log(), torch.tensor([[0.75, 0.25]]).double().log())
    array([0.5])
    """
    change = (after.double().exp() - before.double().exp()).abs().sum(1) / 2
    distance: Floats = change.clamp_max(1).numpy()  # rounded probabilities need not sum to 1
    return distance


def probability_of(log_probs: Tensor, classes: Tensor) -> Floats:
    r"""Judged probability of one class of each image, shape :math:`(N,)`; NaN for class -1."""
    probabilities = log_probs.double().exp()
    chosen = probabilities.gather(1, classes.clamp_min(0)[:, None])[:, 0]
    probability: Floats = torch.where(classes >= 0, chosen, torch.nan).numpy()
    return probability


def judged(subject: Subject, batches: Sequence[Images]) -> list[Mapping[str, Tensor]]:
    """The judge's log-probabilities (n, K) of each label for batches of equal size, on the CPU.

    A continuous label has those of its levels (``Subject.levels``) that stand for the judged value, see
    :func:`level_log_probs`; without two levels it is left out.
    """
    assert subject.judge is not None
    levels = {label.name: subject.levels(label.name) for label in subject.schema if label.kind == "continuous"}

    def by_class(found: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, output in found.items():
            if output.shape[1] > 1:
                yield name, output
            elif len(levels.get(name, ())) > 1:
                yield name, level_log_probs(output[:, 0], levels[name])

    return [dict(by_class(found)) for found in judged_on_cpu(subject.judge, batches)]


def level_log_probs(values: Tensor, levels: Tensor) -> Tensor:
    r"""Log-probabilities of the levels of a continuous label that stand for values of it, float64.

    A value, if need be moved to the nearest end of the levels, is shared between the two levels around it by linear
    interpolation.

    Args:
        values: shape :math:`(N,)`.
        levels: ascending, shape :math:`(K,)`, K > 1.

    Returns:
        Logarithms of the weights of the levels, shape :math:`(N, K)`.

    >>> level_log_probs(torch.tensor([1.5, 9.0]), torch.tensor([0.0, 1.0, 3.0]).double()).exp()
    tensor([[0.0000, 0.7500, 0.2500],
            [0.0000, 0.0000, 1.0000]], dtype=torch.float64)
    """
    inside = values.double().clamp(levels[0], levels[-1])
    above = torch.searchsorted(levels, inside).clamp_min(1)[:, None]
    share = (inside[:, None] - levels[above - 1]) / (levels[above] - levels[above - 1])
    weights = torch.zeros(len(values), len(levels), dtype=torch.float64)
    return weights.scatter(1, above - 1, 1 - share).scatter(1, above, share).log()


def judged_position(log_probs: Tensor) -> Floats:
    r"""Judged value of a continuous label from its levels, from 0 (lowest) to 1 (highest), shape :math:`(N,)`.

    >>> judged_position(torch.tensor([[0.0, 0.5, 0.5]]).double().log())
    array([0.75])
    """
    positions = torch.linspace(0, 1, log_probs.shape[1], dtype=torch.float64)
    position: Floats = (log_probs.double().exp() @ positions).numpy()
    return position


def classified_as(log_probs: Tensor, classes: Tensor) -> Bools:
    r"""True for each image that the judge assigns to the given class, shape :math:`(N,)`; False for class -1."""
    correct: Bools = (log_probs.argmax(1) == classes).numpy()
    return correct


def unchanged_share(before: Tensor, after: Sequence[Tensor]) -> Floats:
    r"""Share of S changed images in which the judged class is that of the original image.

    Args:
        before: log-probabilities of one label for the original images, shape :math:`(N, K)`.
        after: the same for each of the S changed images, each of shape :math:`(N, K)`.

    Returns:
        Shares in [0, 1], shape :math:`(N,)`.
    """
    classes = before.argmax(1)
    share: Floats = np.mean([classified_as(log_probs, classes) for log_probs in after], axis=0)
    return share
