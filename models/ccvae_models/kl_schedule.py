"""Linear warm-up of a KL weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class KLSchedule(nn.Module):
    """A weight that rises linearly from 0 to 1. The step count is part of the state_dict, so training can resume.

    Args:
        steps: training steps until the weight is 1; 0 = from the start.

    >>> schedule = KLSchedule(4)
    >>> [schedule.next() for _ in range(6)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    >>> schedule.eval().next()
    1.0
    """

    taken: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("taken", torch.zeros(()))

    def next(self) -> float:
        """Weight of the current step, which is then counted; always 1 in evaluation mode, for comparable losses."""
        if not self.training or not self.steps:
            return 1.0
        weight = min(self.taken.item() / self.steps, 1.0)
        self.taken += 1
        return weight
