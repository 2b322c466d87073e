"""Guards the model and the global random state against side effects of third-party metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from ccvae_eval.core.errors import PluginError
from ccvae_eval.core.results import Measurement, Value
from ccvae_eval.core.typed import plain, read
from ccvae_eval.evaluation.metric import Metric
from ccvae_eval.evaluation.run import MeasurementRow
from ccvae_eval.model.checks import networks_of
from ccvae_eval.model.interface import LabelledVAE
from ccvae_eval.plugins.attribution import is_builtin, name_and_origin, plugin_call

HINT = "`ccvae-eval check NAME` tests a metric alone; use subject.noise and subject.uniforms for random numbers."


@contextmanager
def guarded(metric: Metric, model: LabelledVAE, call: str) -> Iterator[None]:
    """Runs one call of a metric, and restores and reports what a third-party metric changed.

    Weights and modes of the model, the random states of torch and NumPy, and the gradient mode are restored.

    Raises:
        PluginError: the metric failed or changed one of these; names the metric, its origin and the change.
    """
    if is_builtin(metric):
        yield
        return
    modules = networks_of(model)
    weights = [tensor.detach().clone() for tensor in _tensors(modules)]
    modes = [part.training for module in modules for part in module.modules()]
    torch_state, numpy_state, gradients = torch.get_rng_state(), np.random.get_state(), torch.is_grad_enabled()
    try:
        with plugin_call(metric, "metric", call):
            yield
    finally:
        changes = _restored(modules, weights, modes)
        if not torch.equal(torch_state, torch.get_rng_state()) or _numpy_state_changed(numpy_state):
            changes.append("drew from a global random generator")
        if torch.is_grad_enabled() != gradients:
            changes.append("left gradients switched on" if not gradients else "left gradients switched off")
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        torch.set_grad_enabled(gradients)
    if changes:
        undone = "the changes were undone; the other metrics are not affected"
        raise _error(metric, f"{' and '.join(changes)} in {call}", undone)


def _error(metric: Metric, fault: str, why: str) -> PluginError:
    name, origin = name_and_origin(metric)
    return PluginError(f"metric {name} {fault}", where=origin, why=why, hint=HINT)


def _tensors(modules: list[nn.Module]) -> list[Tensor]:
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def _restored(modules: list[nn.Module], weights: list[Tensor], modes: list[bool]) -> list[str]:
    """Restores weights and modes; returns descriptions of the changes."""
    changes = []
    for now, before in zip(_tensors(modules), weights, strict=True):
        if not torch.equal(now.detach().nan_to_num(), before.nan_to_num()):
            changes = ["changed the model's weights"]
            now.detach().copy_(before)
    parts = [part for module in modules for part in module.modules()]
    if [part.training for part in parts] != modes:
        changes.append("changed the model's mode (train, eval)")
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
    return changes


def _numpy_state_changed(before: object) -> bool:
    now = np.random.get_state()
    assert isinstance(now, tuple)
    assert isinstance(before, tuple)
    return now[2:] != before[2:] or not np.array_equal(now[1], before[1])


def require_measurement(metric: Metric, found: object) -> Measurement:
    """Returns the result of a metric if it is a measurement of that metric.

    Raises:
        PluginError: it is not; names the metric and the fault.
    """
    if not isinstance(found, Measurement):
        fault = f"returned {type(found).__name__} from compute(weights)"
        raise _error(metric, fault, "it must return a Measurement")
    unknown = {
        str(getattr(v, "name", v)) for v in found.values if not isinstance(v, Value) or v.name not in metric.values
    }
    fault = "returned an invalid measurement"
    if found.metric != metric.name or unknown:
        missing = f"every value must have a spec, missing for {', '.join(sorted(unknown))}"
        raise _error(metric, fault, missing if unknown else f"it is named {found.metric!r}")
    if is_builtin(metric):
        return found
    try:
        read(MeasurementRow, plain(MeasurementRow.of(found, metric.values)), "measurement")
        for name, array in chain(found.evidence.items(), found.pictures.items()):
            if not isinstance(name, str) or np.asarray(array).dtype.hasobject:
                raise TypeError(f"evidence and pictures must be arrays of numbers by name, got {name!r}")
    except Exception as error:
        raise _error(metric, fault, str(error)) from error
    return found
