"""Inspection of a checkpoint: its content, and how well the registered adapters and models fit its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ccvae_eval.checkpoint.adapters import (
    Adapter,
    Advises,
    Hints,
    best_adapter,
    hints_of,
    matches,
    read_any,
    within_time,
)
from ccvae_eval.checkpoint.building import (
    Build,
    constructor_arguments,
    count_matching,
    is_rebuildable,
    meta_network,
    require_plausible_sizes,
    strip_prefixes,
)
from ccvae_eval.checkpoint.bundle import Bundle, Record, tensor_table
from ccvae_eval.checkpoint.metadata import CheckpointRecord
from ccvae_eval.checkpoint.sidecar import read_sidecar
from ccvae_eval.core.errors import CcvaeEvalError, is_stop_request
from ccvae_eval.core.types import Plain
from ccvae_eval.model.pixel_range import PixelRange
from ccvae_eval.plugins.registry import BUILTIN_DISTRIBUTION, models

MAX_NAMED = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """An adapter or model that may be able to load a file.

    Args:
        name: its registered name.
        kind: "adapter" or "model".
        score: an adapter's confidence, 0 to 1; None for a model.
        fits, of: number of the network's tensors that the file has with that name and shape, and their total.
        missing: tensors of the network that the file lacks or has in another shape; the first few.
        extra: number of tensors of the file that the network does not have.
        note: advice, required arguments, or the reason why it cannot load the file.
        from_file: True if it is registered by a plugin file.
    """

    name: str
    kind: str
    score: float | None = None
    fits: int = 0
    of: int = 0
    missing: tuple[str, ...] = ()
    extra: int = 0
    note: str = ""
    from_file: bool = False

    @property
    def complete(self) -> bool:
        """True if the file's tensors are exactly the network's."""
        return self.of > 0 and self.fits == self.of and not self.missing and not self.extra

    @property
    def fraction(self) -> float:
        """Fraction of the network's tensors that the file has; 0 for a network without tensors."""
        return self.fits / self.of if self.of else 0.0

    def as_plain(self) -> dict[str, Plain]:
        return {
            "name": self.name,
            "kind": self.kind,
            "score": self.score,
            "fits": f"{self.fits} of {self.of} tensors" if self.of else "",
            "missing": list(self.missing),
            "extra": self.extra or None,
            "note": self.note,
        }


def candidates(bundle: Bundle, settings: Mapping[str, Plain]) -> list[Candidate]:
    """Returns the adapters and models that may load a file with the user's settings, the best fit first."""
    found = [*_adapters(bundle, settings), *_models(bundle, settings)]
    useful = [c for c in found if c.fits or c.score or c.from_file or (c.kind == "adapter" and c.note)]
    return sorted(useful, key=lambda c: (not c.complete, not c.from_file, -(c.score or 0), -c.fraction, c.name))


def sole_model(bundle: Bundle, settings: Mapping[str, Plain]) -> str | None:
    """Returns the name of the only plugin-file model that fits the tensors exactly; None unless exactly one fits."""
    fitting = [c.name for c in _models(bundle, settings) if c.from_file and c.complete]
    return fitting[0] if len(fitting) == 1 else None


def _adapters(bundle: Bundle, settings: Mapping[str, Plain]) -> Iterator[Candidate]:
    for match in matches(bundle):
        name, score, adapter = match.name, match.score, match.adapter
        if adapter is None:
            yield Candidate(name, "adapter", 0.0, note=f"broken: {match.problem}")
            continue
        try:
            with within_time(adapter):
                found = _with_adapter(name, score, adapter, bundle, settings)
        except BaseException as error:  # third-party code in front of every file
            if is_stop_request(error):
                raise
            found = Candidate(name, "adapter", score, note=_reason(error))
        yield found


def _with_adapter(name: str, score: float, adapter: Any, bundle: Bundle, settings: Mapping[str, Plain]) -> Candidate:
    advice = " ".join(adapter.advice(bundle)) if isinstance(adapter, Advises) else ""
    if not isinstance(adapter, Adapter):
        needs = "needs the model's class: --plugin FILE --model NAME" if isinstance(adapter, Hints) else ""
        return Candidate(name, "adapter", score, note=advice or needs)
    combined = {**adapter.settings(bundle), **settings}
    require_plausible_sizes(combined, bundle)
    return _compared(name, "adapter", partial(adapter.build, combined), bundle, score, advice)


def _models(bundle: Bundle, settings: Mapping[str, Plain]) -> Iterator[Candidate]:
    """Third-party models that are built by their constructor; built-in ones are named by the checkpoint's record."""
    hinted, _ = hints_of(bundle)
    for entry in models.registrations():
        if entry.distribution == BUILTIN_DISTRIBUTION:
            continue
        try:
            from ccvae_eval.model.checks import require_module_class

            kind: Any = require_module_class(entry.load(), entry.name, "")
            if is_rebuildable(kind):
                continue
            arguments = constructor_arguments(kind, settings, hinted, entry.name)
            require_plausible_sizes(arguments, bundle)
            found = replace(
                _compared(entry.name, "model", partial(kind, **arguments), bundle), from_file=entry.from_file
            )
        except BaseException as error:
            if is_stop_request(error):
                raise
            found = Candidate(entry.name, "model", note=_reason(error), from_file=entry.from_file)
        yield found


def _compared(
    name: str, kind: str, build: Build, bundle: Bundle, score: float | None = None, note: str = ""
) -> Candidate:
    """The candidate with its tensors compared to the file's."""
    expected = tensor_table(meta_network(build, name, str(bundle.path), len(bundle.tensors)).state_dict())
    found, _ = strip_prefixes(bundle.tensor_table, expected)
    missing = [n for n, tensor in expected.items() if n not in found or not tensor.accepts(found[n])]
    extra = sum(n not in expected for n in found)
    fits, first = count_matching(found, expected), tuple(missing[:MAX_NAMED])
    return Candidate(name, kind, score, fits, len(expected), first, extra, note)


def _reason(error: BaseException) -> str:
    if isinstance(error, CcvaeEvalError):
        return f"{error.what}{f' ({error.why})' if error.why else ''}. {error.hint}".strip()
    return f"{type(error).__name__}: {error}"


def closest_candidate(bundle: Bundle, settings: Mapping[str, Plain], requested: str | None) -> str:
    """Returns a sentence that names the best fit if it is not the requested one, else ""."""
    for candidate in candidates(bundle, settings):
        if candidate.name != requested and candidate.fraction > 0.5:
            option = f", use --model {candidate.name}" if candidate.complete else ""
            return f"It looks like {candidate.name} ({candidate.fits}/{candidate.of} keys){option}."
    return ""


def inspect_checkpoint(path: str | Path, settings: Mapping[str, Plain] | None = None) -> dict[str, Plain]:
    """Returns the content of a checkpoint as plain data, without executing code from it or requiring its model.

    Args:
        path: the file, or a folder with the files of one model.
        settings: settings of candidate models; they override those in a TOML file next to the checkpoint.

    Returns:
        ``summary`` (the model in one sentence, "" if it is not known), ``path``, ``format``, ``size`` in bytes,
        ``sha256``, ``written_by``, ``model`` (its name or class, or None), ``parameters``, ``candidates`` (adapters
        and models, how well they fit and which tensors are missing), ``globals``, ``notes``, ``metadata`` and
        ``tensors``, each with key, shape and type.

    Raises:
        CheckpointError: the file is refused.
    """
    *_, found = inspection(path, settings)
    return found


def inspection(path: str | Path, settings: Mapping[str, Plain] | None = None) -> Iterator[dict[str, Plain]]:
    """Yields what :func:`inspect_checkpoint` returns, at first without candidates.

    To compare the tensors with a candidate, its network is built, which imports torch.
    """
    bundle = read_any(path)
    _, arguments = PixelRange.of({**read_sidecar(bundle.path).settings, **(settings or {})})
    found: dict[str, Plain] = {
        "summary": _summary(bundle),
        "path": str(bundle.path),
        "format": bundle.format,
        "size": bundle.size,
        "sha256": bundle.sha256,
        "written_by": f"ccvae-eval {bundle.envelope.tool}" if bundle.envelope else None,
        "model": _model_name(bundle),
        "parameters": bundle.parameter_count,
        "candidates": [],
        "globals": list(bundle.globals),
        "notes": list(bundle.notes),
        "metadata": dict(bundle.metadata),
        "tensors": [
            {"key": name, "shape": list(info.shape), "dtype": info.dtype} for name, info in bundle.tensor_table.items()
        ],
    }
    yield found
    yield {**found, "candidates": [c.as_plain() for c in candidates(bundle, arguments)]}


def _summary(bundle: Bundle) -> str:
    """Name, images, latent dimensions and training of a recorded model, such as "ccvae, 64 x 64 RGB, z = 30"."""
    record = CheckpointRecord.from_bundle(bundle)
    if record is None or record.context is None:
        return ""
    shape = record.context.input_shape
    color = {1: "grey", 3: "RGB"}.get(shape[0], f"{shape[0]} channels")
    parts = [record.name, f"{shape[1]} x {shape[2]} {color}" if len(shape) == 3 else f"points of {shape[0]} numbers"]
    labels, style = ", ".join(record.context.labels.names), record.settings.get("style")
    heads = bundle.tensor_table.get("encoder.loc.weight")
    if heads is not None:
        owned = " + ".join([*([f"{style} style"] if style is not None else []), *([labels] if labels else [])])
        parts.append(f"z = {heads.shape[0]}" + (f" = {owned}" if owned else ""))
    elif labels:
        parts.append(labels)
    if isinstance(steps := record.training.get("steps"), int):
        parts.append(f"{steps:,} steps")
    return ", ".join(parts)


def _model_name(bundle: Bundle) -> str | None:
    """The recorded model, the class of a pickled module, or the adapter with the highest score."""
    record = CheckpointRecord.from_bundle(bundle)
    if record is not None:
        return record.name
    adapter = best_adapter(bundle)[0]
    if adapter is None and isinstance(bundle.structure, Record):
        return bundle.structure.class_name
    return adapter
