"""Checkpoints of others: the door for plugins that know them, and which of these know a given file.

An adapter is a class made without arguments, registered in the group ``ccvae_eval.adapters``. What it can do is told by
the protocols that it keeps: it may know the networks (:class:`Adapter`), only what a file says about a model of the
user's (:class:`Hints`), or a format of its own (:class:`Reads`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn

from ccvae_eval.checkpoint.bundle import Bundle, read_bundle
from ccvae_eval.checkpoint.sidecar import read_folder
from ccvae_eval.core.errors import CcvaeEvalError, CheckpointError, PluginError
from ccvae_eval.core.types import Plain
from ccvae_eval.plugins.registry import Registration, adapters


@runtime_checkable
class Recognises(Protocol):
    """What every adapter does."""

    def matches(self, bundle: Bundle) -> float:
        """How surely these tensors are of the kind that it knows, 0 (not at all) to 1, by names and shapes."""
        ...


@runtime_checkable
class Adapter(Recognises, Protocol):
    """Knows networks: it builds the model whose weights the file holds."""

    def settings(self, bundle: Bundle) -> Mapping[str, Plain]:
        """The model's settings, read off the tensors and the metadata; ``--set`` goes over them."""
        ...

    def build(self, settings: Mapping[str, Plain]) -> nn.Module:
        """An untrained model whose ``state_dict`` has the file's names. Must work on torch's meta device.

        Raises:
            UsageError: a setting that is unknown or not possible.
        """
        ...


@runtime_checkable
class Hints(Recognises, Protocol):
    """Knows the frame that a training tool puts around a model of the user's."""

    def hints(self, bundle: Bundle) -> Mapping[str, Plain]:
        """What the file says about the arguments that the user's class was made with."""
        ...


@runtime_checkable
class Advises(Protocol):
    """Has something to say about a file that its user should know."""

    def advice(self, bundle: Bundle) -> Iterable[str]:
        """One sentence each: what was assumed, and what may be given by ``--set``."""
        ...


@runtime_checkable
class Reads(Protocol):
    """Reads a format that the toolkit's own reader does not know; the file is untrusted, and stays so."""

    suffixes: tuple[str, ...]
    """Endings of the files that it reads, such as ``.npz``."""

    def read(self, path: Path) -> Bundle: ...


@dataclass(frozen=True, slots=True)
class Match:
    """One adapter's word about a file.

    Args:
        name: as registered; ``distribution:name`` where the plain one is taken twice.
        score: how surely it knows the file, 0 to 1.
        adapter: the adapter; None if it is broken.
        problem: why it is broken.
    """

    name: str
    score: float
    adapter: Any = None
    problem: str = ""


def every_adapter() -> Iterable[tuple[str, Registration]]:
    """All registered adapters; a name that is taken twice stands in its qualified form."""
    entries = adapters.registrations()
    names = [entry.name for entry in entries]
    return [(e.qualified if names.count(e.name) > 1 else e.name, e) for e in entries]


def adapter_named(name: str) -> Any:
    """An instance of the adapter of this name.

    Raises:
        UsageError: it is unknown.
        PluginError: it cannot be made.
    """
    return made(adapters.find(name))


def made(entry: Registration) -> Any:
    """An instance of a registered adapter."""
    kind = entry.load()
    try:
        found = kind()
    except Exception as error:
        raise failed(entry.name, entry, "calling it", error) from error
    if not isinstance(found, Recognises):
        raise PluginError(
            f"adapter {entry.name!r} has no method matches(bundle)",
            where=entry.distribution,
            hint="See ccvae_eval.checkpoint.Adapter for the three methods of an adapter.",
        )
    return found


def failed(name: str, entry: Registration, call: str, error: Exception) -> PluginError:
    """An adapter's exception, with everything that is needed to mend it."""
    return PluginError(
        f"adapter {name!r} failed in {call}",
        where=f"{entry.distribution} {entry.version}".strip(),
        why=f"{type(error).__name__}: {error}",
        hint=f"Report it to the authors of {entry.distribution}; --model NAME chooses another adapter.",
    )


def matches(bundle: Bundle) -> list[Match]:
    """What the registered adapters say about a file, the surest first; those that score 0 are left out.

    One that is broken scores 0 and says why: it must not stop others from answering.
    """
    found = []
    for name, entry in every_adapter():
        try:
            adapter = made(entry)
            score = min(max(float(adapter.matches(bundle)), 0.0), 1.0)
        except Exception as error:
            problem = str(error) if isinstance(error, CcvaeEvalError) else f"{type(error).__name__}: {error}"
            found.append(Match(name, 0.0, None, problem))
        else:
            if score > 0:
                found.append(Match(name, score, adapter))
    return sorted(found, key=lambda match: (-match.score, match.name))


def surest_adapter(bundle: Bundle) -> tuple[str | None, Adapter | None]:
    """The registered adapter that builds a model and has the highest score for these tensors."""
    for match in matches(bundle):
        if isinstance(match.adapter, Adapter):
            return match.name, match.adapter
    return None, None


def hints_of(bundle: Bundle) -> tuple[dict[str, Plain], str]:
    """Constructor arguments that the file's frame names, and which adapter read them."""
    for match in matches(bundle):
        if isinstance(match.adapter, Hints):
            return dict(match.adapter.hints(bundle)), match.name
    return {}, ""


def read_any(path: str | Path) -> Bundle:
    """Reads a checkpoint: one file, a folder of them, or a format that an adapter reads.

    Raises:
        CheckpointError: as :func:`.bundle.read_bundle`.
    """
    path = Path(path)
    if path.is_dir():
        return read_folder(path)
    for name, entry in every_adapter():
        if path.suffix and (reader := _reader(entry, path.suffix)) is not None:
            try:
                return reader.read(path)
            except CcvaeEvalError:
                raise
            except Exception as error:
                raise CheckpointError(
                    f"cannot be read by adapter {name!r}", where=str(path), why=f"{type(error).__name__}: {error}"
                ) from error
    return read_bundle(path)


def _reader(entry: Registration, suffix: str) -> Reads | None:
    """The adapter, if it reads files that end so."""
    try:
        kind = entry.load()
        return made(entry) if suffix.lower() in getattr(kind, "suffixes", ()) and hasattr(kind, "read") else None
    except Exception:
        return None  # inspect and list say what is broken; here it must not stop a file that it does not concern
