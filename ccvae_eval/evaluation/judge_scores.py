"""What the judge's opinions of two images say of the change between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.data.interface import HasCounterfactuals
from ccvae_eval.evaluation.metric import Decoded
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.judge import balanced_accuracies, trusted_labels
from ccvae_eval.model.fixed_batches import CHUNK

RESPONDS = 0.05
"""A mean change of the judge's opinion above which a reader is told."""

ANOTHER = "another image"
"""The chance level of what the judge sees unchanged: as often as it sees the same in two images taken at random."""


class JudgeReliability:
    """How far the judge agrees with the labels on this model's reconstructions (docs/metrics.md, section 0).

    A label that it recognises in fewer than .8 of them (balanced over the classes) has no judged values: what the
    judge says of an intervention on it would be a finding about blur.

    Args:
        subject: whose reconstructions.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._told: dict[int, dict[str, Tensor]] = {}

    def update(self, batch: Decoded) -> None:
        """Takes in a chunk, the first time it is shown; nothing without a judge."""
        if self.subject.judge is not None and batch.chunk.rows.start not in self._told:
            known = batch.judged(None)
            self._told[batch.chunk.rows.start] = {j: known[j].cpu() for j in self.subject.schema.names if j in known}

    @cached_property
    def shares(self) -> dict[str, float]:
        """The balanced accuracy of each label that the judge knows; NaN where one class only occurs."""
        chunks = [self._told[start] for start in sorted(self._told)]
        told = {j: torch.cat([chunk[j] for chunk in chunks]) for j in chunks[0]} if chunks else {}
        return balanced_accuracies(told, self.subject.labels, self.subject.schema)

    @cached_property
    def trusted(self) -> tuple[str, ...]:
        """The labels that may be judged."""
        return trusted_labels(self.shares)

    def alike(self, label: str) -> float:
        """How often the judge sees the same class of a label in two of the reconstructions taken at random.

        .. math:: \\sum_k n_k (n_k - 1) / (n (n - 1))
        """
        seen = torch.cat([self._told[start][label].argmax(1) for start in sorted(self._told)])
        counts = torch.bincount(seen).double()
        return float((counts * (counts - 1)).sum() / max(len(seen) * (len(seen) - 1), 1))

    def why_not(self, label: str) -> str:
        """Why a label may not be judged; "" if it may."""
        if self.subject.judge is None:
            return "needs a judge"
        if label in self.trusted:
            return ""
        if label not in self.shares:
            return "the judge does not know this label"
        share = self.shares[label]
        if np.isnan(share):
            return "one class only: nothing to check the judge by"
        return f"the judge recognises only {share:.2f} of the reconstructions"

    def notes(self) -> list[str]:
        """How far the judge agrees with the labels, what it takes for a change by itself, and each label left out."""
        record = getattr(self.subject.judge, "record", None)  # of a judge that was trained
        real: Mapping[str, float] = {} if record is None else record.balanced_accuracy
        known = [
            f"{label} {share:.2f}" + (f" ({real[label]:.2f})" if label in real else "")
            for label, share in self.shares.items()
            if not np.isnan(share)
        ]
        beside = " (of real images)" if real else ""
        notes = [f"the judge's balanced accuracy on the reconstructions{beside}: {', '.join(known)}"] if known else []
        moved = sorted(((share, *pair) for pair, share in own_response(self.subject).items()), reverse=True)
        if moved:
            said = [f"{i} moves {j} by {share:.2f}" for share, i, j in moved if i != j and share > RESPONDS]
            what = ", ".join(said) or f"none moves another by more than {RESPONDS}"
            notes.append(f"the judge's own response where one label is drawn otherwise: {what}")
        left_out = [label for label in self.shares if label not in self.trusted]
        return notes + [f"{label}: {self.why_not(label)}, not judged" for label in left_out]


def judged_change(before: Mapping[str, Tensor], after: Mapping[str, Tensor], prefix: str) -> dict[str, Floats]:
    """For every label whether the judge sees what it saw before, and how much its opinion changed."""
    found: dict[str, Floats] = {}
    for j in before:
        found[f"{prefix}/kept/{j}"] = kept_share(before[j], [after[j]])
        found[f"{prefix}/change/{j}"] = judged_shift(before[j], after[j])
    return found


def own_response(subject: Subject) -> dict[tuple[str, str], float]:
    """How much the judge's opinion of label j changes where label i is drawn otherwise and nothing else is.

    Mean total variation over the first 32 images, by (i, j): what part of a judged change is the judge's own. Empty
    without a judge, and where the data draw no counterfactuals.
    """
    return subject.cached(("judge's own response",), lambda: _own_response(subject))


def _own_response(subject: Subject) -> dict[tuple[str, str], float]:
    judge, data = subject.judge, subject.data
    if judge is None or not isinstance(data, HasCounterfactuals):
        return {}
    first = subject.subsample(CHUNK)
    before = judge.log_probabilities(data.batch(first.ids).images.to(subject.device))
    found: dict[tuple[str, str], float] = {}
    for i in subject.schema.names:
        if i not in data.schema or subject.schema[i].kind == "continuous":
            continue
        then = first.target_class(i)
        known = (then >= 0).numpy()
        if not known.any():
            continue
        drawn = data.with_attribute(first.ids[known], i, then[then >= 0].numpy().astype(np.float32))
        after = judge.log_probabilities(drawn.to(subject.device))
        for j in subject.schema.names:
            if j in before:
                rows = torch.from_numpy(known).to(before[j].device)
                found[i, j] = float(judged_shift(before[j][rows], after[j]).mean())
    return found


def judged_shift(before: Tensor, after: Tensor) -> Floats:
    r"""Total variation between two judged distributions of one label, shape :math:`(N,)`; for a binary one \|dp\|.

    Args:
        before, after: log-probabilities, shape :math:`(N, K)`.

    >>> judged_shift(torch.tensor([[0.25, 0.75]]).double().log(), torch.tensor([[0.75, 0.25]]).double().log())
    array([0.5])
    """
    moved = (after.double().exp() - before.double().exp()).abs().sum(1) / 2
    shift: Floats = moved.clamp_max(1).cpu().numpy()  # float32 log-probabilities sum to 1 but for rounding
    return shift


def probability_of(told: Tensor, classes: Tensor) -> Floats:
    r"""The judged probability of a class of each image, shape :math:`(N,)`; NaN where the class is -1."""
    told = told.double().exp().cpu()
    chosen = told.gather(1, classes.clamp_min(0)[:, None])[:, 0]
    probability: Floats = torch.where(classes >= 0, chosen, torch.nan).numpy()
    return probability


def seen_as(told: Tensor, classes: Tensor) -> Bools:
    r"""Whether the judge takes each image for one of its class, shape :math:`(N,)`; never where the class is -1."""
    seen: Bools = (told.argmax(1).cpu() == classes).numpy()
    return seen


def kept_share(before: Tensor, after: Sequence[Tensor]) -> Floats:
    r"""The share of images of each row in which the judge sees what it saw before.

    Args:
        before: log-probabilities of one label, shape :math:`(N, K)`.
        after: the same for each of S images, each of shape :math:`(N, K)`.

    Returns:
        Shape :math:`(N,)`.
    """
    classes = before.argmax(1).cpu()
    share: Floats = np.mean([seen_as(told, classes) for told in after], axis=0)
    return share
