"""``inspect``: show the contents of a checkpoint, a data set, a run or this installation."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from ccvae_eval import __version__
from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import Json, ModelSetting, Plugin, add_plugins, assignments
from ccvae_eval.core import typed
from ccvae_eval.core.errors import InputError
from ccvae_eval.plugins import registry
from ccvae_eval.plugins.attribution import is_builtin
from ccvae_eval.rendering.tables import FittedTable
from ccvae_eval.rendering.text import escaped, figure, plain

CODES = "codes"
"""The array by which an .npz is read in place of a checkpoint."""
MAX_ROWS = 60
MAX_TEXT, MAX_TEXTS = 200, 60
"""Most characters of a value and most elements of a list or an object that are shown."""
UNKNOWN = (
    "No installed adapter or model matches these tensors. To use your own class: --plugin FILE (`ccvae-eval new model "
    "NAME --from CKPT` writes a class that fits)."
)


def command(
    what: Annotated[
        str | None,
        typer.Argument(
            help="A checkpoint, a data set (folder:PATH) or a run (its folder or run.json); default: this installation."
        ),
    ] = None,
    json: Json = False,
    plugin: Plugin = None,
    set: ModelSetting = None,
) -> None:
    """Show what a checkpoint, a data set or a run contains, without executing it."""
    add_plugins(plugin)
    with Screen(as_json=json) as screen:
        steps = _steps(what, assignments(set, "--set"))
        found = next(steps)
        if json:
            *_, found = [found, *steps]
            screen.document(typed.plain(found))
        elif what is not None and found.get("kind") == "run":
            from ccvae_eval.evaluation.storage import read
            from ccvae_eval.report import terminal

            run = read(what)
            screen.show(terminal.header(run), "")
            screen.show(terminal.summary(run))
        else:
            if summary := found.pop("summary", ""):
                screen.show(escaped(summary), "")
            remarks = found.pop("remarks", ())
            _show_facts(found, screen)
            *_, found = [found, *steps]
            _show_tables(found, screen)
            screen.show(*(Text(f"! {plain(text)}", style="yellow") for text in remarks))
            if found["kind"] == "checkpoint" and not found["candidates"] and found["written_by"] is None:
                screen.advise(f"\n{UNKNOWN}")
            if found["kind"] == "arrays" and "images" in found["arrays"]:
                screen.advise(f"\nAs a data set: ccvae-eval inspect npz:{what}")


def _steps(what: str | None, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What is known at once, then everything, if that takes longer."""
    if what is None:
        yield {"kind": "installation", **_installation()}
        return
    name = what.partition(":")[0].partition(",")[0]
    path = Path(what)
    if (path.is_dir() and (path / "run.json").exists()) or path.name == "run.json":
        from ccvae_eval.evaluation.storage import read

        yield {"kind": "run", **read(path).as_plain()}
        return
    if not path.exists() and name in registry.data_sets:
        from ccvae_eval.data.spec import open_data
        from ccvae_eval.data.summary import describe

        yield {"kind": "data", **describe(open_data(what))}
        return
    if path.suffix == ".npz" and path.is_file():
        if (path.parent / "run.json").exists():
            hint = f"ccvae-eval inspect {path.parent}"
            raise InputError("is part of a run, not a checkpoint", where=str(path), hint=hint)
        from ccvae_eval.core.array_files import UNLIMITED, ArrayFile

        headers = ArrayFile(path, limit=UNLIMITED).headers
        kind = "checkpoint" if CODES in headers else "arrays"
        yield {"kind": kind, "path": str(path), "format": "npz", "arrays": headers}
        if CODES not in headers and all(is_builtin(adapter) for adapter in registry.adapters.registrations()):
            return
    from ccvae_eval.checkpoint.matches import inspection

    for found in inspection(path, settings):
        yield {"kind": "checkpoint", **found}


def _installation() -> dict[str, Any]:
    import torch

    from ccvae_eval.core.devices import device_named, environment

    return {
        "version": __version__,
        "executable": sys.executable,
        **environment(device_named("auto")),
        "cuda": torch.cuda.is_available(),
        "plugins": {group: list(registry.Registry(group)) for group in registry.GROUPS},
    }


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _show_facts(found: dict[str, Any], screen: Screen) -> None:
    """Prints single facts as a grid."""
    grid = Table.grid("", Column(overflow="fold"), padding=(0, 2))
    for key, value in found.items():
        if value not in (None, [], {}, "") and not _is_table(value):
            grid.add_row(key, escaped(_text(value)))
    screen.show(grid)


def _show_tables(found: dict[str, Any], screen: Screen) -> None:
    """Prints lists of records as tables."""
    for title, rows in found.items():
        if not _is_table(rows):
            continue
        columns = [column for column in rows[0] if any(row.get(column) not in (None, "") for row in rows)]
        table = FittedTable(*columns, spare=("dtype",), title=title, title_justify="left")
        for column in table.columns[:2]:
            column.no_wrap = True
        for row in rows[:MAX_ROWS]:
            table.add_row(*(escaped(_text(row.get(column))) for column in columns))
        screen.show("", table)
        if len(rows) > MAX_ROWS:
            screen.show(f"... and {len(rows) - MAX_ROWS} more; --json shows all")


def _text(value: Any, *, inside: bool = False) -> str:
    """A value on one line; lists and objects ``inside`` of others stand in parentheses, and empty ones are left out."""
    if isinstance(value, float):
        return figure(value)
    if isinstance(value, Mapping | list | tuple):
        pairs = value.items() if isinstance(value, Mapping) else (("", part) for part in value)
        shown = [(key, part) for key, part in pairs if part not in ({}, [], ())]
        parts = [f"{_text(key)} {_text(part, inside=True)}".lstrip() for key, part in shown[:MAX_TEXTS]]
        if len(shown) > MAX_TEXTS:
            parts.append(f"... and {len(shown) - MAX_TEXTS:,} more")
        text = ", ".join(parts)
        return f"({text})" if inside else text
    text = "" if value is None else str(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... ({len(text):,} characters)"
