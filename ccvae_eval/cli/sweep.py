"""``sweep``: evaluate many checkpoints, on this machine or on a cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ccvae_eval.cli.console import Screen, stop_requests
from ccvae_eval.cli.main import OLD_NAMES
from ccvae_eval.cli.measuring import SOME_FAILED, require_valid
from ccvae_eval.cli.options import EVALUATION, OUTPUT, Common, add_options, option_in, options_of
from ccvae_eval.cli.runs import as_plain, progress, show_results
from ccvae_eval.core.devices import require_device_name
from ccvae_eval.core.errors import InputError, StopRequest, UsageError
from ccvae_eval.core.files import atomic_write

if TYPE_CHECKING:
    from ccvae_eval.sweep.cells import Cell, Sweep
    from ccvae_eval.sweep.engines import Engine

WORK = "Work"
METRIC_HELP = "Compute only this metric; repeatable."
PROCESSES_HELP = "Processes on this machine; default: one for each device."
Processes = Annotated[int | None, option_in(WORK, PROCESSES_HELP, min=1)]
ON_HELP = "Where to run: FILE.toml (Slurm, settings of submitit), dask, or the address of a Dask scheduler."
On = Annotated[str | None, option_in(WORK, ON_HELP, "--on")]
SHARD_HELP = "I/N: only the I-th of every N cells; default: the position in Slurm's job array, else all."
Shard = Annotated[str | None, option_in(WORK, SHARD_HELP)]
Retries = Annotated[int, option_in(WORK, "Further attempts of a cell whose worker was lost.", min=0)]
MaxFailures = Annotated[int | None, option_in(WORK, "Stop when more cells than this failed.", min=0)]
CellLimit = Annotated[float | None, option_in(WORK, "Seconds after which a cell is killed.", min=1)]
OWN = {"seed", "out", "force", "json", "quiet", "device"}
"""Options of an evaluation that a sweep sets itself."""
UNUSED = ("verbose", "dry_run")
"""Options of an evaluation that a sweep does not have: it shows one row for each cell."""
DEVICE_HELP = "Device: auto, cpu, cuda, cuda:1 or mps; cuda:0,1 is dealt out to the processes."


def dealt(device: str) -> list[str]:
    """The devices of ``--device cuda:0,1``.

    >>> dealt("cuda:0,2"), dealt("cpu")
    (['cuda:0', 'cuda:2'], ['cpu'])
    """
    kind, _, numbers = device.partition(":")
    return [f"{kind}:{number}" for number in numbers.split(",")] if numbers else [device]


def _device_names(device: str) -> str:
    for name in dealt(device):
        require_device_name(name)
    return device


Devices = Annotated[str, option_in(EVALUATION, DEVICE_HELP, callback=_device_names)]


@dataclass(frozen=True, slots=True)
class CellOptions(Common):
    """The options of the evaluations: several devices are allowed, and figures are left out by default."""

    device: Devices = "auto"
    figures: Annotated[bool, option_in(OUTPUT, "Write figures as PNG files.")] = False


def command(
    checkpoints: Annotated[
        list[str], typer.Argument(help="Checkpoints, or patterns such as 'models/*.pt'.", show_default=False)
    ],
    metric: Annotated[list[str] | None, typer.Option("--metric", "-m", help=METRIC_HELP)] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Evaluation seeds of each checkpoint, from --seed on.")] = 1,
    processes: Processes = None,
    on: On = None,
    shard: Shard = None,
    retries: Retries = 1,
    max_failures: MaxFailures = None,
    fail_fast: Annotated[bool, option_in(WORK, "Stop at the first cell that fails.", "--fail-fast")] = False,
    cell_limit: CellLimit = None,
    **given: Any,
) -> None:
    """Evaluate many checkpoints, on this machine or on a cluster.

    Each checkpoint and seed is a cell with a folder of its own in --out. A cell that has a run is left as it is, so a
    sweep that was interrupted is resumed by the same command. The state is shown by ccvae-eval runs DIR.
    """
    common = CellOptions(**given)
    if common.out is None:
        raise UsageError("a sweep needs a folder", hint="Name it with --out, such as --out sweep/")
    require_valid(common)
    from ccvae_eval.data.spec import VARIABLE
    from ccvae_eval.sweep.cells import Sweep, data_digest, parse_shard

    folder = common.out.absolute()
    common = replace(common, data=common.data or os.environ.get(VARIABLE))
    index, count = parse_shard(shard, os.environ)
    paths = expanded(checkpoints)
    seeds_used = range(common.seed, common.seed + seeds)
    with Screen(as_json=common.json, quiet=common.quiet) as screen:
        content = data_digest(folder, common.data, paths, screen.notice) if common.data else ""
        sweep = Sweep.of(folder, paths, seeds_used, cell_arguments(common, metric), content)
        whole = sweep.write()
        own = [cell for number, cell in enumerate(sweep.cells) if number % count == index - 1]
        missing = sweep.missing()
        todo = [cell for cell in own if cell in missing]
        screen.notice(f"{len(own)} cells, {len(own) - len(todo)} of them done; results go to {sweep.folder}")
        failed = 0
        if todo:
            engine = engine_for(sweep.folder, on, processes, common.device, cell_limit)
            # a judge that a finished cell has trained is in the cache
            new = len(missing) == len(sweep.cells)
            most = 0 if fail_fast else max_failures
            failed = work(sweep, todo, engine, screen, lead=new, retries=retries, max_failures=most)
        _conclude(whole, common, screen)
    if failed:
        raise SystemExit(SOME_FAILED)


def expanded(checkpoints: Sequence[str]) -> list[str]:
    """The paths that the arguments name; a pattern stands for all that match it.

    Raises:
        InputError: a pattern matches nothing.
    """
    found: list[str] = []
    for text in checkpoints:
        matches = [text] if Path(text).exists() else sorted(glob(text))  # noqa: PTH207 - absolute patterns too
        if not matches:
            raise InputError("no checkpoint has this name or matches this pattern", where=text)
        found += matches
    return list(dict.fromkeys(found))


def cell_arguments(common: CellOptions, metrics: Sequence[str] | None) -> list[str]:
    """The options of ``run`` for every cell: those that differ from the defaults of ``run``."""
    defaults = {field.name: field.default for field in fields(Common)}
    given = {field.name: getattr(common, field.name) for field in fields(common) if field.name not in OWN}
    changed = {name: value for name, value in given.items() if value != defaults[name]}
    return as_arguments({"metric": metrics, **changed, "quiet": True})


def as_arguments(values: Mapping[str, Any]) -> list[str]:
    """Options and their values as arguments; None leaves one out, and a sequence repeats one."""
    found: list[str] = []
    for name, value in values.items():
        option = "--" + name.replace("_", "-")
        option = OLD_NAMES.get(option, option)  # the parameter of --rename is named label
        if isinstance(value, bool):
            found.append(option if value else option.replace("--", "--no-", 1))
        elif value is not None:
            for item in value if isinstance(value, list | tuple) else [value]:
                found += [option, str(item.absolute() if isinstance(item, Path) else item)]
    return found


def run_command(arguments: list[str]) -> int:
    """Runs ``ccvae-eval`` in this process and returns its exit code."""
    import sys

    from ccvae_eval.cli.main import main

    try:
        main(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def engine_for(folder: Path, on: str | None, processes: int | None, device: str, limit: float | None) -> Engine:
    """The engine that the options ask for; the last one is the limit of a cell in seconds."""
    from ccvae_eval.sweep import engines

    devices = dealt(device)
    if on is None:
        return engines.Processes(folder, run_command, count=processes or len(devices), limit=limit, devices=devices)
    if len(devices) > 1:
        raise UsageError("several devices can be dealt out only to the processes of this machine", where="--device")
    return engines.engine_on(on, engines.Work(folder, device, limit), processes)


def work(
    sweep: Sweep,
    todo: Sequence[Cell],
    engine: Engine,
    screen: Screen,
    *,
    lead: bool,
    retries: int,
    max_failures: int | None,
) -> int:
    """Runs cells and shows their state, see :func:`ccvae_eval.sweep.loop.run_cells`; returns how many failed."""
    from rich.live import Live

    from ccvae_eval.sweep.loop import run_cells

    live = screen.err.is_terminal and not screen.quiet
    failed = 0
    with stop_requests() as stopped, Live(console=screen.err, transient=True) if live else nullcontext() as display:

        def stop() -> bool:
            if display is not None:
                display.update(progress(sweep.states()))
            return bool(stopped)

        try:
            ended = run_cells(
                sweep.folder, todo, engine, lead=lead, retries=retries, max_failures=max_failures, stop=stop
            )
            for number, cell in enumerate(ended, 1):
                failed += not cell.done
                took = "" if cell.attempt.seconds is None else f" in {cell.attempt.seconds:.0f} s"
                what = f"done{took}" if cell.done else f"failed: {cell.attempt.error}"
                screen.notice(f"{number} of {len(todo)}: {cell.cell.name}: {what}")
        finally:
            engine.close()
        if stopped:
            screen.notice("stopped; repeat the command to resume")
            raise StopRequest(stopped[0])
    return failed


def _conclude(sweep: Sweep, common: CellOptions, screen: Screen) -> None:
    """Shows the table of results, and writes it as a page."""
    from ccvae_eval.report.page import PAGE, runs_html

    states = sweep.states()
    runs = show_results(sweep, states, screen)
    if runs and common.page:
        atomic_write(sweep.folder / PAGE, runs_html(runs).encode())
        screen.advise(f"\nWritten to {sweep.folder}: {PAGE}, {len(runs)} runs")
    screen.advise(f"Next: ccvae-eval runs {sweep.folder}")
    if common.json:
        screen.document({"cells": [as_plain(state, runs.get(state.cell.name)) for state in states]})


add_options(command, [option for option in options_of(CellOptions) if option.name not in UNUSED])
