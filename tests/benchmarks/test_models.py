"""A training step of each model costs its networks' own passes, forwards and backwards, and at most 15 % more.

At the batch that ``train`` takes unless told otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.model.interface import Batch, ModelContext, binary_schema, uniform_prior
from ccvae_eval.plugins.registry import HOME, models
from ccvae_eval.training import TrainingSettings
from ccvae_eval.training.state import Optimisers

LABELS = binary_schema(*(f"label {i}" for i in range(18)))
CONTEXT = ModelContext(LABELS, (3, 64, 64), uniform_prior(LABELS))
SETTINGS: Mapping[str, Mapping[str, Any]] = {"diva": {"domain": "label 0", "block": 2}}
BATCH = TrainingSettings().batch
MOST = 1.15
CALLS, ATTEMPTS, PROCESSES = 6, 4, 5

Call = tuple[nn.Module, tuple[Tensor, ...]]


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Call]]:
    """Every call of a network inside: of a chain of layers as a whole, of other layers one by one."""
    calls: list[Call] = []
    chains = {part for chain in model.modules() if isinstance(chain, nn.Sequential) for part in chain.modules()}
    chains -= {chain for chain in chains if isinstance(chain, nn.Sequential)}
    networks = [m for m in model.modules() if isinstance(m, nn.Sequential | nn.Linear) and m not in chains]
    hooks = [
        m.register_forward_hook(lambda module, given, _: calls.append((module, given)))
        for m in networks
        if any(True for _ in m.parameters())
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def a_step(name: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """A training step, and the same calls of the same networks with nothing in between."""
    model = models[name].from_settings(SETTINGS.get(name, {}), CONTEXT)
    optimisers = Optimisers(1e-3, 0.0, {})
    generator = torch_stream(0, "benchmark")
    images = torch.rand(BATCH, 3, 64, 64, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = (torch.rand(BATCH, 18, generator=generator) < 0.3).float()
    batch = Batch(images, labels, np.arange(BATCH))

    def step() -> None:
        for objective in model.objectives(batch, generator):
            optimisers.step(objective)

    with recorded(model) as calls:
        step()
    replay = [(module, tuple(x.detach().requires_grad_(x.requires_grad) for x in given)) for module, given in calls]
    parameters = tuple(model.parameters())
    adam = torch.optim.Adam(parameters, lr=1e-3)
    free = [x for _, given in replay for x in given if x.requires_grad]

    def networks() -> None:
        total = torch.stack([module(*given).sum() for module, given in replay]).sum()
        gradients = torch.autograd.grad(total, [*parameters, *free], allow_unused=True)  # as far back as in training
        for parameter, gradient in zip(parameters, gradients, strict=False):
            parameter.grad = gradient
        adam.step()
        adam.zero_grad()

    return step, networks


def seconds(step: Callable[[], None]) -> float:
    """Processor time on one thread: what other programs do meanwhile is not counted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    began = time.process_time()
    step()
    spent = time.process_time() - began
    torch.set_num_threads(threads)
    return spent


def least_ratio_of(name: str) -> float:
    """Of a few processes: where a process's memory lies stays its luck for all of its attempts (1.165 in ten of ten
    was seen, and 1.02 in another)."""
    ratio = float("inf")
    for _ in range(PROCESSES):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            ratio = min(ratio, pool.submit(ratio_of, name).result())
        if ratio <= MOST:
            break
    return ratio


def ratio_of(name: str) -> float:
    """Time of a step by that of its networks; noise only ever adds, so that one quiet attempt within the budget shows
    that it is met."""
    step, networks = a_step(name)
    ratio = float("inf")
    for _ in range(ATTEMPTS):
        ratio = min(ratio, measured(step, networks))
        if ratio <= MOST:
            break
    return ratio


def measured(step: Callable[[], None], networks: Callable[[], None]) -> float:
    pairs = np.array([(seconds(step), seconds(networks)) for _ in range(CALLS)])[2:]  # in turns: the same machine
    return float(pairs[:, 0].min() / pairs[:, 1].min())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(r.name for r in models.registrations() if r.distribution == HOME))
def test_a_step_costs_its_networks_passes(name: str, benchmark: Any) -> None:
    ratio = benchmark.pedantic(least_ratio_of, args=(name,), rounds=1)
    benchmark.extra_info["ratio to the networks alone"] = ratio
    assert ratio <= MOST
