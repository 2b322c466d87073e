"""From a checkpoint to a model: which class answers, whether the tensors are its weights, and only then memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ccvae_eval.checkpoint.adapters import (
    Adapter,
    Advises,
    adapter_named,
    every_adapter,
    failed,
    hints_of,
    read_any,
    surest_adapter,
)
from ccvae_eval.checkpoint.building import (
    Build,
    arguments_of,
    bounded,
    built,
    is_rebuildable,
    require_sane,
    uninitialised,
)
from ccvae_eval.checkpoint.bundle import Bundle, Record
from ccvae_eval.checkpoint.matches import resemblance, sole_model
from ccvae_eval.checkpoint.metadata import EXTRA, CheckpointRecord
from ccvae_eval.checkpoint.safe_reader.builders import SAVE_STATE_DICT
from ccvae_eval.checkpoint.sidecar import Sidecar, sidecar_of
from ccvae_eval.checkpoint.state_dict_match import Expected, Table, agreement, require_fit, table_of, without_wrappers
from ccvae_eval.core.errors import CcvaeEvalError, CheckpointError, PluginError, UsageError, suggestion
from ccvae_eval.core.types import Plain
from ccvae_eval.model.interface import ModelContext, Rebuildable
from ccvae_eval.model.pixel_range import PixelRange, translated
from ccvae_eval.plugins.registry import HOME, adapters, models

LARGEST_REST = 100_000_000
"""Numbers that a model may hold besides its weights (buffers that it computes itself)."""
MOST_PARAMETERS = 10_000
"""Parameters that another model may have to which a file is compared."""


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
        settings: of the model, over those that the checkpoint records; with ``images.range`` and ``images.logits``
            a model of others is translated, see :mod:`ccvae_eval.model.pixel_range`.
        context: labels, input shape and p(y), where the checkpoint records none.

    Raises:
        CheckpointError: the file is refused, names a model that is not installed, or holds other tensors than the
            model has.
        UsageError: ``model`` is unknown.
    """
    bundle = read_any(path)
    where = str(bundle.path)
    record = CheckpointRecord.from_bundle(bundle)
    weights = {name: tensor for name, tensor in bundle.tensors.items() if not name.startswith(EXTRA) or record is None}
    if not weights:
        raise CheckpointError("holds no tensors", where=where)
    asked = _Asked(bundle, record, sidecar_of(bundle.path), model, settings or {}, context)
    pixels, asked = asked.without_pixels()
    answer = _answer(asked)
    outline = uninitialised(answer.build, answer.name, where, len(weights))
    expected = table_of(outline.state_dict())
    weights, notes = without_wrappers(weights, expected)
    found = table_of(weights)
    if found != expected:
        like = _resemblance(found, record, answer.name) or resemblance(bundle, asked.given, answer.name)
        if not like and found.keys() == expected.keys():
            like = (
                "All names are there, of other sizes: are the settings those of the training (--set, or a TOML beside)?"
            )
        require_fit(found, expected, answer.name, where, like)
    _require_modest(outline, where)
    with torch.random.fork_rng(devices=[]):  # a stranger's model may draw its first weights from the global generator
        network = built(answer.build, answer.name, where)
    network.load_state_dict(weights)
    network.eval().requires_grad_(False)
    notes = [*bundle.notes, *answer.notes, *notes, *_not_finite(weights), *_converted(found, expected)]
    if pixels is not None:
        network, answer = _translated(network, answer, pixels)
        notes.append(str(pixels))
    extra = {key.removeprefix(EXTRA): t for key, t in bundle.tensors.items() if key.startswith(EXTRA)}
    return Opened(network, answer.name, bundle, answer.record, tuple(notes), MappingProxyType(extra))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A file, and what was asked about it."""

    bundle: Bundle
    record: CheckpointRecord | None
    sidecar: Sidecar
    model: str | None
    settings: Mapping[str, Plain]
    context: ModelContext | None

    @property
    def where(self) -> str:
        return str(self.bundle.path)

    @property
    def given(self) -> dict[str, Plain]:
        """The settings that the user gave: those of the TOML file, and over them those of the call."""
        return {**self.sidecar.settings, **self.settings}

    def without_pixels(self) -> tuple[PixelRange | None, _Asked]:
        """What the record, the TOML file and the call say about pixels, each over the one before; and the rest."""
        recorded = dict(self.record.settings) if self.record else {}
        pixels, _ = PixelRange.of({**recorded, **self.given})
        if pixels is None:
            return None, self
        record = self.record and replace(self.record, settings=PixelRange.of(recorded)[1])
        file = replace(self.sidecar, settings=PixelRange.of(self.sidecar.settings)[1])
        return pixels, replace(self, record=record, sidecar=file, settings=PixelRange.of(self.settings)[1])


@dataclass(frozen=True, slots=True)
class _Answer:
    """Who answers: the name of the model, how an untrained one is made, and the record as it now stands."""

    name: str
    build: Build
    record: CheckpointRecord | None
    notes: tuple[str, ...] = ()


def _answer(asked: _Asked) -> _Answer:
    """Who answers for a file: the one that was asked for, that it names, or that its tensors fit."""
    name = asked.model or (asked.record.name if asked.record else None) or asked.sidecar.model
    given = asked.given
    if name is None:
        name = sole_model(asked.bundle, given)
    if name is None or (name in adapters and name not in models):
        return _adapted(asked, name, given)
    if asked.model is None and name not in models:
        raise CheckpointError(
            f"needs the model {name[:80]!r}, which is not installed",
            where=asked.where,
            hint=f"{suggestion(name[:80], models)} Install the package that has it, or name its file with --plugin.",
        )
    kind = models[name]
    if not is_rebuildable(kind):
        return _constructed(asked, name, kind, given)
    record = asked.record or CheckpointRecord(name)
    kept = record.settings if record.name == name else _known(kind, record.settings)
    record = replace(record, name=name, settings={**kept, **given}, context=asked.context or record.context)
    if record.context is None:
        raise CheckpointError(
            f"does not say what model {name!r} was built for",
            where=asked.where,
            why="it holds weights alone, without labels and image shape",
            hint="An adapter (a plugin, see `ccvae-eval list adapters`) can tell; or give context= in Python.",
        )
    return _Answer(name, _registered(name, record, asked.bundle), record)


def _registered(name: str, record: CheckpointRecord, bundle: Bundle) -> Build:
    """How a registered model is made from the checkpoint's record."""
    kind: Any = models[name]
    context = record.context
    require_sane({"settings": dict(record.settings), "context": context.as_plain() if context else None}, bundle)
    if not isinstance(kind, type) or not issubclass(kind, nn.Module):
        raise PluginError(f"model {name!r} cannot be rebuilt", where=str(bundle.path), why="it is no nn.Module")
    return lambda: kind.from_settings(record.settings, context, seed=0)  # type: ignore[attr-defined]


def _constructed(asked: _Asked, name: str, kind: Any, given: Mapping[str, Plain]) -> _Answer:
    """A user's class, made by its constructor: arguments by ``--set``, the TOML beside, and what the file hints."""
    if not callable(kind) or not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise PluginError(
            f"model {name!r} cannot be rebuilt",
            where=asked.where,
            why=f"{getattr(kind, '__name__', kind)} is no class of nn.Module",
            hint="Register the class itself: its weights are a state_dict.",
        )
    hinted, source = hints_of(asked.bundle)
    if asked.record is not None and asked.record.name == name:
        hinted, source = dict(asked.record.settings), ""
    arguments = arguments_of(kind, given, hinted, name)
    require_sane(arguments, asked.bundle)
    taken = [f"{key} = {arguments[key]!r}" for key in arguments if key in hinted and key not in given]
    notes = (f"{', '.join(taken)} as the checkpoint says ({source})",) if taken and source else ()
    record = replace(asked.record or CheckpointRecord(name), name=name, settings=arguments)
    return _Answer(name, lambda: kind(**arguments), record, notes)


def _adapted(asked: _Asked, name: str | None, given: Mapping[str, Plain]) -> _Answer:
    """The adapter of this name, or the one that is surest of the file."""
    chosen = adapter_named(name) if name else None
    if chosen is None:
        name, chosen = surest_adapter(asked.bundle)
    if name is None or chosen is None:
        raise _stranger(asked.bundle, given)
    if not isinstance(chosen, Adapter):
        raise UsageError(
            f"adapter {name!r} knows the file, but not the model in it",
            where=asked.where,
            hint="Name a model: --plugin FILE --model NAME. `ccvae-eval new model NAME` writes such a file.",
        )
    entry = dict(every_adapter()).get(name) or adapters.find(name)
    try:
        own = {} if asked.record and asked.record.name == name else chosen.settings(asked.bundle)
        advice = tuple(chosen.advice(asked.bundle)) if isinstance(chosen, Advises) else ()
    except CcvaeEvalError:
        raise
    except Exception as error:
        if entry.distribution == HOME:  # ours know their files: it is the file that is not as it seems
            why = f"{type(error).__name__}: {error}"
            raise CheckpointError(
                f"is not what it seems to adapter {name!r}", where=asked.where, why=why, hint="See ccvae-eval inspect."
            ) from error
        raise failed(name, entry, "settings(bundle)", error) from error
    whole = {**own, **(asked.record.settings if asked.record else {}), **given}
    require_sane(whole, asked.bundle)
    record = replace(asked.record or CheckpointRecord(name), name=name, settings=whole)
    return _Answer(name, lambda: chosen.build(whole), record, advice)


def _translated(network: nn.Module, answer: _Answer, pixels: PixelRange) -> tuple[nn.Module, _Answer]:
    """The model behind the translation that was asked for, which its record keeps.

    Raises:
        UsageError: the model was made from a record, and has seen images in [0, 1].
    """
    if isinstance(network, Rebuildable):
        raise UsageError(
            f"model {answer.name!r} was trained on images in [0, 1]",
            where=", ".join(pixels.as_settings()),
            hint="These settings are for models of other tools: a class of yours, or an adapter's.",
        )
    settings = {**(answer.record.settings if answer.record else {}), **pixels.as_settings()}
    record = replace(answer.record or CheckpointRecord(answer.name), settings=settings)
    return translated(network, pixels), replace(answer, record=record)


def _stranger(bundle: Bundle, given: Mapping[str, Plain]) -> CheckpointError:
    what = (
        f"{len(bundle.tensors)} tensors, {bundle.parameter_count:,} numbers, first {next(iter(bundle.tensors), '')!r}"
    )
    like = resemblance(bundle, given, None)
    if isinstance(bundle.records, Record):
        return CheckpointError(
            f"is a pickled {bundle.records.class_name}, and no installed adapter knows it",
            where=str(bundle.path),
            why="its class is code, which is never run",
            hint=f"{like} Name an adapter with --plugin. {SAVE_STATE_DICT}".strip(),
        )
    return CheckpointError(
        "was not written by this toolkit, and no installed adapter knows it",
        where=str(bundle.path),
        why=what,
        hint=f"{like} Write the class of your model into a file (`ccvae-eval new model NAME` makes one to start from) "
        "and name it with --plugin FILE; `ccvae-eval inspect FILE` lists the tensors.".strip(),
    )


def _require_modest(uninitialised: nn.Module, where: str) -> None:
    """Refuses a model whose own buffers would fill the memory; its weights are no more than the file's."""
    rest = sum(b.numel() for b in uninitialised.buffers()) + sum(p.numel() for p in uninitialised.parameters())
    rest -= sum(tensor.numel() for tensor in uninitialised.state_dict().values())
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
    with torch.device("meta"), bounded(MOST_PARAMETERS):
        uninitialised: Rebuildable = kind.from_settings(_known(kind, record.settings), context)
    return table_of(uninitialised.state_dict())


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
