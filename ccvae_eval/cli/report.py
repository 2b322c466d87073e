"""``report``: the report of a run, or of a folder of runs, as an HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import Json, ModelName, ModelSetting, Plugin, Quiet, add_plugins, assignments, option_in
from ccvae_eval.core.errors import InputError, UsageError
from ccvae_eval.core.files import atomic_write

RUN_HELP = "A run (its folder or run.json), or a folder that contains runs."
LIVE = "Live page"
LIVE_HELP = "The checkpoint of the run: also write live.html, in which its decoder runs."
DATA_HELP = "The data of the run, if they need a path. Default: those recorded in the run, else its pictures."


def command(
    what: Annotated[Path, typer.Argument(help=RUN_HELP, metavar="RUN|DIR", show_default=False)],
    live: Annotated[Path | None, option_in(LIVE, LIVE_HELP, metavar="CKPT")] = None,
    data: Annotated[str | None, option_in(LIVE, DATA_HELP, "--data", "-d")] = None,
    model: ModelName = None,
    set: ModelSetting = None,
    json: Json = False,
    quiet: Quiet = False,
    plugin: Plugin = None,
) -> None:
    """Write the report of a run, or of a folder of runs, as an HTML file.

    The file report.html is written beside each run.json. A folder of runs also gets a table with links to the
    reports. A report needs no network and no other file.

    With --live CKPT, a run also gets live.html: the decoder itself in a page of at most 8 MB, where sliders move every
    latent dimension of 48 images, without a network.
    """
    from ccvae_eval.evaluation.storage import RUN_FILE, read
    from ccvae_eval.report.page import PAGE, runs_html, write_page

    add_plugins(plugin)
    extra: Path | None = None
    with Screen(as_json=json, quiet=quiet) as screen:
        if (what / RUN_FILE).is_file() or not what.is_dir():
            run, folder = read(what), what if what.is_dir() else what.parent
            made = write_page(run, folder)
            if live is not None:
                from ccvae_eval.checkpoint import open_checkpoint
                from ccvae_eval.report.live import write_live  # imports torch

                opened = open_checkpoint(live, model=model, settings=assignments(set, "--set"))
                extra = write_live(run, folder, opened, data, screen.notice)
                screen.advise(f"Written to {extra}")
        elif live is not None:
            raise UsageError("--live needs one run, got a folder of runs", where=str(what))
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
            screen.document({"report": str(made), **({} if extra is None else {"live": str(extra)})})
