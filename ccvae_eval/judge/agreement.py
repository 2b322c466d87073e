"""How far a judge can be trusted: its balanced accuracy for each label."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from ccvae_eval.model import LabelSchema
from ccvae_eval.types import Labels

LEAST_AGREEMENT = 0.8


def balanced_accuracies(told: Mapping[str, Tensor], labels: Labels, schema: LabelSchema) -> dict[str, float]:
    """For each label the mean over its classes of the share of their images that are seen as theirs.

    Args:
        told: log-probabilities of each label, shape :math:`(N, K)`.
        labels: what is true, shape :math:`(N, L)` in the schema's order; missing ones do not enter.
        schema: the labels; those that nobody was asked about are left out of the answer.

    Returns:
        Label to share; NaN where fewer than two classes occur.

    >>> import torch
    >>> from ccvae_eval.model import binary_schema
    >>> told = {"Hat": torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]]).log()}
    >>> balanced_accuracies(told, torch.tensor([[0.0], [0.0], [1.0], [1.0]]), binary_schema("Hat"))
    {'Hat': 0.75}
    """
    return {
        name: _mean_recall(told[name].argmax(1).cpu(), labels[:, schema.index(name)].cpu())
        for name in schema.names
        if name in told
    }


def _mean_recall(seen: Tensor, true: Tensor) -> float:
    classes = sorted(set(true[~true.isnan()].tolist()))
    recalls = [float((seen[true == k] == k).double().mean()) for k in classes]
    return sum(recalls) / len(recalls) if len(recalls) > 1 else math.nan


def trusted_labels(agreement: Mapping[str, float], least: float = LEAST_AGREEMENT) -> tuple[str, ...]:
    """The labels whose judged values may be shown: the judge agrees with them on this model's pictures.

    Args:
        agreement: for each label the judge's balanced accuracy on the model's reconstructions, as
            :func:`balanced_accuracies` gives it. NaN is not trusted: nobody could check.
        least: the least balanced accuracy.

    >>> trusted_labels({"Hat": 0.97, "Bangs": 0.71, "Tie": float("nan")})
    ('Hat',)
    """
    return tuple(name for name, share in agreement.items() if share >= least)
