"""A weight that rises from 0 over the first steps of a training."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class KLSchedule(nn.Module):
    """Counts training steps; the count is among the model's weights, so that a resumed training goes on where it was.

    Args:
        steps: after how many steps the weight is 1; 0 = from the start.

    >>> rising = KLSchedule(4)
    >>> [rising.next() for _ in range(6)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    >>> rising.eval().next()
    1.0
    """

    taken: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("taken", torch.zeros(()))

    def next(self) -> float:
        """The weight of this step, which is counted; 1 in evaluation mode, so that validations can be compared."""
        if not self.training or not self.steps:
            return 1.0
        weight = min(self.taken.item() / self.steps, 1.0)
        self.taken += 1
        return weight
