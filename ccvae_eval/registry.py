"""Names to classes, from the metadata of installed distributions and from ``--plugin`` files.

Nothing is imported until a name is used, and no one wins silently: a name that two distributions claim is shown
broken, and the qualified form ``distribution:name`` is the way out. Ours come by the same door as a stranger's.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from types import ModuleType
from typing import Any

from ccvae_eval.errors import PluginError, UsageError, suggestion

GROUPS = ("models", "data", "metrics", "adapters", "matchers", "reports")
PREFIX = "ccvae_eval."
SWITCH = "CCVAE_EVAL_PLUGINS"
"""Environment variable: "none" leaves only our own distribution, else a comma-separated list of distributions."""
HOME = "ccvae-eval"


@dataclass(frozen=True, slots=True)
class Registration:
    """One name that somebody registered: metadata only, nothing imported."""

    group: str
    name: str
    target: str
    distribution: str
    version: str

    @property
    def qualified(self) -> str:
        return f"{self.distribution}:{self.name}"

    def load(self) -> Any:
        """Imports the target; whatever it raises becomes a ``PluginError`` that names the distribution."""
        try:
            if self.distribution.endswith(".py"):
                return getattr(load_file(Path(self.distribution)), self.target)
            return EntryPoint(self.name, self.target, PREFIX + self.group).load()
        except (Exception, SystemExit) as error:
            if isinstance(error, PluginError):
                raise
            raise PluginError(
                f"plugin {self.name!r} cannot be loaded",
                where=f"{self.distribution} {self.version}".strip(),
                why=f"{type(error).__name__}: {error}",
                hint="Is what it imports installed? A file plugin that imports your own package needs that package "
                "installed or named in PYTHONPATH.",
            ) from error


@cache
def _installed() -> tuple[Registration, ...]:
    found = {}
    for distribution in distributions():
        for point in distribution.entry_points:
            group = point.group.removeprefix(PREFIX)
            if point.group.startswith(PREFIX) and group in GROUPS:
                who = distribution.metadata["Name"]
                entry = Registration(group, point.name, point.value, who, distribution.version)
                # an editable install can list the same distribution twice on sys.path: that is one registration
                found[(group, point.name, who)] = entry
    return tuple(found.values())


def _switched_on(registrations: Iterable[Registration]) -> list[Registration]:
    switch = os.environ.get(SWITCH)
    if switch is None:
        return list(registrations)
    wanted = {HOME} | {name.strip() for name in switch.split(",") if name.strip() != "none"}
    return [r for r in registrations if r.distribution in wanted]


_files: dict[Path, list[Registration]] = {}


@cache
def load_file(path: Path) -> ModuleType:
    """Runs a ``--plugin`` file as a module of its own, without touching ``sys.path``."""
    name = f"ccvae_eval_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError("not a Python file", where=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def add_plugin_file(path: Path) -> list[Registration]:
    """Registers what one file offers: its ``CCVAE_EVAL = {"models": {"mine": MyVAE}, ...}``.

    The classes may be given themselves or by name. The file is code that the user chose to run.
    """
    path = Path(path).resolve()
    if path in _files:
        return _files[path]
    if not path.is_file():
        raise UsageError("no such plugin file", where=str(path))
    try:
        module = load_file(path)
    except (Exception, SystemExit) as error:
        raise PluginError(
            "plugin file cannot be run",
            where=str(path),
            why=f"{type(error).__name__}: {error}",
            hint="If it imports your own package: install that package, or name its folder in PYTHONPATH.",
        ) from error
    offer = getattr(module, "CCVAE_EVAL", None)
    if not isinstance(offer, Mapping):
        raise PluginError(
            "plugin file offers nothing",
            where=str(path),
            hint='End it with: CCVAE_EVAL = {"models": {"mine": MyVAE}}',
        )
    entries = []
    for group, names in offer.items():
        if group not in GROUPS:
            raise PluginError(f"unknown group {group!r}", where=str(path), hint=suggestion(group, GROUPS))
        for name, target in names.items():
            attribute = target if isinstance(target, str) else target.__name__
            entries.append(Registration(group, name, attribute, str(path), ""))
    _files[path] = entries
    return entries


class Registry(Mapping[str, Any]):
    """The names of one group; looking one up imports it.

    Args:
        group: one of ``GROUPS``.
    """

    def __init__(self, group: str) -> None:
        self.group = group

    def registrations(self) -> list[Registration]:
        """Everything registered, by name; those of one name stand together."""
        from_files = [entry for entries in _files.values() for entry in entries]
        every = [*_switched_on(_installed()), *from_files]
        return sorted((r for r in every if r.group == self.group), key=lambda r: (r.name, r.distribution))

    def find(self, name: str) -> Registration:
        """The one registration that a plain or qualified name means."""
        every = self.registrations()
        matches = [r for r in every if name in (r.name, r.qualified)]
        if len(matches) == 1:
            return matches[0]
        kind = self.group.removesuffix("s")
        if not matches:
            raise UsageError(f"{kind} {name!r} is unknown", hint=suggestion(name, {r.name for r in every}))
        owners = " and ".join(r.distribution for r in matches)
        ways = " or ".join(r.qualified for r in matches)
        raise UsageError(f"{kind} {name!r} is registered by {owners}", hint=f"Say which: {ways}.")

    def __getitem__(self, name: str) -> Any:
        return self.find(name).load()

    def __contains__(self, name: object) -> bool:
        return any(name in (r.name, r.qualified) for r in self.registrations())

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(r.name for r in self.registrations()))

    def __len__(self) -> int:
        return len(list(iter(self)))


models = Registry("models")
data_sets = Registry("data")
metrics = Registry("metrics")
adapters = Registry("adapters")
matchers = Registry("matchers")
reports = Registry("reports")
