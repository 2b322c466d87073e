"""``merge``: join the shares that ``run --blocks`` has measured; and the measuring of a share."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ccvae_eval.cli import GIVEN, options
from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.main import load_command
from ccvae_eval.cli.measuring import (
    SOME_FAILED,
    evaluation_arguments,
    measure,
    plan_shown,
    show_plan,
    valid_settings,
)
from ccvae_eval.cli.options import Common, add_options, options_of
from ccvae_eval.cli.run import GATE, metric_names
from ccvae_eval.core.files import slug

OF_MERGE = frozenset(
    {
        "device", "batch_size", "out", "force", "json", "verbose", "quiet", "figures", "report", "page", "pad",
        "plugin", "cache_dir",
    }
)  # fmt: skip
"""Options of an evaluation that ``merge`` has; the others are those of the shares."""
SHARES = typer.Argument(help="Folders of the shares.", show_default=False)


def command(shares: Annotated[list[Path], SHARES], gate: Annotated[Path | None, GATE] = None, **given: Any) -> None:
    """Join the shares of a run that several processes have measured.

    Each process has measured some blocks of the images, with ccvae-eval run CKPT --blocks I/N --out DIR. The result is
    an ordinary run, whose numbers have the bits of one process. Checkpoint and data must be where they were. Plugins
    are named again with --plugin, because a file of a share never executes code.
    """
    from ccvae_eval.evaluation.shares import merged, read_shares

    found = read_shares(shares)
    # the command that measured the first share, without its output
    GIVEN.set(tuple(found[0].description.arguments))
    arguments = shlex.split(options.command_line("--blocks"))[1:]
    GIVEN.set(tuple(arguments))
    asked = load_command("run").make_context("run", arguments[1:]).params
    names = {field.name for field in fields(Common)} - OF_MERGE
    common = replace(Common(**given), **{name: _given(asked[name]) for name in names})
    metrics = metric_names(_given(asked["metric"]), common, every=asked["every"])
    runner = partial(merged, found, model_settings=common.set or ())
    measure(asked["checkpoint"], metrics, common, gate_file=gate, runner=runner)


def _given(value: Any) -> Any:
    """The value of an option as a command receives it: a list, None if it is empty."""
    return (list(value) or None) if isinstance(value, list | tuple) else value


def measure_share(checkpoint: str, metrics: Sequence[str], common: Common, blocks: str) -> None:
    """Measures a share of the images and writes its state, or shows its plan; exits with code 4 if a metric failed.

    Args:
        checkpoint, metrics, common: as of :func:`~ccvae_eval.cli.measuring.measure`.
        blocks: I/N, the number of the share and that of all shares.
    """
    from ccvae_eval.sweep.cells import parse_shard

    share = parse_shard(blocks, {}, "--blocks")
    settings = valid_settings(metrics, common)
    with Screen(as_json=common.json, quiet=common.quiet) as screen:
        screen.notice(f"opening {checkpoint}")
        arguments = evaluation_arguments(checkpoint, metrics, common, screen, settings)
        from ccvae_eval.api import plan
        from ccvae_eval.evaluation.runner import update
        from ccvae_eval.evaluation.shares import identity, require_mergeable, write_share

        planned = replace(plan(**arguments, train=not common.dry_run), share=share)
        require_mergeable(planned)
        if common.dry_run:
            return show_plan(planned, screen)
        plan_shown(screen)(planned)
        update(planned, partial(screen.stage, "measure"), screen.progress.working)
        name = f"{slug(Path(checkpoint).stem)}-shares"
        folder = common.out or options.default_folder(name, identity(planned, common.set or ()))
        given = [argument for argument in GIVEN.get() if argument != "--debug"]
        file = write_share(planned, folder, given, common.set or ())
        measured = [part.measurement for part in planned.parts if part.measurement is not None]
        failed = {m.metric: m.reason.text for m in measured if m.status == "failed" and m.reason is not None}
        for metric, reason in failed.items():
            screen.notice(f"{metric} failed: {reason}")
        screen.advise(f"Written to {file}")
        screen.advise(f"Next: ccvae-eval merge {shlex.quote(str(folder))}, when all {share[1]} shares are there")
        if common.json:
            screen.document({"share": str(file), "failed": failed})
    if failed:
        raise SystemExit(SOME_FAILED)


add_options(command, [option for option in options_of(Common) if option.name in OF_MERGE])
