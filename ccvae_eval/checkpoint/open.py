"""From a checkpoint to a model: find its class, compare names and shapes of the weights, then build and load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ccvae_eval.checkpoint.adapters import (
    Adapter,
    Advises,
    best_adapter,
    hints_of,
    instantiate,
    read_any,
)
from ccvae_eval.checkpoint.building import (
    Build,
    build_network,
    constructor_arguments,
    count_matching,
    is_rebuildable,
    meta_network,
    require_match,
    require_plausible_sizes,
    strip_prefixes,
)
from ccvae_eval.checkpoint.bundle import Bundle, Record, TensorTable, names_only_modules, tensor_table
from ccvae_eval.checkpoint.matches import closest_candidate, sole_model
from ccvae_eval.checkpoint.metadata import EXTRA, CheckpointRecord
from ccvae_eval.checkpoint.safe_reader.builders import DISTRUST, STATE_DICT_HINT
from ccvae_eval.checkpoint.sidecar import Sidecar, read_sidecar
from ccvae_eval.core.errors import CheckpointError, PluginError, UsageError, suggestion
from ccvae_eval.core.types import Plain
from ccvae_eval.model.interface import ModelContext, Rebuildable, supports
from ccvae_eval.model.pixel_range import PixelRange
from ccvae_eval.plugins.attribution import is_builtin, plugin_call
from ccvae_eval.plugins.registry import adapters, models

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_BUFFER_ELEMENTS = 100_000_000
"""Most elements that a model may hold outside its state_dict, such as buffers that it computes itself."""


@dataclass(frozen=True)
class Opened:
    """A model loaded from a checkpoint.

    Args:
        model: in evaluation mode, without gradients, on the CPU.
        name: the registered model or adapter that built it.
        bundle: the content of the file.
        record: the checkpoint's own record; None without one.
        notes: remarks for the user, one sentence each.
        extra: further tensors of a checkpoint of this toolkit, such as an optimiser's.
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
    """Loads a model from a checkpoint without executing code from it.

    Args:
        path: the file or folder.
        model: the registered model or adapter to build; by default the one that the checkpoint names or fits.
        settings: settings of the model; they override those in the checkpoint. ``images.range`` and ``images.logits``
            describe the pixels of a third-party model, see :mod:`ccvae_eval.model.pixel_range`.
        context: labels, input shape and p(y), if the checkpoint does not record them.

    Raises:
        CheckpointError: the file is refused, its model is not installed, or its tensors do not match the model.
        UsageError: ``model`` is not registered, or a setting is unknown or missing.
    """
    bundle = read_any(path)
    where = str(bundle.path)
    record = CheckpointRecord.from_bundle(bundle)
    names = [name for name in bundle.tensors if not name.startswith(EXTRA) or record is None]
    if not names:
        raise CheckpointError(
            "contains no tensors", where=where, hint="Save the weights: torch.save(model.state_dict(), FILE)."
        )
    request = _Request(bundle, record, read_sidecar(bundle.path), model, settings or {}, context)
    pixels, request = request.without_pixels()
    plan = _plan(request)
    outline = meta_network(plan.build, plan.name, where, len(names))
    expected = tensor_table(outline.state_dict())
    weights, notes = strip_prefixes({name: bundle.tensors[name] for name in names}, expected)
    found = tensor_table(weights)
    if found != expected:
        advice = _closest_model(found, record, plan.name) or closest_candidate(bundle, request.given, plan.name)
        if not advice and found.keys() == expected.keys():
            advice = "All names match, but sizes differ: use the settings of the training (--set, or a TOML file)."
        require_match(found, expected, plan.name, where, advice)
    _require_small_buffers(outline, where)
    import torch

    with torch.random.fork_rng(devices=[]):  # a third-party constructor may use the global generator
        network = build_network(plan.build, plan.name, where)
    network.load_state_dict(weights)
    network.eval().requires_grad_(False)
    notes = [*bundle.notes, *plan.notes, *notes, *_weight_notes(weights, found, expected)]
    if pixels is not None:
        network, plan = _convert_pixels(network, plan, pixels)
        notes.append(str(pixels))
    extra = {key.removeprefix(EXTRA): t for key, t in bundle.tensors.items() if key.startswith(EXTRA)}
    return Opened(network, plan.name, bundle, plan.record, tuple(notes), MappingProxyType(extra))


@dataclass(frozen=True, slots=True)
class _Request:
    """A file and the arguments of :func:`open_checkpoint`."""

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
        """The user's settings: those of the call override those of the TOML file."""
        return {**self.sidecar.settings, **self.settings}

    def without_pixels(self) -> tuple[PixelRange | None, _Request]:
        """The pixel range from record, TOML file and call, the later ones overriding; and the request without it."""
        recorded = dict(self.record.settings) if self.record else {}
        pixels, _ = PixelRange.of({**recorded, **self.given})
        if pixels is None:
            return None, self
        record = self.record and replace(self.record, settings=PixelRange.of(recorded)[1])
        file = replace(self.sidecar, settings=PixelRange.of(self.sidecar.settings)[1])
        return pixels, replace(self, record=record, sidecar=file, settings=PixelRange.of(self.settings)[1])


@dataclass(frozen=True, slots=True)
class _Plan:
    """The model to build: its registered name, a function that builds it untrained, and its updated record."""

    name: str
    build: Build
    record: CheckpointRecord | None
    notes: tuple[str, ...] = ()


def _plan(request: _Request) -> _Plan:
    """Chooses the model: the requested one, the one that the file names, or the one that its tensors fit."""
    name = request.model or (request.record.name if request.record else None) or request.sidecar.model
    given = request.given
    if name is None:
        name = sole_model(request.bundle, given)
    if name is None or (name in adapters and name not in models):
        return _plan_with_adapter(request, name, given)
    if request.model is None and name not in models:
        raise CheckpointError(
            f"needs the model {name[:80]!r}, which is not installed",
            where=request.where,
            hint=f"{suggestion(name[:80], models)} Install the package that provides it, or give its file with "
            "--plugin FILE.",
        )
    registered = models[name]
    from ccvae_eval.model.checks import require_module_class

    kind: Any = require_module_class(registered, name, request.where)
    if not is_rebuildable(kind):
        return _plan_with_constructor(request, name, kind, given)
    record = request.record or CheckpointRecord(name)
    kept = record.settings if record.name == name else _shared_settings(kind, record.settings)
    record = replace(record, name=name, settings={**kept, **given}, context=request.context or record.context)
    if record.context is None:
        raise CheckpointError(
            f"does not record the labels and input shape of model {name!r}",
            where=request.where,
            why="it contains weights alone",
            hint="In Python, pass context=ModelContext(...); or use an adapter (`ccvae-eval list adapters`).",
        )
    require_plausible_sizes({"settings": dict(record.settings), "context": record.context.as_plain()}, request.bundle)
    return _Plan(name, partial(kind.from_settings, record.settings, record.context, seed=0), record)


def _plan_with_constructor(request: _Request, name: str, kind: Any, given: Mapping[str, Plain]) -> _Plan:
    """A user's class, built by its constructor with arguments from ``--set``, the TOML file and the checkpoint."""
    hinted, source = hints_of(request.bundle)
    if request.record is not None and request.record.name == name:
        hinted, source = dict(request.record.settings), ""
    arguments = constructor_arguments(kind, given, hinted, name)
    require_plausible_sizes(arguments, request.bundle)
    used = [f"{key} = {arguments[key]!r}" for key in arguments if key in hinted and key not in given]
    notes = (f"{', '.join(used)} as recorded in the checkpoint ({source})",) if used and source else ()
    record = replace(request.record or CheckpointRecord(name), name=name, settings=arguments)
    return _Plan(name, partial(kind, **arguments), record, notes)


def _plan_with_adapter(request: _Request, name: str | None, given: Mapping[str, Plain]) -> _Plan:
    """A model built by the named adapter, or by the one with the highest score."""
    name, adapter, notes = (name, instantiate(adapters.find(name)), ()) if name else best_adapter(request.bundle)
    if name is None or adapter is None:
        own = [entry.name for entry in models.registrations() if entry.from_file]
        if len(own) == 1:  # the user's only class is meant: its error says why it does not fit
            return _plan(replace(request, model=own[0]))
        raise _unrecognised(request.bundle, given)
    if not isinstance(adapter, Adapter):
        raise UsageError(
            f"adapter {name!r} reads the file but has no class for its model",
            where=request.where,
            hint="Give the model's class: --plugin FILE --model NAME. `ccvae-eval new model NAME` writes a template.",
        )
    entry = adapters.find(name)
    try:
        with plugin_call(entry, "adapter", "settings(bundle)"):
            inferred = {} if request.record and request.record.name == name else adapter.settings(request.bundle)
            advice = tuple(adapter.advice(request.bundle)) if isinstance(adapter, Advises) else ()
    except PluginError as error:
        if not is_builtin(entry):
            raise
        raise CheckpointError(  # a built-in adapter fails because of the file
            f"resembles a checkpoint of adapter {name!r}, but cannot be read as one",
            where=request.where,
            why=error.why,
            hint="`ccvae-eval inspect FILE` lists its tensors.",
        ) from error
    combined = {**inferred, **(request.record.settings if request.record else {}), **given}
    require_plausible_sizes(combined, request.bundle)
    record = replace(request.record or CheckpointRecord(name), name=name, settings=combined)
    return _Plan(name, partial(adapter.build, combined), record, (*notes, *advice))


def _convert_pixels(network: nn.Module, plan: _Plan, pixels: PixelRange) -> tuple[nn.Module, _Plan]:
    """Wraps the model in its pixel range, which the record keeps.

    Raises:
        UsageError: the model was trained by this toolkit, on images in [0, 1].
    """
    if supports(network, Rebuildable):
        raise UsageError(
            f"model {plan.name!r} was trained on images in [0, 1]",
            where=", ".join(pixels.as_settings()),
            hint="These settings are for models trained by other programs.",
        )
    settings = {**(plan.record.settings if plan.record else {}), **pixels.as_settings()}
    record = replace(plan.record or CheckpointRecord(plan.name), settings=settings)
    from ccvae_eval.model.wrap import PixelRangeModel

    return PixelRangeModel(network, pixels), replace(plan, record=record)


def _unrecognised(bundle: Bundle, given: Mapping[str, Plain]) -> CheckpointError:
    """The error for a file that no model and no adapter recognises."""
    advice = closest_candidate(bundle, given, None)
    if bundle.format == "folder" and len(bundle.structure) > 1:
        parts = ", ".join(bundle.structure)
        advice = f"{len(bundle.structure)} files were read as one model: {parts}. Give one file if they are unrelated."
    if isinstance(bundle.structure, Record):
        way_out = STATE_DICT_HINT if names_only_modules(bundle) else DISTRUST
        return CheckpointError(
            f"is a pickled {bundle.structure.class_name}, which no installed adapter recognises",
            where=str(bundle.path),
            why="a pickled module refers to code, which is never run",
            hint=f"{advice} Name an adapter with --plugin. {way_out}".strip(),
        )
    return CheckpointError(
        "was not written by this toolkit, and no installed adapter recognises it",
        where=str(bundle.path),
        why=f"{len(bundle.tensors)} tensors, {bundle.parameter_count:,} numbers, first "
        f"{next(iter(bundle.tensors), '')!r}",
        hint=f"{advice} Write your model's class into a file (`ccvae-eval new model NAME --from {bundle.path}` writes "
        f"one that fits) and pass it with --plugin FILE; `ccvae-eval inspect {bundle.path}` lists the tensors.".strip(),
    )


def _require_small_buffers(network: nn.Module, where: str) -> None:
    """Refuses a model whose own buffers would fill the memory; its weights are bounded by the file."""
    size = sum(b.numel() for b in network.buffers()) + sum(p.numel() for p in network.parameters())
    size -= sum(tensor.numel() for tensor in network.state_dict().values())
    if size > MAX_BUFFER_ELEMENTS:
        why = f"its buffers have {size:,} numbers"
        raise CheckpointError("describes a model that is far too large", where=where, why=why)


def _closest_model(found: TensorTable, record: CheckpointRecord | None, requested: str) -> str:
    """A sentence that names the registered model that fits the tensors best, if it is not the requested one."""
    if record is None or record.context is None:
        return ""
    best, most = "", 0
    for name in models:
        try:
            kind = models[name]
            build = partial(kind.from_settings, _shared_settings(kind, record.settings), record.context)
            count = count_matching(found, tensor_table(meta_network(build, name, "", 0).state_dict()))
        except Exception:
            continue  # a model that cannot be built from these settings is not the one
        if name != requested and count > most:
            best, most = name, count
    return f"It looks like {best} ({most}/{len(found)} keys)." if most > len(found) / 2 else ""


def _shared_settings(kind: Any, settings: Mapping[str, Plain]) -> dict[str, Plain]:
    """Those of another model's settings that this one has too."""
    form = getattr(kind, "Settings", None)
    names = {f.name for f in fields(form)} if is_dataclass(form) else set()
    return {name: value for name, value in settings.items() if name in names}


def _weight_notes(weights: Mapping[str, Tensor], found: TensorTable, expected: TensorTable) -> list[str]:
    """Notes on weights that are not finite, and on weights of another type than the model's."""
    names = [n for n, t in weights.items() if t.is_floating_point() and not bool(t.float().isfinite().all())]
    types = sorted({f"torch.{info.dtype}" for name, info in found.items() if info.dtype != expected[name].dtype})
    notes = [f"{len(names)} tensors contain NaN or infinity: {', '.join(names[:3])}"] if names else []
    return [*notes, f"weights of type {', '.join(types)} were converted to the model's type"] if types else notes
