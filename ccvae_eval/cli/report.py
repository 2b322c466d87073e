"""``report``: the report of a run, or of a folder of runs, as an HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import (
    OUTPUT,
    Json,
    ModelName,
    ModelSetting,
    Overwrite,
    Plugin,
    Quiet,
    add_plugins,
    assignments,
    option_in,
    require_new,
)
from ccvae_eval.core.errors import InputError, UsageError
from ccvae_eval.core.files import atomic_write

FIGURE_HELP = "Draw one figure instead: METRIC, METRIC@LABEL, profile or labels."
KIND_HELP = "Figure of the metric, such as change-maps; default: its first one."
IMAGES_HELP = "Ids of the single images in the figure, separated by commas."
OUT_HELP = "File of the figure; default: in the folder figures/ of the run."
INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72}
NARROWEST, WIDEST = 1.5, 40.0
"""Inches."""
Format = Literal["pdf", "svg", "png"]
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
    figure: Annotated[str | None, option_in(OUTPUT, FIGURE_HELP, "--figure", metavar="ADDRESS")] = None,
    kind: Annotated[str | None, option_in(OUTPUT, KIND_HELP)] = None,
    images: Annotated[str | None, option_in(OUTPUT, IMAGES_HELP, metavar="ID,ID")] = None,
    format: Annotated[Format | None, option_in(OUTPUT, "Format of the figure; default: pdf.", "--format")] = None,
    width: Annotated[str | None, option_in(OUTPUT, "Width of the figure: 3.25in, 84mm.")] = None,
    out: Annotated[Path | None, option_in(OUTPUT, OUT_HELP, "--out", "-o")] = None,
    force: Overwrite = False,
) -> None:
    """Write the report of a run or of a folder of runs as an HTML file, or one figure for a paper.

    The file report.html is written beside each run.json. A folder of runs also gets a table with links to the
    reports. A report needs no network and no other file.

    With --live CKPT, a run also gets live.html: the decoder itself in a page of at most 8 MB, where sliders move every
    latent dimension of 48 images, without a network.

    --figure writes one figure of a run as PDF, SVG or PNG at a given width. The file figures/index.md of a run lists
    its figures with their addresses.
    """
    from ccvae_eval.evaluation.storage import RUN_FILE, read
    from ccvae_eval.report.page import PAGE, runs_html, write_page

    add_plugins(plugin)
    drawing = {"--kind": kind, "--images": images, "--format": format, "--width": width, "--out": out,
               "--force": force or None}  # fmt: skip
    _require("--figure density", figure, drawing)
    _require("--live CKPT", live, {"--data": data, "--model": model, "--set": set})
    if figure is not None and live is not None:
        raise UsageError("--figure and --live exclude each other")
    require_new(out, force=force)
    written: dict[str, Path] = {}
    with Screen(as_json=json, quiet=quiet) as screen:
        if figure is not None:
            written["figure"] = _write_figure(what, figure, kind, images, format, width, out)
        elif (what / RUN_FILE).is_file() or not what.is_dir():
            run, folder = read(what), what if what.is_dir() else what.parent
            written["report"] = write_page(run, folder)
            if live is not None:
                from ccvae_eval.checkpoint import open_checkpoint
                from ccvae_eval.report.live import write_live  # imports torch

                opened = open_checkpoint(live, model=model, settings=assignments(set, "--set"))
                written["live"] = write_live(run, folder, opened, data, screen.notice)
        elif live is not None:
            raise UsageError("--live needs one run, got a folder of runs", where=str(what))
        else:
            # a folder whose name begins with a dot holds the unfinished runs of a sweep
            files = [file for file in what.rglob(RUN_FILE) if not file.relative_to(what).as_posix().startswith(".")]
            places = sorted(file.parent for file in files)
            if not places:
                raise InputError("no run in this folder", where=str(what), hint=f"A run is a folder with {RUN_FILE}.")
            for number, place in enumerate(places, 1):
                write_page(read(place), place)
                screen.notice(f"{number} of {len(places)}: {place / PAGE}")
            runs = {place.relative_to(what).as_posix(): read(place, pictures=False) for place in places}
            written["report"] = what / PAGE
            atomic_write(what / PAGE, runs_html(runs).encode())
        for file in written.values():
            screen.advise(f"Written to {file}")
        if json:
            screen.document({name: str(file) for name, file in written.items()})


def _require(main: str, given: object, options: Mapping[str, object]) -> None:
    """Refuses options that have no effect without the main one.

    Raises:
        UsageError: the main option is not given, and one of the others is.
    """
    name = next((name for name, value in options.items() if value is not None), None)
    if given is None and name is not None:
        raise UsageError(f"{name} needs {main.split()[0]}", hint=f"ccvae-eval report RUN {main}")


def _write_figure(
    what: Path,
    address: str,
    kind: str | None,
    images: str | None,
    suffix: str | None,
    width: str | None,
    out: Path | None,
) -> Path:
    """Writes one figure of a run; without a format, the suffix of ``out`` is the format."""
    from ccvae_eval.evaluation.storage import read
    from ccvae_eval.rendering.figures import save
    from ccvae_eval.report.figures import file_name

    suffix = suffix or ("pdf" if out is None else out.suffix[1:].lower())
    if suffix not in get_args(Format) or (out is not None and out.suffix[1:].lower() != suffix):
        raise UsageError("--out must end in .pdf, .svg or .png, as --format says", where=str(out))
    sheet = read(what).figure(address, kind, images=_ids(images or ""), width=None if width is None else inches(width))
    folder = what if what.is_dir() else what.parent
    parts = filter(None, (address, kind, images))
    return save(sheet, out or folder / "figures" / file_name(*parts, suffix=suffix))


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"--images must be ids separated by commas, got {text!r}") from None


def inches(text: str) -> float:
    """A length in inches.

    >>> inches("3.25in"), round(inches("8.5cm"), 2)
    (3.25, 3.35)
    """
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text.removeprefix(number).strip() or "in"
    try:
        width = float(number) * INCHES[unit]
    except (KeyError, ValueError):
        raise UsageError(f"--width must be a number with in, cm, mm or pt, got {text!r}") from None
    if not NARROWEST <= width <= WIDEST:
        raise UsageError(f"--width must be between {NARROWEST:g} and {WIDEST:g} inches, got {text!r}")
    return width
