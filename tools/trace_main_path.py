"""Counts the files and types of this repository that one evaluation runs through.

python tools/trace_main_path.py [--list] [ARGUMENTS]

The arguments are those of ``ccvae-eval``; default: ``locality`` on the shipped checkpoint with 64 images, without
figures and page. A file counts if one of its functions runs outside of an import, a type if one of its methods does.
The built-in models and data sets are counted apart, since another model or data set takes their place.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDERS = tuple(f"{ROOT / name}/" for name in ("ccvae_eval", "models", "plugins"))
EXCHANGEABLE = ("models/", "plugins/", "ccvae_eval/data/sets/")
"""Where the built-in models, adapters and data sets lie."""
OPTIMIZED = 1
"""Flag of the code of functions, which the bodies of modules and classes do not have (``inspect.CO_OPTIMIZED``)."""


class Trace:
    """Files and types whose functions run while the trace is set as the profile function."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.types: set[str] = set()
        self._imports = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        del argument
        code = frame.f_code
        if code.co_name == "<module>":
            self._imports += {"call": 1, "return": -1}.get(event, 0)
        if event == "call" and not self._imports and code.co_flags & OPTIMIZED:
            self._add(code)

    def _add(self, code: CodeType) -> None:
        if not code.co_filename.startswith(FOLDERS):
            return
        file = str(Path(code.co_filename).relative_to(ROOT))
        self.files.add(file)
        owner, _, method = code.co_qualname.partition(".")
        if method and not method.startswith("<locals>"):
            self.types.add(f"{file}: {owner}")


def traced(action: Callable[[], None]) -> Trace:
    """The trace of an action, which may end in ``SystemExit``.

    Raises:
        SystemExit: the action failed.
    """
    trace = Trace()
    sys.setprofile(trace)
    try:
        action()
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.setprofile(None)
    return trace


def main_path(arguments: list[str]) -> Trace:
    """The trace of one command; of the default one without arguments."""
    from ccvae_eval.cli.main import main

    with (
        as_file(files("ccvae_eval") / "assets" / "ccvae-faces64.pt") as checkpoint,
        tempfile.TemporaryDirectory() as out,
    ):
        default = ["locality", str(checkpoint), "--sample", "64", "--quiet", "--no-figures", "--no-page", "--out", out]
        return traced(lambda: main(arguments or default))


def split(names: set[str]) -> tuple[list[str], list[str]]:
    """The names of the main path itself, and those of the built-in models, adapters and data sets."""
    exchangeable = {name for name in names if name.startswith(EXCHANGEABLE)}
    return sorted(names - exchangeable), sorted(exchangeable)


if __name__ == "__main__":
    found = main_path([argument for argument in sys.argv[1:] if argument != "--list"])
    for what, names in (("files", found.files), ("types", found.types)):
        own, exchangeable = split(names)
        if "--list" in sys.argv:
            print("\n".join([*own, *exchangeable]))
        print(f"{len(own)} {what}, and {len(exchangeable)} of the model and the data set")
