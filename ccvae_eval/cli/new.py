"""``new``: write a plugin template, one file that runs, with its tests."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

import typer

from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import Overwrite, Quiet, require_new
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
"""The commands to suggest for each kind, before ``check``."""
FROM_HELP = "Checkpoint (a state_dict) whose tensors the layers of the model are to fit."
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,60}")


def command(
    kind: Annotated[
        Literal["model", "metric", "data", "matcher", "features", "report"], typer.Argument(help="The kind of plugin.")
    ],
    name: Annotated[str, typer.Argument(help="The plugin's name on the command line.", show_default=False)],
    weights: Annotated[Path | None, typer.Option("--from", help=FROM_HELP, show_default=False)] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file to write; default NAME.py.")] = None,
    force: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write a plugin template: one file that runs, with its tests.

    With --from, the layers of a model have the names and shapes of the tensors in a checkpoint. What the tensors do not
    say (activations, strides) is guessed, and marked in the file.
    """
    if weights is not None and kind != "model":
        raise UsageError(f"only a model can be written from a checkpoint, got the kind {kind!r}", where="--from")
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a valid name", hint="Use letters, digits, - and _, beginning with a letter.")
    group = registry.KINDS[kind]
    if name in registry.Registry(group):
        hint = f"Choose another name; see ccvae-eval list {group}."
        raise UsageError(f"{kind} {name!r} is registered already", hint=hint)
    file = out or Path(f"{name.replace('-', '_')}.py")
    if file.suffix != ".py":
        raise UsageError("the plugin file must end in .py", where=str(file))
    require_new(file, force=force)
    source, following = filled_template(kind, name, file.name), NEXT[kind]
    if weights is not None:
        from ccvae_eval.checkpoint.bundle import read_bundle
        from ccvae_eval.checkpoint.plugin_source import plugin_source

        source = plugin_source(read_bundle(weights), name, _class_name(name), file.name)
        following = ("ccvae-eval inspect {weights} --plugin {file}",)
    atomic_write(file, source.encode())
    with Screen(quiet=quiet) as screen:
        screen.show(f"Written: {file}")
        for line in (*following, "ccvae-eval check {name} --plugin {file}"):
            screen.advise(f"  {line.format(name=name, file=file, weights=quote(str(weights)))}")


def filled_template(kind: str, name: str, file: str) -> str:
    """The template of one kind of plugin, with its class, name and file filled in."""
    text = (files("ccvae_eval") / "assets" / f"new_{kind}.txt").read_text(encoding="utf-8")
    fields = {"CLASS": _class_name(name), "NAME": name, "FILE": file}
    return re.sub(r"\b(CLASS|NAME|FILE)\b", lambda found: fields[found[0]], text)


def _class_name(name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[-_]", name))
