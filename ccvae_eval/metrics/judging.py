"""What the judge's opinions of two images say of the change between them."""

from __future__ import annotations

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
    shift: Floats = ((after.double().exp() - before.double().exp()).abs().sum(1) / 2).cpu().numpy()
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
