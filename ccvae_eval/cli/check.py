"""``check``: the contract suite for one plugin, a stranger's or ours."""

from __future__ import annotations

import json as jsonlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import ccvae_eval
from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import assignments
from ccvae_eval.core.errors import UsageError, suggestion
from ccvae_eval.plugins import registry
from ccvae_eval.report.text import escaped

BROKEN = 4
SECONDS = 600
MARKS = {"passed": "kept", "failed": "broken", "skipped": "not applicable"}


def command(
    name: Annotated[str, typer.Argument(help="The plugin, as it is registered.", show_default=False)],
    plugin: Annotated[list[Path] | None, typer.Option("--plugin", help="A Python file to register first.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help=f"{', '.join(registry.KINDS)}; else as found.")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="A setting of the model: KEY=VALUE.")] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", help="Images to try it on; default: noise.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Try whether a plugin keeps its contract.

    A model is tried untrained, on labelled noise of its own input shape (or --data): shapes, ranges, determinism,
    independence of the batch, the order of labels, evaluation without gradients, a checkpoint's round trip, and a whole
    evaluation. Exit code 4 if a promise is broken.
    """
    for file in plugin or []:
        registry.add_plugin_file(file)
    found = _kind_of(name, kind)
    if find_spec("pytest") is None:
        raise UsageError("the contract suite needs pytest", where="check", hint="pip install pytest")
    rows, output = _tried(name, found, plugin or [], assignments(set, "--set"), data)
    with Screen(as_json=json) as screen:
        kept = [row for row in rows if row["outcome"] != "skipped"]
        broken = [row for row in kept if row["outcome"] == "failed"]
        if not kept:
            raise UsageError(
                f"{found} {name!r} could not be tried", why=_why(output), hint="ccvae-eval list plugins --check"
            )
        if len(broken) == len(kept) and len({row["message"] for row in kept}) == 1:
            # not a broken promise, but a model that could not even be made
            raise UsageError(f"{found} {name!r} could not be tried", why=_one_line(kept[0]["message"]))
        table = Table(box=None, padding=(0, 2), header_style="bold")
        for column in ("promise", "", "what it says"):
            table.add_column(column, overflow="fold")
        for row in kept:
            table.add_row(escaped(row["test"]), MARKS[row["outcome"]], escaped(_one_line(row["message"])))
        screen.show(table, "", f"{found} {name}: {len(kept) - len(broken)} of {len(kept)} promises kept")
        if json:
            screen.document({"name": name, "kind": found, "kept": not broken, "tests": rows})
    if broken:
        raise SystemExit(BROKEN)


def _kind_of(name: str, kind: str | None) -> str:
    """Which registry has the plugin."""
    if kind is not None and kind not in registry.KINDS:
        raise UsageError(f"kind {kind!r} is unknown", where="--kind", hint=suggestion(kind, registry.KINDS))
    found = [k for k, group in registry.KINDS.items() if name in registry.Registry(group) and kind in (None, k)]
    if not found:
        known = {entry for group in registry.GROUPS for entry in registry.Registry(group)}
        raise UsageError(f"no plugin is called {name!r}", hint=suggestion(name, known))
    if len(found) > 1:
        raise UsageError(f"{name!r} is registered as {' and as '.join(found)}", hint=f"Say which: --kind {found[0]}")
    registry.Registry(registry.KINDS[found[0]]).find(name)
    return found[0]


def _tried(
    name: str, kind: str, plugins: list[Path], settings: Mapping[str, Any], data: str | None
) -> tuple[list[dict[str, Any]], str]:
    """The outcome of each test, run in a process of its own."""
    suite = Path(ccvae_eval.__file__).parent / "testing" / "suite.py"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pytest.ini").write_text("[pytest]\n")
        results = Path(folder) / "results.json"
        command = [
            sys.executable, "-m", "pytest", "-p", "ccvae_eval.testing.pytest_options", "-p", "no:cacheprovider",
            "-c", str(Path(folder) / "pytest.ini"), "--rootdir", folder, "-q", "--tb=short", str(suite),
            "--ccvae-name", name, "--ccvae-kind", kind, "--ccvae-results", str(results),
        ]  # fmt: skip
        command += [part for file in plugins for part in ("--ccvae-plugin", str(file.resolve()))]
        command += ["--ccvae-settings", jsonlib.dumps(settings)]
        command += ["--ccvae-data", data] if data else []
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            child = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL, env=environment
            )
        except subprocess.TimeoutExpired:
            raise UsageError(f"{kind} {name!r} gave no answer in {SECONDS} s") from None
        rows = jsonlib.loads(results.read_text()) if results.is_file() else []
    return rows, child.stdout + child.stderr


def _one_line(message: str) -> str:
    return " ".join(message.removeprefix("ccvae_eval.core.errors.").split())


def _why(output: str) -> str:
    lines = [line.removeprefix("E").strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else ""
