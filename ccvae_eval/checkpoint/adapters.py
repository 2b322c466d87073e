"""Adapters: plugins that read checkpoints of other programs.

An adapter is a class without constructor arguments, registered in the group ``ccvae_eval.adapters``. It implements one
or more protocols: :class:`Adapter` builds the network of a file, :class:`Hints` extracts constructor arguments for a
class of the user's, :class:`Reads` reads a file format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ccvae_eval.checkpoint.bundle import Bundle, read_bundle
from ccvae_eval.checkpoint.sidecar import read_folder
from ccvae_eval.core.errors import CcvaeEvalError, CheckpointError, PluginError
from ccvae_eval.core.files import open_regular_file
from ccvae_eval.core.types import Plain
from ccvae_eval.plugins.attribution import CREATION, is_builtin, plugin_call, time_limit
from ccvae_eval.plugins.registry import Registration, adapters

if TYPE_CHECKING:
    from torch import nn


MATCH_SECONDS = 10.0
"""Time that a third-party adapter gets to be imported and to recognise a file, and again to describe its model."""


@runtime_checkable
class Recognises(Protocol):
    """The part common to all adapters."""

    def matches(self, bundle: Bundle) -> float:
        """Returns the confidence that the tensors are of its kind, 0 to 1, judged by names and shapes."""
        ...


@runtime_checkable
class Adapter(Recognises, Protocol):
    """Builds the model whose weights the file contains."""

    def settings(self, bundle: Bundle) -> Mapping[str, Plain]:
        """Returns the model's settings, inferred from tensors and metadata; ``--set`` overrides them."""
        ...

    def build(self, settings: Mapping[str, Plain]) -> nn.Module:
        """Returns an untrained model whose ``state_dict`` has the file's names. Must work on torch's meta device.

        Raises:
            UsageError: an unknown or invalid setting.
        """
        ...


@runtime_checkable
class Hints(Recognises, Protocol):
    """Reads the hyper-parameters that a training framework stores with a model of the user's."""

    def hints(self, bundle: Bundle) -> Mapping[str, Plain]:
        """Returns constructor arguments of the user's class, as far as the file records them."""
        ...


@runtime_checkable
class Advises(Protocol):
    """Gives advice about a file."""

    def advice(self, bundle: Bundle) -> Iterable[str]:
        """Returns sentences about assumptions made and settings that ``--set`` can supply."""
        ...


@runtime_checkable
class Reads(Protocol):
    """Reads a file format that the toolkit does not read itself. The file is untrusted."""

    suffixes: tuple[str, ...]
    """File name endings, such as ``.npz``."""

    def read(self, path: Path) -> Bundle: ...


@dataclass(frozen=True, slots=True)
class Match:
    """The name of an adapter (``distribution:name`` if the plain name is ambiguous) and the result of its ``matches``.

    A broken adapter has score 0, ``adapter`` None and its ``problem``.
    """

    name: str
    score: float
    adapter: Any = None
    problem: str = ""


def registered_adapters() -> Iterable[tuple[str, Registration]]:
    """Returns all registered adapters by name; an ambiguous name is qualified."""
    entries = adapters.registrations()
    names = [entry.name for entry in entries]
    return [(e.qualified if names.count(e.name) > 1 else e.name, e) for e in entries]


def instantiate(entry: Registration) -> Any:
    """Returns an instance of a registered adapter.

    Raises:
        PluginError: the adapter cannot be loaded or instantiated.
    """
    kind = entry.load()
    with plugin_call(entry, "adapter", CREATION):
        found = kind()
    if not isinstance(found, Recognises):
        raise PluginError(
            f"adapter {entry.name!r} has no method matches(bundle)",
            where=entry.origin,
            hint="ccvae_eval.checkpoint.Adapter documents the methods of an adapter.",
        )
    return found


def within_time(adapter: object) -> AbstractContextManager[None]:
    """Limits the time of a third-party adapter, an instance or a registration, which must not keep a file from being
    opened."""
    return time_limit(None if is_builtin(adapter) else MATCH_SECONDS, f"took longer than {MATCH_SECONDS:g} s")


_too_slow: dict[Registration, str] = {}
"""Adapters that exceeded their time: they are not tried again in this process."""


def matches(bundle: Bundle) -> list[Match]:
    """Returns the adapters with a positive score and the broken ones, in descending order of their scores."""
    found = []
    for name, entry in registered_adapters():
        if entry in _too_slow:
            found.append(Match(name, 0.0, None, _too_slow[entry]))
            continue
        try:
            with plugin_call(entry, "adapter", "matches(bundle)"), within_time(entry):
                adapter = instantiate(entry)
                score = min(max(float(adapter.matches(bundle)), 0.0), 1.0)
        except Exception as error:
            problem = str(error) if isinstance(error, CcvaeEvalError) else f"{type(error).__name__}: {error}"
            if isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError):
                _too_slow[entry] = problem
            found.append(Match(name, 0.0, None, problem))
        else:
            if score > 0:
                found.append(Match(name, score, adapter))
    return sorted(found, key=lambda match: (-match.score, match.name))


def best_adapter(bundle: Bundle) -> tuple[str | None, Adapter | None, tuple[str, ...]]:
    """Returns name and instance of the ``Adapter`` with the highest score, and remarks on the broken ones.

    Name and instance are None without a match.
    """
    found = matches(bundle)
    notes = tuple(f"adapter {m.name!r} was passed over: {m.problem}" for m in found if m.problem)
    best = next((match for match in found if isinstance(match.adapter, Adapter)), None)
    return (None, None, notes) if best is None else (best.name, best.adapter, notes)


def hints_of(bundle: Bundle) -> tuple[dict[str, Plain], str]:
    """Returns the constructor arguments recorded in the file, and the name of the adapter that read them."""
    for match in matches(bundle):
        if isinstance(match.adapter, Hints):
            return dict(match.adapter.hints(bundle)), match.name
    return {}, ""


def read_any(path: str | Path) -> Bundle:
    """Reads a checkpoint file, a folder of checkpoint files, or a file whose format an adapter reads.

    Raises:
        CheckpointError: see :func:`.bundle.read_bundle`.
    """
    path = Path(path)
    if path.is_dir():
        return read_folder(path)
    with open_regular_file(path):
        pass  # a file that cannot be opened is refused before any adapter is imported
    for name, entry in registered_adapters():
        if path.suffix and (reader := _file_reader(entry, path.suffix)) is not None:
            try:
                return reader.read(path)
            except CcvaeEvalError:
                raise
            except Exception as error:
                raise CheckpointError(
                    f"cannot be read by adapter {name!r}", where=str(path), why=f"{type(error).__name__}: {error}"
                ) from error
    return read_bundle(path)


def _file_reader(entry: Registration, suffix: str) -> Reads | None:
    """The adapter, if it reads files with this suffix."""
    try:
        kind = entry.load()
        return instantiate(entry) if suffix.lower() in getattr(kind, "suffixes", ()) and hasattr(kind, "read") else None
    except Exception:
        return None  # `inspect` and `list` report broken adapters; they must not block other files
