"""What the judge's opinions of two images say of the change between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.types import Bools, Floats


def judged_shift(before: Tensor, after: Tensor) -> Floats:
    r"""Total variation between two judged distributions of one label, shape :math:`(N,)`; for a binary one \|dp\|.

    Args:
        before, after: log-probabilities, shape :math:`(N, K)`.

    >>> judged_shift(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.75, 0.25]]).log())
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
