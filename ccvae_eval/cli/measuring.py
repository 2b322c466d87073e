"""The command of each metric, and the steps of every evaluation: set up, plan, measure, write, print."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ccvae_eval.api import data_of, evaluate, load
from ccvae_eval.cli import VERBS, options
from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.gate import GATE_FAILED, apply_gate
from ccvae_eval.cli.options import Common, add_plugins
from ccvae_eval.comparison.gate import Gate, read_gate
from ccvae_eval.core.files import slug
from ccvae_eval.data.labels.relabel import relabelled
from ccvae_eval.evaluation.metric import Metric
from ccvae_eval.evaluation.plan import Plan
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.storage import write
from ccvae_eval.plugins import registry
from ccvae_eval.report import terminal
from ccvae_eval.report.interface import write_report
from ccvae_eval.report.terminal import panel_tables

CHECKPOINT = Annotated[str, typer.Argument(help="The checkpoint to evaluate.", show_default=False)]
SOME_FAILED = 4


def command(name: str) -> Callable[..., None]:
    """The command of one metric; its options are the fields of the metric's dataclass."""
    kind = registry.metrics[name]
    own = options.setting_options(kind, f"Settings of {name}")

    def measure_one(checkpoint: CHECKPOINT, **given: Any) -> None:
        settings = options.field_values(given, [option.name for option in own])
        measure(checkpoint, [name], Common(**given), {name: settings})

    options.add_options(measure_one, [*own, *options.options_of(Common)])
    measure_one.__doc__ = metric_help(name)
    return measure_one


def metric_help(name: str) -> str:
    """The help text of a metric's command."""
    return f"{VERBS[name].summary}\n\nSee ccvae-eval explain {name} for the meaning of the numbers."


def output_folder(out: Path | None, run: Run) -> Path:
    """``--out``, else ``./ccvae-eval/<stem>-<hash8>``; the hash is of checkpoint, data and seed."""
    if out is not None:
        return out
    path = run.header.checkpoint.get("path") or run.header.data.get("name")
    stem = slug(Path(str(path)).stem) if path else "model"
    return options.default_folder(stem, run.header.checkpoint.get("sha256"), run.header.data, run.header.seed)


def evaluation_arguments(
    checkpoint: str,
    metrics: Sequence[str | Metric],
    common: Common,
    screen: Screen,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Arguments of :func:`ccvae_eval.api.plan` and :func:`ccvae_eval.api.evaluate` that the options give."""
    add_plugins(common.plugin)
    opened = load(checkpoint, model=common.model, settings=options.assignments(common.set, "--set"))
    data = relabelled(data_of(common.data, opened), common.label) if common.label else common.data
    return {
        "model": opened, "data": data, "metrics": metrics, "options": settings, "split": common.split,
        "sample": options.sample_of(common.sample), "limit": common.limit, "seed": common.seed,
        "device": common.device, "batch_size": common.batch_size, "characteristics": common.characteristic,
        "judge": common.judge, "cache_dir": common.cache_dir, "command": options.command_line(),
        "notice": screen.notice, "stage": screen.stage,
    }  # fmt: skip


def plan_shown(screen: Screen) -> Callable[[Plan], None]:
    """Prints a plan as a notice."""
    return lambda plan: screen.notice(f"plan: {terminal.plan_line(plan)}")


def measure(
    checkpoint: str,
    metrics: Sequence[str],
    common: Common,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    gate_file: Path | None = None,
) -> None:
    """Evaluates a checkpoint and shows the run; exits with code 1 if its gate failed, 4 if a metric failed.

    Args:
        checkpoint: path of the checkpoint.
        metrics: names of the metrics.
        common: the options that all evaluating commands share.
        settings: settings of metrics, by metric name; ``--option`` takes precedence over them.
        gate_file: requirements that the run must meet.
    """
    settings, gate = dict(settings or {}), None if gate_file is None else read_gate(gate_file)
    for name, overrides in options.metric_options(common.option).items():
        settings[name] = {**settings.get(name, {}), **overrides}
    for name in common.report or []:
        add_plugins(common.plugin)
        registry.reports.find(name)
    with Screen(as_json=common.json, quiet=common.quiet) as screen:
        arguments = evaluation_arguments(checkpoint, metrics, common, screen, settings)
        run = evaluate(**arguments, on_plan=plan_shown(screen))
        following = next_command(run, checkpoint, common)
        passed = publish(run, screen, common, following, common.report or (), gate)
    if not passed:
        raise SystemExit(GATE_FAILED)
    if run.failed:
        raise SystemExit(SOME_FAILED)


def publish(
    run: Run, screen: Screen, common: Common, following: str, reports: Iterable[str] = (), gate: Gate | None = None
) -> bool:
    """Writes a run's files and reports, prints its tables, and suggests the following command.

    Returns:
        False if the run does not meet the gate.
    """
    folder = output_folder(common.out, run)
    run, figure_count = draw_and_write(run, folder, figures=common.figures)
    for name in reports:
        for file in write_report(name, run, folder):
            screen.notice(f"{name}: {file}")
    show(run, screen, verbose=common.verbose)
    screen.advise(f"\nWritten to {folder}: run.json, values.csv, evidence.npz" + (", figures/" if figure_count else ""))
    screen.advise(f"Next: {following}")
    document, results = run.as_plain(), []
    if gate is not None:
        screen.advise("")
        results = apply_gate(run, gate, screen, str(folder))
        document["gate"] = [result.as_plain() for result in results]
    if common.json:
        screen.document(document)
    return all(result.passed for result in results)


def draw_and_write(run: Run, folder: Path, *, figures: bool) -> tuple[Run, int]:
    """Writes a run's files and figures; returns the run as written and the number of figures."""
    run = write(run, folder)
    if not figures:
        return run, 0
    from ccvae_eval.report.figures import draw_figures  # imports matplotlib, which help and --no-figures do not need

    return run, len(draw_figures(run, folder / "figures"))


def show(run: Run, screen: Screen, *, verbose: bool) -> None:
    """Prints header and tables: all values of a single metric, or one row per metric."""
    screen.show(terminal.header(run), "")
    if len(run.measurements) > 1:
        screen.show(terminal.summary(run))
    if len(run.measurements) == 1 or verbose:
        for m in run.measurements:
            if m.metric == "disentanglement" and m.status == "ok":
                screen.show("", panel_tables(run, m.metric, verbose=verbose, ascii_only=screen.ascii_only))
            else:
                screen.show("", terminal.metric_tables(run, m.metric, verbose=verbose))
    for m in run.measurements:
        if m.metric == "density" and m.pictures and (verbose or len(run.measurements) == 1):
            screen.show("", terminal.density_curves(m, ascii_only=screen.ascii_only))


def next_command(run: Run, checkpoint: str, common: Common) -> str:
    """The command to suggest after a run."""
    data = f" --data {common.data}" if common.data else ""
    if len(run.measurements) == 1 and not common.verbose:
        return f"ccvae-eval run {checkpoint}{data}"
    without_values = [m.metric for m in run.measurements if m.status != "ok"]
    return f"ccvae-eval explain {(without_values or [run.measurements[0].metric])[0]}"
