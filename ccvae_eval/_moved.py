"""Deprecated import paths and names of version 0.1, which plugins may use: they work, with a DeprecationWarning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing importlib.abc takes a third of the package's import time
    from importlib.abc import Loader, MetaPathFinder
else:
    Loader = MetaPathFinder = object

PACKAGE = "ccvae_eval"

MOVED = {
    "answers": "model.checks",
    "chunks": "model.fixed_batches",
    "contract": "testing",
    "contract.breach": "core.errors",
    "contract.features": "testing.metrics",
    "contract.matchers": "testing.metrics",
    "contract.specimens": "testing.metric_fixtures",
    "data.arrays": "data.memory",
    "data.columns": "data.labels.columns",
    "data.contract": "data.interface",
    "data.decoding": "data.images.decode",
    "data.faces": "data.sets.faces",
    "data.opening": "data.spec",
    "data.options": "data.spec",
    "errors": "core.errors",
    "files": "core.files",
    "interventions": "evaluation.interventions",
    "latents": "model.latents",
    "measure": "core.results",
    "metrics.contract": "evaluation.metric",
    "metrics.features": "metrics.shared.features",
    "metrics.matchers.contract": "metrics.matchers.interface",
    "metrics.rows": "evaluation.result_table",
    "metrics.tally": "evaluation.result_table",
    "pixels": "model.pixel_range",
    "registry": "plugins.registry",
    "report.contract": "report.interface",
    "run": "evaluation.run",
    "streams": "core.random_streams",
    "subject": "evaluation.subject",
    "types": "core.types",
    "wrapping": "model.wrap",
}
"""Old module -> new module, both within the package. Submodules of a moved package move with it."""

RENAMED = {
    "CARD": "DEFAULT_METRICS",
    "CHUNK": "FIXED_BATCH",
    "HOME": "BUILTIN_DISTRIBUTION",
    "MeanShare": "MeanProportion",
    "PerImage": "ImageStatistic",
    "Ratio": "RatioOfSums",
    "Share": "Proportion",
    "Specimen": "MetricFixture",
    "Tally": "ResultTable",
    "asked": "model_call",
    "cut": "unpadded",
    "in_chunks": "in_fixed_batches",
    "undisturbed": "evaluation_mode",
}
"""Old name -> new name in a moved module."""


def _attribute(module: ModuleType, name: str) -> Any:
    """An attribute of the module by its current or its old name."""
    return getattr(module, name) if hasattr(module, name) else getattr(module, RENAMED.get(name, name))


def moved_names(package: str, new: str, names: Sequence[str]) -> Callable[[str], Any]:
    """A module ``__getattr__`` for a package that has replaced a module of the same name, now at ``new``."""

    def attribute(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        warnings.warn(f"{package}.{name} has moved to {PACKAGE}.{new}", DeprecationWarning, stacklevel=2)
        return _attribute(import_module(f"{PACKAGE}.{new}"), name)

    return attribute


class _Alias:
    """Creates a module whose attributes are those of the module at the new path."""

    def __init__(self, new: str) -> None:
        self.new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(f"{spec.name} has moved to {self.new}", DeprecationWarning, stacklevel=2)
        new = import_module(self.new)
        module = ModuleType(spec.name, new.__doc__)
        module.__path__ = []  # without it, submodules would be loaded a second time from the new path
        module.__getattr__ = lambda name: _attribute(new, name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Does nothing: the module at the new path has been executed."""


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not a package
        return False


class MovedModules:
    """Finds the old modules. It is the last entry of ``sys.meta_path``, so it never shadows an existing module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        package, _, old = fullname.partition(".")
        parent, _, name = old.rpartition(".")
        new = MOVED.get(old) or (f"{MOVED[parent]}.{name}" if parent in MOVED else None)
        if package != PACKAGE or new is None or not _exists(f"{PACKAGE}.{new}"):
            return None
        loader: Any = _Alias(f"{PACKAGE}.{new}")  # importing the base class of loaders is slow
        return ModuleSpec(fullname, loader, is_package=True)


def install() -> None:
    """Makes the old modules importable."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
