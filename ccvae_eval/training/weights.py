"""Weights set aside: moving averages, the best so far, and optimisers' states as flat tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ccvae_eval.model import Objective

Tensors = dict[str, Tensor]


def copied(model: nn.Module) -> Tensors:
    """The model's weights and buffers as they are now."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def follow(average: Tensors, model: nn.Module, decay: float, step: int) -> None:
    """Moves an exponential average one step; early steps count more, so that the start is forgotten."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, tensor in model.state_dict().items():
        average[name].lerp_(tensor, 1 - decay)


@contextmanager
def exchanged(model: nn.Module, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
    """The model with other weights for a while; as it was with None."""
    if weights is None:
        yield
        return
    own = copied(model)
    model.load_state_dict(weights)
    try:
        yield
    finally:
        model.load_state_dict(own)


class Optimisers:
    """One Adam for each objective's name, made when the objective first appears.

    Args:
        learning_rate: of all.
        clip: greatest norm of each objective's gradient, 0 for no limit.
        states: what :meth:`tensors` gave, of a training that goes on.
    """

    def __init__(self, learning_rate: float, clip: float, states: Mapping[str, Tensor]) -> None:
        self.learning_rate, self.clip, self.states = learning_rate, clip, dict(states)
        self.each: dict[str, torch.optim.Adam] = {}

    def step(self, objective: Objective) -> None:
        """Moves the objective's own parameters down its gradient, and no others."""
        optimiser = self.each.get(objective.name) or self._made(objective)
        gradients = torch.autograd.grad(objective.loss, objective.parameters, allow_unused=True)
        for parameter, gradient in zip(objective.parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.clip:
            torch.nn.utils.clip_grad_norm_(objective.parameters, self.clip)
        optimiser.step()
        optimiser.zero_grad()

    def tensors(self) -> Tensors:
        """The states, by "objective/parameter/quantity"."""
        return dict(self.states) | {
            f"{name}/{index}/{quantity}": tensor
            for name, optimiser in self.each.items()
            for index, state in optimiser.state_dict()["state"].items()
            for quantity, tensor in state.items()
        }

    def _made(self, objective: Objective) -> torch.optim.Adam:
        optimiser = torch.optim.Adam(objective.parameters, lr=self.learning_rate)
        for index, parameter in enumerate(objective.parameters):
            prefix = f"{objective.name}/{index}/"
            for key in [key for key in self.states if key.startswith(prefix)]:
                tensor, quantity = self.states.pop(key), key.removeprefix(prefix)
                # in the parameter's own memory order: another one can round differently
                own = torch.empty_like(parameter) if tensor.shape == parameter.shape else torch.empty_like(tensor)
                optimiser.state[parameter][quantity] = own.detach().copy_(tensor)
        self.each[objective.name] = optimiser
        return optimiser
