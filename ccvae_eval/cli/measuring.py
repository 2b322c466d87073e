"""The command of each metric, and the steps of every evaluation: set up, plan, measure, write, print."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ccvae_eval.cli import VERBS, options
from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.gate import GATE_FAILED, apply_gate
from ccvae_eval.cli.options import Common, add_plugins
from ccvae_eval.core.errors import StopRequest
from ccvae_eval.core.files import slug
from ccvae_eval.plugins import registry
from ccvae_eval.rendering.text import with_interval

if TYPE_CHECKING:  # a command's help needs none of the steps of an evaluation
    from ccvae_eval.api import Runner
    from ccvae_eval.comparison.gate import Gate
    from ccvae_eval.core.results import Measurement
    from ccvae_eval.evaluation.metric import Metric
    from ccvae_eval.evaluation.plan import Plan
    from ccvae_eval.evaluation.run import Run

CHECKPOINT = Annotated[str, typer.Argument(help="The checkpoint to evaluate.", show_default=False)]
SOME_FAILED = 4
PANEL = "disentanglement"


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
    """``--out``, else a new folder ``./runs/<stem>-<hash8>``; the hash is of checkpoint, data and seed."""
    if out is not None:
        return out
    path = run.header.checkpoint.get("path") or run.header.data.get("name")
    stem = slug(Path(str(path)).stem) if path else "model"
    return options.new_folder(stem, run.header.checkpoint.get("sha256"), run.header.data, run.header.seed)


def evaluation_arguments(
    checkpoint: str,
    metrics: Sequence[str | Metric],
    common: Common,
    screen: Screen,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Arguments of :func:`ccvae_eval.api.plan` and :func:`ccvae_eval.api.evaluate` that the options give."""
    from ccvae_eval.checkpoint import open_checkpoint

    opened = open_checkpoint(checkpoint, model=common.model, settings=options.assignments(common.set, "--set"))
    # these import torch, which the refusal of a file does not need
    from ccvae_eval.api import data_of
    from ccvae_eval.data.labels.relabel import relabelled

    data = relabelled(data_of(common.data, opened), common.label) if common.label else common.data
    return {
        "model": opened, "data": data, "metrics": metrics, "options": settings, "split": common.split,
        "sample": options.sample_of(common.sample), "limit": common.limit, "seed": common.seed,
        "device": common.device, "precision": common.precision, "batch_size": common.batch_size,
        "characteristics": common.characteristic, "by": common.by,
        "judge": common.judge, "cache_dir": common.cache_dir, "metric_timeout": common.metric_timeout,
        "command": options.command_line("--out"),
        "notice": screen.notice, "stage": screen.stage,
    }  # fmt: skip


def plan_shown(screen: Screen) -> Callable[[Plan], None]:
    """Prints a plan as a notice."""

    def show(plan: Plan) -> None:
        from ccvae_eval.report.terminal import plan_line

        screen.notice(f"plan: {plan_line(plan)}")

    return show


def ended_shown(screen: Screen) -> Callable[[Measurement], None]:
    """Prints the headline value of each metric that ends with a number, as a notice."""

    def show(measurement: Measurement) -> None:
        from ccvae_eval.rendering.tables import headline_of

        value = headline_of(measurement)
        if measurement.status == "ok" and value is not None and value.estimate.defined:
            screen.notice(f"{measurement.metric}.{value.name} {with_interval(value.estimate)}")

    return show


def measure(
    checkpoint: str,
    metrics: Sequence[str],
    common: Common,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    gate_file: Path | None = None,
    runner: Runner | None = None,
) -> None:
    """Evaluates a checkpoint and shows the run; exits with code 1 if its gate failed, 4 if a metric failed.

    Args:
        checkpoint: path of the checkpoint.
        metrics: names of the metrics.
        common: the options that all evaluating commands share.
        settings: settings of metrics, by metric name; ``--option`` takes precedence over them.
        gate_file: requirements that the run must meet.
        runner: as of :func:`ccvae_eval.api.evaluate`.
    """
    gate = None
    if gate_file is not None:
        from ccvae_eval.comparison.gate import read_gate

        gate = read_gate(gate_file)
    settings = valid_settings(metrics, common, settings)
    with Screen(as_json=common.json, quiet=common.quiet) as screen:
        screen.notice(f"opening {checkpoint}")
        arguments = evaluation_arguments(checkpoint, metrics, common, screen, settings)
        from ccvae_eval.api import evaluate, plan

        if common.dry_run:
            return show_plan(plan(**arguments, train=False), screen)
        from ccvae_eval.evaluation.storage import write

        folders: list[Path] = []

        def early(run: Run) -> None:
            """Writes the built-in metrics, since a third-party metric can end the process."""
            folders.append(output_folder(common.out, run))
            write(run, folders[0])

        # a runner of its own has decoded the images before
        arguments |= {"on_plan": plan_shown(screen)} if runner is None else {"runner": runner}
        if runner is None and common.width is None:  # otherwise a run is not written before it is complete
            arguments["early"] = early
        try:
            run = evaluate(
                **arguments, width=common.width, gallery=common.page, pairs=options.pairs_of(common.pad),
                working=screen.progress.working, ended=ended_shown(screen) if len(metrics) > 1 else None,
            )  # fmt: skip
        except StopRequest:
            what = f"the built-in metrics are in {folders[0]}" if folders else "no results were written"
            screen.notice(f"Stopped: {what}. A judge that was trained is kept in the cache. Repeat the command.")
            raise
        folder = folders[0] if folders else output_folder(common.out, run)
        following = next_command(run, checkpoint, common)
        passed = publish(run, folder, screen, common, following, common.report or (), gate)
    if not passed:
        raise SystemExit(GATE_FAILED)
    if run.failed:
        raise SystemExit(SOME_FAILED)


def show_plan(plan: Plan, screen: Screen) -> None:
    """Prints the plan of an evaluation, with the time estimated from two of its batches."""
    from ccvae_eval.evaluation.runner import estimated_seconds
    from ccvae_eval.report import terminal

    seconds = estimated_seconds(plan)
    screen.show(terminal.dry_run(plan, seconds))
    if screen.as_json:
        images = {part.metric.name: len(part.subject) for part in plan.parts}
        found = {"encode": plan.encode, "decode": plan.decode, "images": images}
        screen.document({**found, "judge": terminal.judge_line(plan), "seconds": round(seconds, 1)})


def valid_settings(
    metrics: Sequence[str], common: Common, settings: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Mapping[str, Any]]:
    """The settings of the metrics; refuses invalid options, before the checkpoint is opened and torch is imported."""
    from ccvae_eval.evaluation.metric import metrics_with

    found = dict(settings or {})
    for name, overrides in options.metric_options(common.option).items():
        found[name] = {**found.get(name, {}), **overrides}
    require_valid(common)
    for name in metrics:
        registry.metrics.find(name)
    if any(found.values()):  # else the classes of the metrics are imported after the checkpoint is accepted
        metrics_with(found, metrics)
    return found


def require_valid(common: Common) -> None:
    """Adds the plugins and refuses invalid options, before the checkpoint is opened and torch is imported."""
    add_plugins(common.plugin)
    for name in common.report or []:
        registry.reports.find(name)
    options.sample_of(common.sample)
    options.pairs_of(common.pad)
    options.assignments(common.set, "--set")
    options.require_inputs(common.data, common.judge)
    options.claim_folder(None if common.dry_run else common.out, force=common.force)


def publish(
    run: Run,
    folder: Path,
    screen: Screen,
    common: Common,
    following: str,
    reports: Iterable[str] = (),
    gate: Gate | None = None,
) -> bool:
    """Writes a run's files and reports, prints its tables, and suggests the following command.

    Returns:
        False if the run does not meet the gate.
    """
    from ccvae_eval.evaluation.storage import write
    from ccvae_eval.report.interface import write_report

    run = write(run, folder)
    show(run, screen, verbose=common.verbose)
    try:
        made = draw(run, folder, figures=common.figures, page=common.page)  # takes seconds, so the numbers come first
        for name in reports:
            for file in write_report(name, run, folder):
                screen.notice(f"{name}: {file}")
    except StopRequest:
        screen.notice(f"Stopped: the run in {folder} is complete. ccvae-eval report {folder} writes its report.")
        raise
    screen.written(folder, made)
    screen.advise(f"Next: {following}")
    results, document = [], document_of(run)
    if gate is not None:
        screen.advise("")
        results = apply_gate(run, gate, screen, str(folder))
        document["gate"] = [result.as_plain() for result in results]
    if common.json:
        screen.document(document)
    return all(result.passed for result in results)


def document_of(run: Run) -> dict[str, Any]:
    """The document of ``--json``: run.json, and the findings of the checks."""
    from ccvae_eval.report.checks import findings

    return {**run.as_plain(), "checks": [finding.as_plain() for finding in findings(run)]}


def draw(run: Run, folder: Path, *, figures: bool, page: bool) -> list[str]:
    """Writes the figures and the page of a run that is in its folder; returns the names of all files of the run."""
    from ccvae_eval.evaluation.storage import EVIDENCE_FILE, PICTURES_FILE, RUN_FILE, VALUES_FILE, read

    made = [name for name in (RUN_FILE, VALUES_FILE, EVIDENCE_FILE, PICTURES_FILE) if (folder / name).is_file()]
    if figures:
        from ccvae_eval.report.figures import draw_figures  # imports matplotlib, which help does not need

        made += ["figures/"] * bool(draw_figures(run, folder / "figures"))
    if page:
        from ccvae_eval.report.page import PAGE, write_page  # imports jinja2

        # images are stored with a small loss: the page shows the stored ones, as a later `report RUN` does
        write_page(read(folder), folder)
        made.append(PAGE)
    return made


def show(run: Run, screen: Screen, *, verbose: bool) -> None:
    """Prints header and tables: all values of a single metric, or one row per metric."""
    from ccvae_eval.report import terminal
    from ccvae_eval.report.views import check_lines

    screen.show(terminal.header(run))
    if len(run.measurements) > 1:
        screen.show("", terminal.summary(run), "", *terminal.sentences(run))
    else:
        screen.show("", *terminal.problem_lines(run))
    if len(run.measurements) == 1 or verbose:
        for m in run.measurements:
            screen.show("", terminal.tables(run, m.metric, verbose=verbose, ascii_only=screen.ascii_only))
    if lines := check_lines(run):
        screen.show("", *lines)


def next_command(run: Run, checkpoint: str, common: Common) -> str:
    """The command to suggest after a run: the same one with all remedies, then trainings; else the next step.

    The scores of codes are suggested after a complete run, and always if no latent dimension belongs to a label.
    A model of unknown training that reconstructs no image is looked at first.
    """
    from ccvae_eval.evaluation.remedies import combined_commands
    from ccvae_eval.evaluation.result_table import ASSIGNED, UNASSIGNED
    from ccvae_eval.report.checks import UNLIKE, findings

    def opening(verb: str, **more: Sequence[str | None] | None) -> str:
        named = ["ccvae-eval", verb, checkpoint]
        for name, values in {**more, "model": [common.model], "set": common.set, "plugin": common.plugin}.items():
            for value in filter(None, values or ()):
                named += [f"--{name}", str(value)]
        return shlex.join(named)

    def evaluating(verb: str) -> str:
        return opening(verb, data=[common.data], rename=common.label, by=[common.by])

    if run.header.training is None and any(f.check.code == UNLIKE for f in findings(run)):
        return opening("inspect")
    found = combined_commands(run.measurements, lambda given: f"{options.command_line(without=given)} {given}")
    notes = {note for m in run for v in m.values for note in re.split("; |: ", v.note)}
    has_panel = PANEL in (m.metric for m in run)
    if {ASSIGNED, UNASSIGNED} & notes and not has_panel:
        found = [line for line in found if not line.startswith("ccvae-eval explain")] + [evaluating(PANEL)]
    if found:
        return "\nThen: ".join(found)
    if len(run.measurements) == 1 and not common.verbose:
        return evaluating("run")
    if not has_panel:
        return evaluating(PANEL)
    return f"ccvae-eval explain {run.measurements[0].metric}"
