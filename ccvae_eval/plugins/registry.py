"""Names to classes, from the metadata of installed distributions and from ``--plugin`` files.

Nothing is imported until a name is used, and no one wins silently: a name that two distributions claim is shown
broken, and the qualified form ``distribution:name`` is the way out. Ours come by the same door as a stranger's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from types import ModuleType
from typing import Any

from ccvae_eval.core.errors import PluginError, UsageError, suggestion

KINDS = {
    "model": "models", "data": "data", "metric": "metrics", "adapter": "adapters", "matcher": "matchers",
    "features": "features", "report": "reports",
}  # fmt: skip
"""What a plugin can be, and the group that it is registered in."""
GROUPS = tuple(KINDS.values())
PREFIX = "ccvae_eval."
SWITCH = "CCVAE_EVAL_PLUGINS"
"""Environment variable: "none" leaves only our own distribution, else a comma-separated list of distributions, or of
single plugins as ``distribution:name``."""
HOME = "ccvae-eval"
OFFER = "CCVAE_EVAL"
"""What a plugin file offers: a mapping of this name."""


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
        """Imports the target; whatever it raises becomes a ``PluginError`` that names the distribution.

        What the plugin prints while it is imported goes to stderr: stdout may be a JSON document.
        """
        try:
            if (self.distribution, self.group, self.name) in _offered:
                return _offered[self.distribution, self.group, self.name]
            with contextlib.redirect_stdout(sys.stderr):
                return EntryPoint(self.name, self.target, PREFIX + self.group).load()
        except (Exception, SystemExit) as error:
            if isinstance(error, PluginError):
                raise
            raise PluginError(
                f"plugin {self.name!r} of the group {self.group} cannot be loaded",
                where=f"{self.distribution} {self.version}".strip(),
                why=f"import of {self.target}: {type(error).__name__}: {error}",
                hint=f"Is what it imports installed? Update or uninstall {self.distribution}, or leave it out with "
                f"{SWITCH}=none.",
            ) from error


@cache
def _installed() -> tuple[Registration, ...]:
    found = {}
    for distribution in distributions(path=_places()):
        for point in distribution.entry_points:
            group = point.group.removeprefix(PREFIX)
            if point.group.startswith(PREFIX) and group in GROUPS:
                who = str(distribution.metadata["Name"])
                entry = Registration(group, point.name, point.value, who, distribution.version)
                # an editable install can list the same distribution twice on sys.path: that is one registration
                found[(group, point.name, who)] = entry
    return tuple(found.values())


def _places() -> list[str]:
    """Where installed distributions are looked for: nobody's plugin is picked up because it lies in the current
    folder, unless PYTHONPATH names that folder."""
    chosen = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return [path for path in sys.path if path in chosen or (path and not _is_here(path))]


def _is_here(path: str) -> bool:
    try:
        return Path(path).samefile(Path.cwd()) and not path.endswith(("site-packages", "dist-packages"))
    except OSError:
        return False


def _switched_on(registrations: Iterable[Registration]) -> list[Registration]:
    switch = os.environ.get(SWITCH)
    if switch is None:
        return list(registrations)
    wanted = {_normal(name) for name in switch.split(",") if name.strip() != "none"} | {HOME}
    return [r for r in registrations if _normal(r.distribution) in wanted or _normal(r.qualified) in wanted]


def _normal(name: str) -> str:
    """The name of a distribution as package indexes compare it: ``My_VAE`` is ``my-vae``."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


_files: dict[Path, list[Registration]] = {}
_offered: dict[tuple[str, str, str], Any] = {}
"""What plugin files offer, by file, group and name."""


@cache
def load_file(path: Path) -> ModuleType:
    """Runs a ``--plugin`` file as a module of its own, without touching ``sys.path``."""
    name = f"ccvae_eval_plugin_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError("not a Python file", where=str(path), hint="A plugin file ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def add_plugin_file(path: Path) -> list[Registration]:
    """Registers what one file offers: its ``CCVAE_EVAL = {"models": {"mine": MyVAE}, ...}``.

    The classes may be given themselves or by name. The file is code that the user chose to run.

    Raises:
        UsageError: there is no such file.
        PluginError: it cannot be run, or offers nothing that is understood.
    """
    path = Path(path).resolve()
    if path in _files:
        return _files[path]
    if not path.is_file():
        raise UsageError("no such plugin file", where=str(path))
    try:
        module = load_file(path)
    except (Exception, SystemExit) as error:
        if isinstance(error, PluginError):
            raise
        raise PluginError(
            "plugin file cannot be run", where=str(path), why=f"{type(error).__name__}: {error}", hint=_remedy(error)
        ) from error
    offer = getattr(module, OFFER, None)
    example = 'End it with: CCVAE_EVAL = {"models": {"mine": MyVAE}}'
    if not isinstance(offer, Mapping) or not offer:
        raise PluginError("plugin file offers nothing", where=str(path), hint=example)
    entries = []
    for group, names in offer.items():
        if group not in GROUPS:
            raise PluginError(f"unknown group {group!r}", where=str(path), hint=suggestion(str(group), GROUPS))
        if not isinstance(names, Mapping) or not all(isinstance(name, str) and name for name in names):
            raise PluginError(f"group {group!r} maps no names to classes", where=str(path), hint=example)
        for name, target in names.items():
            entries.append(_offer(path, module, group, name, target))
    _files[path] = entries
    return entries


def _offer(path: Path, module: ModuleType, group: str, name: str, target: Any) -> Registration:
    """Registers one thing that a file offers."""
    if isinstance(target, str):
        if not hasattr(module, target):
            raise PluginError(
                f"{OFFER} names {target!r}, which the file does not have",
                where=str(path),
                hint=suggestion(target, (word for word in vars(module) if not word.startswith("_"))),
            )
        target = getattr(module, target)
    if not callable(target):
        raise PluginError(f"{name!r} in {OFFER} is no class", where=str(path), why=f"it is {type(target).__name__}")
    _offered[str(path), group, name] = target
    return Registration(group, name, getattr(target, "__qualname__", type(target).__name__), str(path), "")


def owners_of(kind: type) -> tuple[bool, list[Registration]]:
    """Who registered a class, told from metadata: nothing is imported.

    Returns:
        Whether the class itself was registered, and the registrations of it; else those of something in its module,
        else in its package, else none.
    """
    every = [entry for group in GROUPS for entry in Registry(group).registrations()]
    target, module = f"{kind.__module__}:{kind.__qualname__}", kind.__module__
    package = module.partition(".")[0]

    def offered(entry: Registration) -> Any:
        return _offered.get((entry.distribution, entry.group, entry.name))

    own = [entry for entry in every if offered(entry) is kind or entry.target == target]
    if own:
        return True, own
    near = [e for e in every if module in (getattr(offered(e), "__module__", ""), e.target.partition(":")[0])]
    return False, near or [e for e in every if ":" in e.target and re.split("[.:]", e.target)[0] == package]


def _remedy(error: BaseException) -> str:
    """What to do about a plugin file that cannot be run."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "your_package").partition(".")[0]
        return (
            f"{package!r} is not installed here, and the plugin's own folder is not searched. Either install it "
            f"(pip install -e FOLDER), or name the folder that holds {package!r}: PYTHONPATH=FOLDER ccvae-eval ..."
        )
    return "Run it alone to see where: python FILE"


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
