"""From a checkpoint to a model: which class answers, whether the tensors are its weights, and only then memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ccvae_eval.checkpoint.bundle import Bundle, Record, read_bundle
from ccvae_eval.checkpoint.container.builders import SAVE_STATE_DICT
from ccvae_eval.checkpoint.fitting import Expected, Table, agreement, require_fit, table_of, without_wrappers
from ccvae_eval.checkpoint.record import EXTRA, CheckpointRecord
from ccvae_eval.errors import CcvaeEvalError, CheckpointError, PluginError, suggestion
from ccvae_eval.model import ModelContext, Rebuildable
from ccvae_eval.registry import adapters, models
from ccvae_eval.types import Plain

LARGEST_SETTING = 1_000_000
"""A whole number among a model's settings may not be above this, nor above the number of weights in the file."""
LARGEST_REST = 100_000_000
"""Numbers that a model may hold besides its weights (buffers that it computes itself)."""
MOST_PARAMETERS = 10_000
"""Parameters that a blank model may have, or ten times as many as the file has tensors."""


@runtime_checkable
class Adapter(Protocol):
    """Knows checkpoints that others wrote; registered in the group ``ccvae_eval.adapters``.

    The registered object is called without arguments to make one.
    """

    def matches(self, bundle: Bundle) -> float:
        """How surely these tensors are of the kind that it knows, 0 (not at all) to 1, by names and shapes."""
        ...

    def settings(self, bundle: Bundle) -> Mapping[str, Plain]:
        """The model's settings, read off the tensors and the metadata."""
        ...

    def build(self, settings: Mapping[str, Plain]) -> nn.Module:
        """An untrained model whose ``state_dict`` has the file's names. Must work on torch's meta device."""
        ...


@dataclass(frozen=True)
class Opened:
    """A model with its weights.

    Args:
        model: in evaluation mode, without gradients, on the CPU.
        name: of the registered model or adapter that answered.
        bundle: what the file holds.
        record: what the checkpoint says about itself; None if it says nothing.
        notes: what a user should know, one sentence each.
        extra: tensors of a checkpoint of ours that are not the model's.
    """

    model: nn.Module
    name: str
    bundle: Bundle
    record: CheckpointRecord | None
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Tensor] = field(default_factory=dict)


def open_checkpoint(
    path: str | Path,
    *,
    model: str | None = None,
    settings: Mapping[str, Plain] | None = None,
    context: ModelContext | None = None,
) -> Opened:
    """Opens a checkpoint without running anything that is in it.

    Args:
        path: the file.
        model: the registered model or adapter to build, instead of the one that the checkpoint names.
        settings: of the model, over those that the checkpoint records.
        context: labels, input shape and p(y), where the checkpoint records none.

    Raises:
        CheckpointError: the file is refused, names a model that is not installed, or holds other tensors than the
            model has.
        UsageError: ``model`` is unknown.
    """
    bundle = read_bundle(path)
    where = str(bundle.path)
    record = CheckpointRecord.from_bundle(bundle)
    weights = {name: tensor for name, tensor in bundle.tensors.items() if not name.startswith(EXTRA) or record is None}
    if not weights:
        raise CheckpointError("holds no tensors", where=where)
    name, build, record = _builder(bundle, record, model, settings or {}, context)
    with torch.device("meta"), _bounded(max(MOST_PARAMETERS, 10 * len(weights))):
        blank = _built(build, name, where)
    expected = table_of(blank.state_dict())
    weights, notes = without_wrappers(weights, expected)
    found = table_of(weights)
    resemblance = "" if found == expected else _resemblance(found, record, name)
    require_fit(found, expected, name, where, resemblance)
    _require_modest(blank, where)
    with torch.random.fork_rng(devices=[]):  # a stranger's model may draw its first weights from the global generator
        network = _built(build, name, where)
    network.load_state_dict(weights)
    network.eval().requires_grad_(False)
    notes = [*bundle.notes, *notes, *_not_finite(weights), *_converted(found, expected)]
    extra = {key.removeprefix(EXTRA): t for key, t in bundle.tensors.items() if key.startswith(EXTRA)}
    return Opened(network, name, bundle, record, tuple(notes), MappingProxyType(extra))


Build = Callable[[], Any]


def _builder(
    bundle: Bundle,
    record: CheckpointRecord | None,
    model: str | None,
    settings: Mapping[str, Plain],
    context: ModelContext | None,
) -> tuple[str, Build, CheckpointRecord | None]:
    """The name of the model, how an untrained one is made, and the record with what was given in its place."""
    where = str(bundle.path)
    name = model or (record.name if record else None)
    if name is None or (name in adapters and name not in models):
        return _adapted(bundle, name, settings)
    if model is None and name not in models:
        raise CheckpointError(
            f"needs the model {name[:80]!r}, which is not installed",
            where=where,
            hint=f"{suggestion(name[:80], models)} Install the package that has it, or name its file with --plugin.",
        )
    record = record or CheckpointRecord(name)
    kept = record.settings if record.name == name else _known(models[name], record.settings)
    record = replace(record, name=name, settings={**kept, **settings}, context=context or record.context)
    if record.context is None:
        raise CheckpointError(
            f"does not say what model {name!r} was built for",
            where=where,
            why="it holds weights alone, without labels and image shape",
            hint="An adapter (a plugin, see `ccvae-eval list adapters`) can tell; or give context= in Python.",
        )
    return name, _registered(name, record, bundle), record


def _registered(name: str, record: CheckpointRecord, bundle: Bundle) -> Build:
    """How a registered model is made from the checkpoint's record."""
    kind: Any = models[name]
    where, context = str(bundle.path), record.context
    _require_sane({"settings": dict(record.settings), "context": context.as_plain() if context else None}, bundle)
    maker = getattr(kind, "from_settings", None)
    if not isinstance(kind, type) or not issubclass(kind, nn.Module) or not callable(maker):
        raise PluginError(f"model {name!r} cannot be rebuilt", where=where, why="no nn.Module with from_settings")
    return lambda: maker(record.settings, context, seed=0)


def _adapted(
    bundle: Bundle, name: str | None, settings: Mapping[str, Plain]
) -> tuple[str, Build, CheckpointRecord | None]:
    """The adapter of this name, or the one that is surest of the file."""
    chosen = adapters[name]() if name else None
    if chosen is None:
        name, chosen = surest_adapter(bundle)
    if name is None or chosen is None:
        raise _stranger(bundle)
    whole = {**chosen.settings(bundle), **settings}
    _require_sane(whole, bundle)
    return name, lambda: chosen.build(whole), CheckpointRecord(name, whole)


def surest_adapter(bundle: Bundle) -> tuple[str | None, Adapter | None]:
    """The registered adapter with the highest score above 0 for these tensors; one that is broken has none."""
    best: tuple[float, str | None, Adapter | None] = (0.0, None, None)
    for name in adapters:
        try:
            adapter = adapters[name]()
            score = float(adapter.matches(bundle))
        except Exception:
            continue  # a stranger's broken plugin must not stop others from answering
        if score > best[0]:
            best = (score, name, adapter)
    return best[1], best[2]


def _stranger(bundle: Bundle) -> CheckpointError:
    what = (
        f"{len(bundle.tensors)} tensors, {bundle.parameter_count:,} numbers, first {next(iter(bundle.tensors), '')!r}"
    )
    if isinstance(bundle.records, Record):
        return CheckpointError(
            f"is a pickled {bundle.records.class_name}, and no installed adapter knows it",
            where=str(bundle.path),
            why="its class is code, which is never run",
            hint=f"Name an adapter with --plugin. {SAVE_STATE_DICT}",
        )
    return CheckpointError(
        "was not written by this toolkit, and no installed adapter knows it",
        where=str(bundle.path),
        why=what,
        hint="Write or install an adapter (three methods: matches, settings, build) and name its file with --plugin; "
        "`ccvae-eval inspect FILE` lists the tensors.",
    )


def _whole_numbers(plain: Any, name: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(plain, int):
        yield name, plain
    elif isinstance(plain, Mapping):
        for key, part in plain.items():
            yield from _whole_numbers(part, f"{name}.{key}".lstrip("."))
    elif isinstance(plain, list | tuple):
        for part in plain:
            yield from _whole_numbers(part, name)


def _require_sane(settings: Mapping[str, Plain], bundle: Bundle) -> None:
    """Refuses sizes that the file's own weights contradict, before even a blank model is made."""
    most = max(LARGEST_SETTING, bundle.parameter_count)
    for name, number in _whole_numbers(settings):
        if number > most and not name.endswith("seed"):
            raise CheckpointError(
                "asks for a model that is far too large",
                where=str(bundle.path),
                why=f"{name[:80]} = {number}; the file holds {bundle.parameter_count:,} numbers",
            )


@contextmanager
def _bounded(most: int) -> Iterator[None]:
    """Stops the making of a model of a million layers, which would take time and memory even without weights."""
    made = 0

    def counted(_module: nn.Module, name: str, _parameter: Any) -> None:
        nonlocal made
        made += 1
        if made > most:
            raise ValueError(f"over {most:,} parameters, the last {name!r}")

    with register_module_parameter_registration_hook(counted):
        yield


def _built(build: Build, name: str, where: str) -> nn.Module:
    try:
        network = build()
    except PluginError:
        raise
    except CcvaeEvalError as error:
        raise CheckpointError(
            f"its settings do not make a {name!r}", where=where, why=error.what, hint=error.hint
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"its settings do not make a {name!r}", where=where, why=f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise PluginError(f"{name!r} made no nn.Module", where=where)
    return network


def _require_modest(blank: nn.Module, where: str) -> None:
    """Refuses a model whose own buffers would fill the memory; its weights are no more than the file's."""
    rest = sum(b.numel() for b in blank.buffers()) + sum(p.numel() for p in blank.parameters())
    rest -= sum(tensor.numel() for tensor in blank.state_dict().values())
    if rest > LARGEST_REST:
        raise CheckpointError("asks for a model that is far too large", where=where, why=f"{rest:,} numbers to compute")


def _resemblance(found: Table, record: CheckpointRecord | None, asked: str) -> str:
    """A sentence on the registered model that these tensors fit best, if they do not fit the one asked for."""
    if record is None or record.context is None:
        return ""
    best, most = "", 0
    for name in models:
        try:
            expected = _blank_table(models[name], record, record.context)
        except Exception:
            continue  # a model that these settings cannot make is not the one that was looked for
        count = agreement(found, expected)
        if name != asked and count > most:
            best, most = name, count
    return f"It looks like {best} ({most}/{len(found)} keys)." if most > len(found) / 2 else ""


def _blank_table(kind: Any, record: CheckpointRecord, context: ModelContext) -> dict[str, Expected]:
    """What a model expects with those of the recorded settings that it knows."""
    with torch.device("meta"), _bounded(MOST_PARAMETERS):
        blank: Rebuildable = kind.from_settings(_known(kind, record.settings), context)
    return table_of(blank.state_dict())


def _known(kind: Any, settings: Mapping[str, Plain]) -> dict[str, Plain]:
    """Those of another model's settings that this one has too."""
    form = getattr(kind, "Settings", None)
    names = {f.name for f in fields(form)} if is_dataclass(form) else set()
    return {name: value for name, value in settings.items() if name in names}


def _not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    names = [n for n, t in weights.items() if t.is_floating_point() and not bool(t.float().isfinite().all())]
    return [f"{len(names)} tensors hold NaN or infinity: {', '.join(names[:3])}"] if names else []


def _converted(found: Table, expected: Table) -> list[str]:
    changed = sorted({str(found[n].dtype) for n in expected if found[n].dtype != expected[n].dtype})
    return [f"weights of type {', '.join(changed)} were converted"] if changed else []
