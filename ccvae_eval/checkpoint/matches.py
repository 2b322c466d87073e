"""Which adapters and models could answer for a file, how well their networks fit, and what is missing.

What a checkpoint holds, for somebody who wants to know before using it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ccvae_eval.checkpoint.adapters import Adapter, Advises, Hints, hints_of, matches, read_any, surest_adapter
from ccvae_eval.checkpoint.building import Build, arguments_of, expected_of, is_rebuildable, require_sane
from ccvae_eval.checkpoint.bundle import Bundle, Record
from ccvae_eval.checkpoint.metadata import CheckpointRecord
from ccvae_eval.checkpoint.sidecar import sidecar_of
from ccvae_eval.checkpoint.state_dict_match import agreement, table_of, without_wrappers
from ccvae_eval.core.errors import CcvaeEvalError
from ccvae_eval.core.types import Plain
from ccvae_eval.model.pixel_range import PixelRange
from ccvae_eval.plugins.registry import HOME, Registration, models

MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """One that could answer for a file.

    Args:
        name: as registered.
        kind: "adapter" or "model".
        score: an adapter's own word, 0 to 1; None for a model.
        fits, of: how many of the file's tensors have a name and shape that its network expects, and how many it has.
        missing: tensors of its network that the file lacks, or has in another shape; the first few.
        extra: tensors of the file that the network has no place for.
        note: what must be given or known; or why it cannot answer.
        own: whether it comes from a file of the user's.
    """

    name: str
    kind: str
    score: float | None = None
    fits: int = 0
    of: int = 0
    missing: tuple[str, ...] = ()
    extra: int = 0
    note: str = ""
    own: bool = False

    @property
    def complete(self) -> bool:
        """Whether the file's tensors are exactly its weights."""
        return self.of > 0 and self.fits == self.of and not self.missing and not self.extra

    @property
    def share(self) -> float:
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
    """All that could answer for a file, those that fit best first; ones that fit nothing are left out.

    Args:
        bundle: the file.
        settings: as given by the user.
    """
    found = [*_adapters(bundle, settings), *_models(bundle, settings)]
    useful = [c for c in found if c.fits or c.score or c.own or (c.kind == "adapter" and c.note)]
    return sorted(useful, key=lambda c: (not c.complete, not c.own, -(c.score or 0), -c.share, c.name))


def sole_model(bundle: Bundle, settings: Mapping[str, Plain]) -> str | None:
    """The one model of the user's own plugin files whose weights these are exactly."""
    fitting = [c.name for c in _models(bundle, settings) if c.own and c.complete]
    return fitting[0] if len(fitting) == 1 else None


def _adapters(bundle: Bundle, settings: Mapping[str, Plain]) -> Iterator[Candidate]:
    for match in matches(bundle):
        name, score, adapter = match.name, match.score, match.adapter
        if adapter is None:
            yield Candidate(name, "adapter", 0.0, note=f"broken: {match.problem}")
            continue
        try:
            advice = " ".join(adapter.advice(bundle)) if isinstance(adapter, Advises) else ""
            if not isinstance(adapter, Adapter):
                needs = "needs a model of yours: --plugin FILE --model NAME" if isinstance(adapter, Hints) else ""
                yield Candidate(name, "adapter", score, note=advice or needs)
                continue
            whole = {**adapter.settings(bundle), **settings}
            require_sane(whole, bundle)

            def build(adapter: Adapter = adapter, whole: Mapping[str, Plain] = whole) -> object:
                return adapter.build(whole)

            yield _weighed(name, "adapter", build, bundle, score, advice)
        except Exception as error:
            yield Candidate(name, "adapter", score, note=_reason(error))


def _models(bundle: Bundle, settings: Mapping[str, Plain]) -> Iterator[Candidate]:
    """Models of others that are made by their constructor; ours are found by the checkpoint's own record."""
    hinted, _ = hints_of(bundle)
    for entry in models.registrations():
        if entry.distribution == HOME:
            continue
        try:
            kind = entry.load()
            if is_rebuildable(kind):
                continue
            arguments = arguments_of(kind, settings, hinted, entry.name)
            require_sane(arguments, bundle)

            def build(kind: type = kind, arguments: Mapping[str, Plain] = arguments) -> object:
                return kind(**arguments)

            yield _weighed(entry.name, "model", build, bundle, None, "", own=_is_file(entry))
        except Exception as error:
            yield Candidate(entry.name, "model", note=_reason(error), own=_is_file(entry))


def _is_file(entry: Registration) -> bool:
    return entry.distribution.endswith(".py")


def _weighed(
    name: str, kind: str, build: Build, bundle: Bundle, score: float | None, note: str, *, own: bool = False
) -> Candidate:
    expected = expected_of(build, name, str(bundle.path), len(bundle.tensors))
    weights, _ = without_wrappers(bundle.tensors, expected)
    found = table_of(weights)
    lacking = [n for n, tensor in expected.items() if n not in found or not tensor.accepts(found[n])]
    extra = sum(n not in expected for n in found)
    return Candidate(
        name, kind, score, agreement(found, expected), len(expected), tuple(lacking[:MOST_NAMED]), extra, note, own
    )


def _reason(error: Exception) -> str:
    if isinstance(error, CcvaeEvalError):
        return f"{error.what}{f' ({error.why})' if error.why else ''}. {error.hint}".strip()
    return f"{type(error).__name__}: {error}"


def resemblance(bundle: Bundle, settings: Mapping[str, Plain], asked: str | None) -> str:
    """A sentence on who fits best, if it is not the one that was asked."""
    for candidate in candidates(bundle, settings):
        if candidate.name != asked and candidate.share > 0.5:
            option = f", use --model {candidate.name}" if candidate.complete else ""
            return f"It looks like {candidate.name} ({candidate.fits}/{candidate.of} keys){option}."
    return ""


def inspect_checkpoint(path: str | Path, settings: Mapping[str, Plain] | None = None) -> dict[str, Plain]:
    """Everything that a checkpoint says, as plain data; executes nothing in it and needs no model to be installed.

    Args:
        path: the file, or a folder of files that are one model.
        settings: of the model that may answer, over those in a TOML file beside the checkpoint.

    Returns:
        ``path``, ``format``, ``size`` in bytes, ``sha256``, ``written_by``, ``model`` (what it seems to be, or None),
        ``parameters``, ``candidates`` (which adapters and models could answer, how well they fit and what is missing),
        ``globals``, ``notes``, ``metadata`` and ``tensors``, each with key, shape and type.

    Raises:
        CheckpointError: the file is refused.
    """
    bundle = read_any(path)
    _, arguments = PixelRange.of({**sidecar_of(bundle.path).settings, **(settings or {})})
    return {
        "path": str(bundle.path),
        "format": bundle.format,
        "size": bundle.size,
        "sha256": bundle.sha256,
        "written_by": f"ccvae-eval {bundle.envelope.tool}" if bundle.envelope else None,
        "model": _guess(bundle),
        "parameters": bundle.parameter_count,
        "candidates": [c.as_plain() for c in candidates(bundle, arguments)],
        "globals": list(bundle.globals),
        "notes": list(bundle.notes),
        "metadata": dict(bundle.metadata),
        "tensors": [
            {"key": name, "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
            for name, tensor in bundle.tensors.items()
        ],
    }


def _guess(bundle: Bundle) -> str | None:
    """The model that it names, the class that was pickled, or the adapter that knows it."""
    record = CheckpointRecord.from_bundle(bundle)
    if record is not None:
        return record.name
    known = surest_adapter(bundle)[0]
    if known is None and isinstance(bundle.records, Record):
        return bundle.records.class_name
    return known
