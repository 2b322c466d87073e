"""What a stranger's metric must leave as it found it: the model's weights and modes, gradients, the random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ccvae_eval.core.errors import CcvaeEvalError, PluginError
from ccvae_eval.core.results import Measurement, Value
from ccvae_eval.evaluation.metric import Metric
from ccvae_eval.model.interface import LabelledVAE
from ccvae_eval.plugins.attribution import is_ours, name_and_home

HINT = "`ccvae-eval check NAME` tries a metric alone; randomness comes from subject.noise and subject.uniforms."


@contextmanager
def guarded(metric: Metric, model: LabelledVAE, call: str) -> Iterator[None]:
    """Runs one call of a metric; what it has disturbed is put right, and is an error of this metric alone.

    Raises:
        PluginError: naming the metric, where it is written, and what it disturbed.
    """
    if is_ours(metric):
        yield
        return
    modules = _modules(model)
    weights = [tensor.detach().clone() for tensor in _tensors(modules)]
    modes = [part.training for module in modules for part in module.modules()]
    random, numbers, gradients = torch.get_rng_state(), np.random.get_state(), torch.is_grad_enabled()
    try:
        yield
    except (CcvaeEvalError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise PluginError(
            f"metric {metric.name!r} failed in {call}", where=_home(metric), why=why, hint=HINT
        ) from error
    finally:
        disturbed = _restored(modules, weights, modes)
        if not torch.equal(random, torch.get_rng_state()) or _moved(numbers):
            disturbed.append("drew from a global random generator")
        if torch.is_grad_enabled() != gradients:
            disturbed.append("left gradients switched on" if not gradients else "left gradients switched off")
        torch.set_rng_state(random)
        np.random.set_state(numbers)
        torch.set_grad_enabled(gradients)
    if disturbed:
        raise PluginError(
            f"metric {metric.name!r} {' and '.join(disturbed)} in {call}",
            where=_home(metric),
            why="what it disturbed was put right; the other metrics are not touched by it",
            hint=HINT,
        )


def _home(metric: Metric) -> str:
    """The distribution or file that a metric comes from; its module, if it was never registered."""
    return name_and_home(metric)[1]


def _modules(model: LabelledVAE) -> list[nn.Module]:
    if isinstance(model, nn.Module):
        return [model]
    own = getattr(model, "modules", None)  # a wrapped model tells the modules behind its functions
    return list(own()) if callable(own) else []


def _tensors(modules: list[nn.Module]) -> list[Tensor]:
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def _restored(modules: list[nn.Module], weights: list[Tensor], modes: list[bool]) -> list[str]:
    """Puts weights and modes back; says which were changed."""
    disturbed = []
    for now, before in zip(_tensors(modules), weights, strict=True):
        if not torch.equal(now.detach().nan_to_num(), before.nan_to_num()):
            disturbed = ["changed the model's weights"]
            now.detach().copy_(before)
    parts = [part for module in modules for part in module.modules()]
    if [part.training for part in parts] != modes:
        disturbed.append("changed the model's mode (train, eval)")
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
    return disturbed


def _moved(before: object) -> bool:
    now = np.random.get_state()
    assert isinstance(now, tuple)
    assert isinstance(before, tuple)
    return now[2:] != before[2:] or not np.array_equal(now[1], before[1])


def require_measurement(metric: Metric, found: object) -> Measurement:
    """Refuses what is no measurement.

    Raises:
        PluginError: naming the metric and what it returned instead.
    """
    where = _home(metric)
    if not isinstance(found, Measurement):
        raise PluginError(
            f"metric {metric.name!r} returned {type(found).__name__} from compute(weights)",
            where=where,
            why="a Measurement is expected",
            hint=HINT,
        )
    unknown = {
        str(getattr(v, "name", v)) for v in found.values if not isinstance(v, Value) or v.name not in metric.values
    }
    if found.metric != metric.name or unknown:
        raise PluginError(
            f"metric {metric.name!r} returned a measurement that is not its own",
            where=where,
            why=f"not every value has a spec: {', '.join(sorted(unknown))}" if unknown else f"it says {found.metric!r}",
            hint=HINT,
        )
    return found
