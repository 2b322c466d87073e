"""Import paths of version 0.1 that plugins may name: they work for one more version, with a DeprecationWarning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "answers": "model.checks",
    "chunks": "model.fixed_batches",
    "contract": "testing",
    "contract.specimens": "testing.metric_fixtures",
    "data.arrays": "data.memory",
    "data.columns": "data.labels.columns",
    "data.contract": "data.interface",
    "data.decoding": "data.images.decode",
    "data.faces": "data.sets.faces",
    "data.opening": "data.spec",
    "data.options": "data.spec",
    "errors": "core.errors",
    "evaluation": "api",
    "files": "core.files",
    "interventions": "evaluation.interventions",
    "latents": "model.latents",
    "measure": "core.results",
    "metrics.contract": "evaluation.metric",
    "metrics.matchers.contract": "metrics.matchers.interface",
    "metrics.rows": "evaluation.result_table",
    "metrics.tally": "evaluation.result_table",
    "pixels": "model.pixel_range",
    "registry": "plugins.registry",
    "run": "evaluation.run",
    "streams": "core.random_streams",
    "subject": "evaluation.subject",
    "types": "core.types",
    "wrapping": "model.wrap",
}


RENAMED = {"Tally": "ResultTable"}
"""Names inside those modules that have changed too."""


class _Alias(Loader):
    """Makes a module that passes every name on to the module at the new place."""

    def __init__(self, new: str) -> None:
        self.new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(f"{spec.name} has moved to {self.new}", DeprecationWarning, stacklevel=2)
        new = import_module(self.new)
        module = ModuleType(spec.name, new.__doc__)
        module.__getattr__ = lambda name: getattr(new, RENAMED.get(name, name))  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to execute: the module at the new place has been imported."""


class MovedModules(MetaPathFinder):
    """Finds the old names. It stands last in ``sys.meta_path``: a module that exists is never shadowed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        package, _, rest = fullname.partition(".")
        new = MOVED.get(rest) if package == "ccvae_eval" else None
        return None if new is None else ModuleSpec(fullname, _Alias(f"{package}.{new}"))


def install() -> None:
    """Makes the old names importable."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
