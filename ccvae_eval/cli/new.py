"""``new``: a file to start from: one plugin that runs, with its test."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import typer

from ccvae_eval.cli.console import Screen
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.files import atomic_write
from ccvae_eval.plugins import registry

NEXT = {
    "model": ("python {file}", "ccvae-eval run {name}.pt --plugin {file} --data faces,size=32"),
    "metric": ("ccvae-eval run CKPT --metric {name} --plugin {file} --data DATA",),
    "data": ("ccvae-eval inspect {name} --plugin {file}",),
    "features": (
        "ccvae-eval diversity CKPT --features {name} --plugin {file} --data DATA",
        "ccvae-eval generation CKPT --features {name} --plugin {file} --data DATA",
    ),
    "matcher": ("ccvae-eval drift CKPT --matcher {name} --plugin {file} --data DATA",),
    "report": ("ccvae-eval run CKPT --report {name} --plugin {file} --data DATA",),
}
"""The next things to type, besides the check that all have."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,60}")


def command(
    kind: Annotated[
        Literal["model", "metric", "data", "matcher", "features", "report"], typer.Argument(help="What to write.")
    ],
    name: Annotated[str, typer.Argument(help="Its name on the command line.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file to write; default NAME.py.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No advice.")] = False,
) -> None:
    """Write a plugin to start from: one file that runs, with its test."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name", hint="Letters, digits, - and _, beginning with a letter.")
    group = registry.KINDS[kind]
    if name in registry.Registry(group):
        raise UsageError(
            f"{kind} {name!r} is registered already", hint=f"Choose another name; see ccvae-eval list {group}."
        )
    file = out or Path(f"{name.replace('-', '_')}.py")
    if file.suffix != ".py":
        raise UsageError("a plugin file ends in .py", where=str(file))
    if file.exists() and not force:
        raise UsageError("there is such a file", where=str(file), hint="--force writes over it; --out names another.")
    atomic_write(file, written(kind, name, file.name).encode())
    with Screen(quiet=quiet) as screen:
        screen.show(f"Written: {file}")
        for line in (*NEXT[kind], "ccvae-eval check {name} --plugin {file}"):
            screen.advise(f"  {line.format(name=name, file=file)}")


def written(kind: str, name: str, file: str) -> str:
    """The text of the file."""
    text = (files("ccvae_eval") / "assets" / f"new_{kind}.txt").read_text(encoding="utf-8")
    words = [word for word in re.split(r"[-_]", name) if word]
    class_name = "".join(word[0].upper() + word[1:] for word in words)
    put = {"CLASS": class_name, "NAME": name, "FILE": file}
    return re.sub(r"\b(CLASS|NAME|FILE)\b", lambda found: put[found[0]], text)
