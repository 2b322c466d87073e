"""``report``: the report of a run, or of a folder of runs, as an HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import Json, Plugin, Quiet, add_plugins
from ccvae_eval.core.errors import InputError
from ccvae_eval.core.files import atomic_write

RUN_HELP = "A run (its folder or run.json), or a folder that contains runs."


def command(
    what: Annotated[Path, typer.Argument(help=RUN_HELP, metavar="RUN|DIR", show_default=False)],
    json: Json = False,
    quiet: Quiet = False,
    plugin: Plugin = None,
) -> None:
    """Write the report of a run, or of a folder of runs, as an HTML file.

    The file report.html is written beside each run.json. A folder of runs also gets a table with links to the
    reports. A report needs no network and no other file.
    """
    from ccvae_eval.evaluation.storage import RUN_FILE, read
    from ccvae_eval.report.page import PAGE, runs_html, write_page

    add_plugins(plugin)
    with Screen(as_json=json, quiet=quiet) as screen:
        if (what / RUN_FILE).is_file() or not what.is_dir():
            made = write_page(read(what), what if what.is_dir() else what.parent)
        else:
            places = sorted(file.parent for file in what.rglob(RUN_FILE))
            if not places:
                raise InputError("no run in this folder", where=str(what), hint=f"A run is a folder with {RUN_FILE}.")
            for number, place in enumerate(places, 1):
                write_page(read(place), place)
                screen.notice(f"{number} of {len(places)}: {place / PAGE}")
            runs = {place.relative_to(what).as_posix(): read(place, pictures=False) for place in places}
            made = what / PAGE
            atomic_write(made, runs_html(runs).encode())
        screen.advise(f"Written to {made}")
        if json:
            screen.document({"report": str(made)})
