"""``list``: show the registered plugins from package metadata, without importing them."""

from __future__ import annotations

import json as jsonlib
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import Json, Plugin
from ccvae_eval.plugins import registry
from ccvae_eval.rendering.tables import FittedTable
from ccvae_eval.rendering.text import escaped, unmarked

CHECK_SECONDS = 60
COLUMNS = ("group", "name", "description", "distribution", "state")
_LOAD = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from ccvae_eval.core.errors import CcvaeEvalError
from ccvae_eval.plugins.registry import Registry
try:
    Registry(sys.argv[1]).find(sys.argv[2]).load()
except CcvaeEvalError as error:
    sys.exit(error.why or error.what)
os.write(1, b"loaded")
"""
"""Program that imports a registered class."""
_ADD = """
import json, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from dataclasses import asdict
from ccvae_eval.core.errors import CcvaeEvalError
from ccvae_eval.plugins.registry import add_plugin_file
document = os.dup(1)
os.dup2(2, 1)
try:
    rows = [asdict(e) | {"text": e.description()} for e in add_plugin_file(sys.argv[1])]
except CcvaeEvalError as error:
    sys.exit(f"{error.what} ({error.why})" if error.why else error.what)
os.write(document, json.dumps(rows).encode())
"""
"""Program that runs a plugin file and writes what it registers."""


def command(
    what: Annotated[
        Literal["models", "metrics", "data", "adapters", "matchers", "features", "reports", "plugins"],
        typer.Argument(help="The kind of plugin; 'plugins' lists all kinds."),
    ] = "plugins",
    json: Json = False,
    check: Annotated[bool, typer.Option("--check", help="Also load each plugin, in a child process.")] = False,
    seconds: Annotated[int, typer.Option(help="Time limit for loading each plugin.", min=1)] = CHECK_SECONDS,
    plugin: Plugin = None,
) -> None:
    """List the registered models, metrics, data sets or plugins."""
    groups = registry.GROUPS if what == "plugins" else (what,)
    listed = {entry: _summary(entry) for group in groups for entry in registry.Registry(group).registrations()}
    faults: dict[registry.Registration, str] = {}
    for file in plugin or []:
        for entry, summary, fault in _tried(file.resolve(), seconds):
            if entry.group in (*groups, ""):
                listed[entry], faults[entry] = summary, fault
    for entry in listed if check else ():
        if entry not in faults:
            faults[entry] = _child(_LOAD, [entry.group, entry.qualified], seconds)[1]
    count = Counter((entry.group, entry.name) for entry in listed)
    rows = [
        asdict(e) | {"state": _state(e, count[e.group, e.name] == 1, faults.get(e), check), "description": summary}
        for e, summary in sorted(listed.items(), key=lambda item: _position(item[0]))
    ]
    with Screen(as_json=json) as screen:
        if json:
            screen.document({what: rows})
            return
        columns = COLUMNS if len(groups) > 1 else COLUMNS[1:]
        table = FittedTable(*columns, spare=("version", "distribution", "state"))
        for row in rows:
            table.add_row(*(escaped(row[column]) for column in columns))
        screen.show(table if rows else f"No {what} are registered.")


def _position(entry: registry.Registration) -> tuple[int, str, str]:
    """Place of an entry in the table: by group, name and distribution; files that cannot be run come last."""
    group = registry.GROUPS.index(entry.group) if entry.group else len(registry.GROUPS)
    return group, entry.name, entry.distribution


def _tried(file: Path, seconds: int) -> list[tuple[registry.Registration, str, str]]:
    """Runs a plugin file in a child process; returns its registrations, each with its description and its fault."""
    output, fault = _child(_ADD, [str(file)], seconds)
    if fault:
        return [(registry.Registration("", file.stem, "", str(file), ""), "", fault)]
    rows = [dict(row) for row in jsonlib.loads(output)]
    texts = [unmarked(row.pop("text").partition("\n")[0]) for row in rows]
    return [(registry.Registration(**row), text, "") for row, text in zip(rows, texts, strict=True)]


def _summary(entry: registry.Registration) -> str:
    """The first line of the docstring of an installed class, which is not imported."""
    return unmarked(entry.description().partition("\n")[0])


def _state(entry: registry.Registration, unique: bool, fault: str | None, check: bool) -> str:
    """The state of a plugin; its fault is "" if it was loaded without one, None if it was not loaded."""
    if fault:
        return f"broken: {fault}"
    state = "registered" if unique else f"broken: the name is registered twice, use {entry.qualified}"
    return state if not check else "loads" if unique else f"{state} (loads)"


def _child(program: str, arguments: list[str], seconds: int) -> tuple[str, str]:
    """Runs a program of Python; returns its output, and why it failed or ""."""
    command, pipe = [sys.executable, "-P", "-c", program, *arguments], subprocess.PIPE
    child = subprocess.Popen(
        command, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL, text=True, start_new_session=True
    )
    try:
        output, errors = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return "", f"loading did not finish within {seconds} s"
    finally:  # with the processes that it has started, which hold the pipes
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    if child.returncode < 0:
        return "", f"killed by {signal.Signals(-child.returncode).name}"
    last = errors.strip().splitlines()
    if child.returncode or not output:
        return "", last[-1] if last else f"ended the process with exit code {child.returncode}"
    return output, ""
