"""The plugin registry: names of classes, from the metadata of installed distributions and from ``--plugin`` files.

A class is imported only when its name is used. A name that two distributions register is an error, which the qualified
form ``distribution:name`` resolves. Built-in and third-party classes are registered in the same way.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from ccvae_eval.core.errors import PluginError, UsageError, is_stop_request, suggestion

KINDS = {
    "model": "models", "data": "data", "metric": "metrics", "adapter": "adapters", "matcher": "matchers",
    "features": "features", "report": "reports",
}  # fmt: skip
"""Kinds of plugins, each with its entry-point group."""
GROUPS = tuple(KINDS.values())
NOUNS = {"data": "data set", "features": "feature extractor"}
"""Nouns for messages about the groups whose noun is not their name without its s."""
PREFIX = "ccvae_eval."
PLUGINS_VARIABLE = "CCVAE_EVAL_PLUGINS"
"""Environment variable that restricts the plugins: "none" for built-in ones only, else a comma-separated list of
distributions or of single plugins as ``distribution:name``."""
BUILTIN_DISTRIBUTION = "ccvae-eval"
PLUGIN_TABLE = "CCVAE_EVAL"
"""Name of the dictionary in which a plugin file lists its classes."""
EXAMPLE = 'End the file with: CCVAE_EVAL = {"models": {"mine": MyVAE}}'


@dataclass(frozen=True, slots=True)
class Registration:
    """A registered name: metadata only, nothing imported."""

    group: str
    name: str
    target: str
    distribution: str
    version: str

    @property
    def qualified(self) -> str:
        """The unambiguous name ``distribution:name``."""
        return f"{self.distribution}:{self.name}"

    @property
    def from_file(self) -> bool:
        """True for a class of a plugin file."""
        return self.distribution.endswith(".py")

    @property
    def origin(self) -> str:
        """The distribution with its version, or the plugin file."""
        return f"{self.distribution} {self.version}".strip()

    def load(self) -> Any:
        """Imports and returns the registered class.

        Raises:
            PluginError: the import failed; names the distribution.
        """
        if (self.distribution, self.group, self.name) in _file_classes:
            return _file_classes[self.distribution, self.group, self.name]
        what = f"plugin {self.name!r} of group {self.group!r} cannot be loaded"
        hint = f"Are its dependencies installed? Update or uninstall {self.distribution}, or disable it with "
        with _importing(what, self.origin, f"import of {self.target}: ", f"{hint}{PLUGINS_VARIABLE}=none."):
            module, _, attribute = self.target.partition("[")[0].partition(":")  # "[" begins the extras
            loaded = import_module(module.strip())
            return attrgetter(attribute.strip())(loaded) if attribute else loaded

    def source(self) -> str:
        """The text of the module of an installed class, which is not imported; "" if it cannot be found."""
        package, *parts = self.target.partition(":")[0].split(".")
        try:
            spec = importlib.util.find_spec(package)
            for part in parts:
                package = f"{package}.{part}"
                spec = spec and PathFinder.find_spec(package, spec.submodule_search_locations)
            return Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
        except (ImportError, OSError, ValueError):
            return ""

    def description(self) -> str:
        """The docstring of the registered class, from the text of its module if it is installed; "" without one."""
        name = self.target.partition("[")[0].partition(":")[2].strip()
        if self.from_file:
            return inspect.cleandoc(getattr(self.load(), "__doc__", None) or "")
        try:
            nodes = ast.parse(self.source()).body
        except SyntaxError:
            return ""
        own = (n for n in nodes if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name)
        return next((ast.get_docstring(node) or "" for node in own), "")


@contextlib.contextmanager
def _importing(what: str, where: str, why: str = "", hint: str = "") -> Iterator[None]:
    """Turns an exception of imported code into a :class:`PluginError`.

    Output of the import goes to stderr, because stdout may be a JSON document.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except BaseException as error:
        if isinstance(error, PluginError) or is_stop_request(error):
            raise
        why = f"{why}{type(error).__name__}: {error}"
        raise PluginError(what, where=where, why=why, hint=hint or _run_hint(error)) from error


@cache
def _installed() -> tuple[Registration, ...]:
    # read directly: importlib.metadata parses the whole description of a distribution for its name
    found = {}
    for file in (file for folder in _search_path() for file in Path(folder).glob("*-info/entry_points.txt")):
        group = ""
        for line in map(str.strip, file.read_text(encoding="utf-8", errors="replace").splitlines()):
            if line.startswith("["):
                group = line.strip("[]").removeprefix(PREFIX) if line.startswith(f"[{PREFIX}") else ""
            elif group in GROUPS and "=" in line and not line.startswith("#"):
                name, target = (part.strip() for part in line.split("=", 1))
                owner, version = _name_and_version(file.parent)
                # an editable install can put a distribution on sys.path twice
                found[group, name, owner] = Registration(group, name, target, owner, version)
    return tuple(found.values())


@cache
def _name_and_version(folder: Path) -> tuple[str, str]:
    """Name and version of a distribution, from the header of its metadata."""
    files = [file for file in (folder / "METADATA", folder / "PKG-INFO") if file.is_file()]
    header = files[0].read_text(encoding="utf-8", errors="replace").partition("\n\n")[0] if files else ""
    fields = dict(line.split(": ", 1) for line in header.splitlines() if ": " in line)
    return fields.get("Name", folder.stem), fields.get("Version", "")


def _search_path() -> list[str]:
    """Folders to search for distributions: ``sys.path`` without the current folder, unless PYTHONPATH names it."""
    chosen = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return [path for path in sys.path if path in chosen or (path and not _is_current_folder(path))]


def _is_current_folder(path: str) -> bool:
    try:
        return Path(path).samefile(Path.cwd()) and not path.endswith(("site-packages", "dist-packages"))
    except OSError:
        return False


def _enabled(registrations: Iterable[Registration]) -> list[Registration]:
    setting = os.environ.get(PLUGINS_VARIABLE)
    if setting is None:
        return list(registrations)
    wanted = {_normalised(name) for name in setting.split(",") if name.strip() != "none"} | {BUILTIN_DISTRIBUTION}
    return [r for r in registrations if _normalised(r.distribution) in wanted or _normalised(r.qualified) in wanted]


def _normalised(name: str) -> str:
    """The name of a distribution in the normal form of package indexes: ``my-vae`` for ``My_VAE``."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


_files: dict[Path, list[Registration]] = {}
_file_classes: dict[tuple[str, str, str], Any] = {}
"""Classes of plugin files, by file, group and name."""


@cache
def load_file(path: Path) -> ModuleType:
    """Runs a ``--plugin`` file as a module, without changing ``sys.path``."""
    from hashlib import sha256

    name = f"ccvae_eval_plugin_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError("is not a Python file", where=str(path), hint="The name of a plugin file ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def add_plugin_file(path: Path) -> list[Registration]:
    """Runs a plugin file and registers the classes in its ``CCVAE_EVAL = {"models": {"mine": MyVAE}, ...}``.

    The table may hold the classes themselves or their names.

    Raises:
        UsageError: the file does not exist.
        PluginError: running the file failed, or its table is missing or malformed.
    """
    path = Path(path).resolve()
    if path in _files:
        return _files[path]
    if not path.is_file():
        raise UsageError("plugin file does not exist", where=str(path))
    with _importing("plugin file cannot be run", str(path)):
        module = load_file(path)
    table = getattr(module, PLUGIN_TABLE, None)
    if not isinstance(table, Mapping) or not table:
        raise PluginError("plugin file registers no classes", where=str(path), hint=EXAMPLE)
    entries = []
    for group, names in table.items():
        if group not in GROUPS:
            raise PluginError(f"unknown group {group!r}", where=str(path), hint=suggestion(str(group), GROUPS))
        if not isinstance(names, Mapping) or not all(isinstance(name, str) and name for name in names):
            raise PluginError(f"group {group!r} must map names to classes", where=str(path), hint=EXAMPLE)
        entries += [_register(path, module, group, name, target) for name, target in names.items()]
    _files[path] = entries
    return entries


def _register(path: Path, module: ModuleType, group: str, name: str, target: Any) -> Registration:
    """Registers one class of a plugin file."""
    if isinstance(target, str):
        if not hasattr(module, target):
            raise PluginError(
                f"{PLUGIN_TABLE} names {target!r}, which the file does not define",
                where=str(path),
                hint=suggestion(target, (word for word in vars(module) if not word.startswith("_"))),
            )
        target = getattr(module, target)
    if not callable(target):
        kind = type(target).__name__
        raise PluginError(f"{name!r} in {PLUGIN_TABLE} must be a class, got {kind}", where=str(path), hint=EXAMPLE)
    _file_classes[str(path), group, name] = target
    return Registration(group, name, getattr(target, "__qualname__", type(target).__name__), str(path), "")


def registrations_of(kind: type) -> tuple[bool, list[Registration]]:
    """Finds the registrations of a class, from metadata alone.

    Returns:
        True and the registrations of the class itself, if there are any; else False and the registrations from its
        module, else from its package, else [].
    """
    entries = [entry for group in GROUPS for entry in Registry(group).registrations()]
    target, module = f"{kind.__module__}:{kind.__qualname__}", kind.__module__
    package = module.partition(".")[0]

    def from_file(entry: Registration) -> Any:
        return _file_classes.get((entry.distribution, entry.group, entry.name))

    own = [entry for entry in entries if from_file(entry) is kind or entry.target == target]
    if own:
        return True, own
    near = [e for e in entries if module in (getattr(from_file(e), "__module__", ""), e.target.partition(":")[0])]
    return False, near or [e for e in entries if ":" in e.target and re.split("[.:]", e.target)[0] == package]


def _run_hint(error: BaseException) -> str:
    """The remedy for a plugin file that cannot be run."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "your_package").partition(".")[0]
        return (
            f"{package!r} is not installed, and the plugin's own folder is not searched for it. Either install it "
            f"(pip install -e FOLDER), or name the folder that contains {package!r}: PYTHONPATH=FOLDER ccvae-eval ..."
        )
    return "Run `python FILE` to see the traceback."


class Registry(Mapping[str, Any]):
    """The registered names of one of the ``GROUPS``, as a mapping; looking up a name imports its class."""

    def __init__(self, group: str) -> None:
        self.group = group

    def registrations(self) -> list[Registration]:
        """Returns the registrations of the group, sorted by name and distribution."""
        from_files = [entry for entries in _files.values() for entry in entries]
        entries = [*_enabled(_installed()), *from_files]
        return sorted((r for r in entries if r.group == self.group), key=lambda r: (r.name, r.distribution))

    def find(self, name: str) -> Registration:
        """Returns the registration of a plain or qualified name.

        Raises:
            UsageError: the name is not registered, or registered more than once.
        """
        entries = self.registrations()
        matches = [r for r in entries if name in (r.name, r.qualified)]
        if len(matches) == 1:
            return matches[0]
        noun = NOUNS.get(self.group, self.group.removesuffix("s"))
        if not matches:
            hint = suggestion(name, {r.name for r in entries})
            if self.group == "metrics" and " " not in name:
                hint += f" If it is a value, ccvae-eval explain {name} tells its metric."
            raise UsageError(f"{name!r} is not a registered {noun}", hint=hint)
        owners = " and ".join(r.distribution for r in matches)
        choices = " or ".join(r.qualified for r in matches)
        raise UsageError(f"{noun} {name!r} is registered by {owners}", hint=f"Use the qualified name: {choices}.")

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
