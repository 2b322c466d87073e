"""``list``: show the registered plugins from package metadata, without importing them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import Json, Plugin
from ccvae_eval.core.errors import CcvaeEvalError
from ccvae_eval.plugins import registry
from ccvae_eval.rendering.tables import FittedTable
from ccvae_eval.rendering.text import escaped, unmarked

CHECK_SECONDS = 60
COLUMNS = ("group", "name", "description", "distribution", "state")
_LOAD = """
import sys
from ccvae_eval.core.errors import CcvaeEvalError
from ccvae_eval.plugins.registry import Registry, add_plugin_file
try:
    if sys.argv[3]:
        add_plugin_file(sys.argv[3])
    Registry(sys.argv[1]).find(sys.argv[2]).load()
except CcvaeEvalError as error:
    sys.exit(error.why or error.what)
"""


def command(
    what: Annotated[
        Literal["models", "metrics", "data", "adapters", "matchers", "features", "reports", "plugins"],
        typer.Argument(help="The kind of plugin; 'plugins' lists all kinds."),
    ] = "plugins",
    json: Json = False,
    check: Annotated[bool, typer.Option("--check", help="Also load each plugin, in a child process.")] = False,
    seconds: Annotated[int, typer.Option(help="With --check: time limit for each plugin.", min=1)] = CHECK_SECONDS,
    plugin: Plugin = None,
) -> None:
    """List the registered models, metrics, data sets or plugins."""
    broken = [row for file in plugin or [] for row in _added(file)]
    groups = registry.GROUPS if what == "plugins" else (what,)
    rows = [*(row for group in groups for row in _rows(group, check, seconds)), *broken]
    with Screen(as_json=json) as screen:
        if json:
            screen.document({what: rows})
            return
        columns = COLUMNS if len(groups) > 1 else COLUMNS[1:]
        table = FittedTable(*columns, spare=("version", "distribution", "state"))
        for row in rows:
            table.add_row(*(escaped(row[column]) for column in columns))
        screen.show(table if rows else f"No {what} are registered.")


def _added(file: Path) -> list[dict[str, str]]:
    """Registers a plugin file; returns a row with the reason if that fails."""
    try:
        registry.add_plugin_file(file)
    except CcvaeEvalError as error:
        state = f"broken: {error.what}{f' ({error.why})' if error.why else ''}"
        return [asdict(registry.Registration("", file.stem, "", str(file), "")) | {"state": state, "description": ""}]
    return []


def _rows(group: str, check: bool, seconds: int) -> list[dict[str, str]]:
    entries = registry.Registry(group).registrations()
    count = Counter(entry.name for entry in entries)
    return [
        asdict(e) | {"state": _state(e, count[e.name] == 1, seconds if check else None), "description": _summary(e)}
        for e in entries
    ]


def _summary(entry: registry.Registration) -> str:
    """The first line of the class's docstring, without importing an installed class."""
    try:
        return unmarked(entry.description().partition("\n")[0])
    except CcvaeEvalError:
        return ""


def _state(entry: registry.Registration, unique: bool, seconds: int | None) -> str:
    state = "registered" if unique else f"broken: the name is registered twice, use {entry.qualified}"
    if seconds is None:
        return state
    loaded = _loaded(entry, seconds)
    return loaded if unique or loaded.startswith("broken") else f"{state} ({loaded})"


def _loaded(entry: registry.Registration, seconds: int) -> str:
    """Imports the plugin in a child process with a time limit; returns "loads" or "broken: REASON"."""
    file = entry.distribution if entry.from_file else ""
    try:
        command = [sys.executable, "-P", "-c", _LOAD, entry.group, entry.qualified, file]
        child = subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return f"broken: loading did not finish within {seconds} s"
    if child.returncode == 0:
        return "loads"
    last = child.stderr.strip().splitlines()
    return f"broken: {last[-1] if last else f'exit code {child.returncode}'}"
