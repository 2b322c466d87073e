"""``check``: run the conformance suite on one plugin, in a process of its own."""

from __future__ import annotations

import json as jsonlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

import ccvae_eval
from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import Json, ModelSetting, Plugin, add_plugins, assignments, registered
from ccvae_eval.core.errors import UsageError, suggestion
from ccvae_eval.plugins import registry
from ccvae_eval.rendering.tables import FittedTable
from ccvae_eval.rendering.text import escaped

SOME_FAILED = 4
TIMEOUT = 600
"""Seconds that the whole suite may take."""


PLUGIN_NAME = typer.Argument(
    help="The registered name of the plugin.",
    show_default=False,
    autocompletion=lambda incomplete: [n for group in registry.GROUPS for n in registered(group)(incomplete)],
)


def command(
    name: Annotated[str, PLUGIN_NAME],
    plugin: Plugin = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help=f"{', '.join(registry.KINDS)}; default: the kind registered.")
    ] = None,
    set: ModelSetting = None,
    data: Annotated[str | None, typer.Option("--data", "-d", help="Images to test it on; default: noise.")] = None,
    json: Json = False,
) -> None:
    """Test whether a plugin conforms to its interface.

    A model is tested untrained, on labelled noise of its own input shape (or --data): shapes, ranges, determinism,
    independence of the batch, the order of labels, evaluation without gradients, saving and loading a checkpoint, and
    a complete evaluation. Its settings are those of the TOML file beside its plugin file, and of --set. Exit code 4 if
    a test fails.
    """
    add_plugins(plugin)
    found = _kind_of(name, kind)
    if find_spec("pytest") is None:
        raise UsageError("check needs pytest, which is not installed", hint="pip install pytest")
    rows, output = _suite_results(name, found, plugin or [], _settings(name, plugin or [], set), data)
    with Screen(as_json=json) as screen:
        run = [row for row in rows if row["outcome"] != "skipped"]
        failed = [row for row in run if row["outcome"] == "failed"]
        if not run:
            last = next((line for line in reversed(output.splitlines()) if line.strip()), "")  # usually the error
            why, hint = last.removeprefix("E").strip(), "Try: ccvae-eval list plugins --check"
            raise UsageError(f"{found} {name!r} cannot be tested", why=why, hint=hint)
        if len(failed) == len(run) and len({row["message"] for row in run}) == 1:
            # the plugin could not be constructed, so every test failed in the same way
            raise UsageError(f"{found} {name!r} cannot be tested", why=_one_line(run[0]["message"]))
        table = FittedTable("test", "outcome", "message")
        for row in run:
            table.add_row(escaped(row["test"]), row["outcome"], escaped(_one_line(row["message"])))
        screen.show(table, "", f"{found} {name}: {len(run) - len(failed)} of {len(run)} tests passed")
        if json:
            screen.document({"name": name, "kind": found, "kept": not failed, "tests": rows})
    if failed:
        raise SystemExit(SOME_FAILED)


def _kind_of(name: str, kind: str | None) -> str:
    """The kind under which the plugin is registered."""
    if kind is not None and kind not in registry.KINDS:
        raise UsageError(f"{kind!r} is not a kind of plugin", where="--kind", hint=suggestion(kind, registry.KINDS))
    found = [k for k, group in registry.KINDS.items() if name in registry.Registry(group) and kind in (None, k)]
    if not found:
        known = {entry for group in registry.GROUPS for entry in registry.Registry(group)}
        raise UsageError(f"{name!r} is not a registered plugin", hint=suggestion(name, known))
    if len(found) > 1:
        raise UsageError(f"{name!r} is registered as {' and as '.join(found)}", hint=f"Choose one: --kind {found[0]}")
    registry.Registry(registry.KINDS[found[0]]).find(name)
    return found[0]


def _settings(name: str, plugins: Iterable[Path], given: list[str] | None) -> dict[str, Any]:
    """The settings of a model: those of the TOML file beside its plugin file, then those of ``--set``."""
    from ccvae_eval.checkpoint.sidecar import read_sidecar  # imports numpy, which help does not need

    beside = [read_sidecar(file) for file in plugins]
    found = {key: value for one in beside if one.model in (None, name) for key, value in one.settings.items()}
    return {**found, **assignments(given, "--set")}


def _suite_results(
    name: str, kind: str, plugins: list[Path], settings: Mapping[str, Any], data: str | None
) -> tuple[list[dict[str, Any]], str]:
    """Runs the suite in a child process; returns the outcome of each test and pytest's output."""
    suite = Path(ccvae_eval.__file__).parent / "testing" / "suite.py"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pytest.ini").write_text("[pytest]\n")
        results = Path(folder) / "results.json"
        command = [
            sys.executable, "-m", "pytest", "-p", "ccvae_eval.testing.pytest_options", "-p", "no:cacheprovider",
            "-c", str(Path(folder) / "pytest.ini"), "--rootdir", folder, "-q", "--tb=short", str(suite),
            "--ccvae-name", name, "--ccvae-kind", kind, "--ccvae-results", str(results),
        ]  # fmt: skip
        command += [f"--ccvae-plugin={file.resolve()}" for file in plugins]
        command += [f"--ccvae-settings={jsonlib.dumps(settings)}"] + ([f"--ccvae-data={data}"] if data else [])
        more: Any = {"stdin": subprocess.DEVNULL, "env": {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}}
        try:
            child = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, **more)
        except subprocess.TimeoutExpired:
            raise UsageError(f"the tests of {kind} {name!r} did not finish within {TIMEOUT} s") from None
        rows = jsonlib.loads(results.read_text()) if results.is_file() else []
    return rows, child.stdout + child.stderr


def _one_line(message: str) -> str:
    lines = re.sub(r"^ccvae_eval\.core\.errors\.\w+: ", "", message).split("\n")
    sentences = [" ".join(line.split()) for line in lines if line.strip()]
    return " ".join(text if text.endswith((".", "?", ":")) else f"{text}." for text in sentences).removesuffix(".")
