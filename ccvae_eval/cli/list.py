"""``list``: what is registered, from metadata alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from ccvae_eval import registry
from ccvae_eval.cli.console import Screen
from ccvae_eval.report.text import escaped

CHECK_SECONDS = 60
_LOAD = "import sys; from ccvae_eval.registry import *; add_plugin_file(sys.argv[3]) if sys.argv[3] else 0; "
_LOAD += "Registry(sys.argv[1]).find(sys.argv[2]).load()"


def command(
    what: Annotated[
        Literal["models", "metrics", "data", "adapters", "matchers", "plugins"],
        typer.Argument(help="Which registry; plugins = all of them."),
    ] = "plugins",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Load each in a process of its own.")] = False,
    plugin: Annotated[list[Path] | None, typer.Option("--plugin", help="A Python file to register first.")] = None,
) -> None:
    """List the registered models, metrics, data sets or plugins."""
    for file in plugin or []:
        registry.add_plugin_file(file)
    groups = registry.GROUPS if what == "plugins" else (what,)
    rows = [_row(r, check) for group in groups for r in _registered(group)]
    with Screen(as_json=json) as screen:
        if json:
            screen.document({what: rows})
            return
        table = Table(box=None, padding=(0, 2), header_style="bold")
        for column in ("group", "name", "distribution", "version", "state"):
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(escaped(str(row[c])) for c in ("group", "name", "distribution", "version", "state")))
        screen.show(table if rows else f"no {what} registered")


def _registered(group: str) -> list[tuple[registry.Registration, bool]]:
    entries = registry.Registry(group).registrations()
    names = [entry.name for entry in entries]
    return [(entry, names.count(entry.name) == 1) for entry in entries]


def _row(registered: tuple[registry.Registration, bool], check: bool) -> dict[str, str]:
    entry, unique = registered
    state = "registered" if unique else f"broken: the name is taken twice, use {entry.qualified}"
    if check and unique:
        state = _loaded(entry)
    return {
        "group": entry.group,
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "target": entry.target,
        "state": state,
    }


def _loaded(entry: registry.Registration) -> str:
    """Whether the plugin can be imported, tried in a child with a time limit."""
    file = entry.distribution if entry.distribution.endswith(".py") else ""
    try:
        child = subprocess.run(
            [sys.executable, "-c", _LOAD, entry.group, entry.name, file],
            capture_output=True,
            text=True,
            timeout=CHECK_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"broken: no answer in {CHECK_SECONDS} s"
    if child.returncode == 0:
        return "loads"
    last = child.stderr.strip().splitlines()
    return f"broken: {last[-1] if last else f'exit code {child.returncode}'}"
