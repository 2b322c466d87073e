"""Foundations of every package: errors, types, results, random streams, files, the cache, devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

VERSION = "0.1.0"
TOOL = {"name": "ccvae-eval", "version": VERSION}
"""Program and version, as a run records them."""


def names_on_demand(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """A module ``__getattr__`` that imports a package's names when they are used; importing torch takes seconds.

    Args:
        package: the package.
        modules: module within the package -> the names that the package offers from it.
    """

    def attribute(name: str) -> Any:
        for module, names in modules.items():
            if name in names:
                return getattr(import_module(f"{package}.{module}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return attribute
