"""``run``: evaluate a checkpoint with several metrics in one pass."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from ccvae_eval.cli.measuring import CHECKPOINT, measure
from ccvae_eval.cli.options import (
    EVALUATION,
    OUTPUT,
    Common,
    add_options,
    add_plugins,
    option_in,
    options_of,
    registered,
)
from ccvae_eval.core.errors import PluginError, UsageError
from ccvae_eval.plugins import registry
from ccvae_eval.rendering.text import plain

METRIC_HELP = "Compute only this metric; repeatable."
METRIC = option_in(EVALUATION, METRIC_HELP, "--metric", "-m", autocompletion=registered("metrics"))
ALL = option_in(EVALUATION, "Compute every registered metric.", "--all")
GATE = option_in(OUTPUT, "TOML file of requirements, as of the gate command; exit code 1 if one is not met.", "--gate")
BLOCKS_HELP = "I/N: measure only the I-th of N shares of the images; ccvae-eval merge joins the shares."
BLOCKS = option_in(EVALUATION, BLOCKS_HELP, "--blocks", metavar="I/N")


def command(
    checkpoint: CHECKPOINT,
    metric: Annotated[list[str] | None, METRIC] = None,
    every: Annotated[bool, ALL] = False,
    gate: Annotated[Path | None, GATE] = None,
    blocks: Annotated[str | None, BLOCKS] = None,
    **given: Any,
) -> None:
    """Evaluate a checkpoint with several metrics in one pass.

    By default density, measurement, locality, drift, diversity, accuracy and reconstruction. Each image is encoded
    once, and metrics that need the same decoded image share it.
    """
    common = Common(**given)
    names = metric_names(metric, common, every=every)
    if blocks is None:
        measure(checkpoint, names, common, gate_file=gate)
    elif gate is not None or common.report:
        raise UsageError("a share of a run has no values yet", where="--blocks", hint="Give this option to merge.")
    elif common.width is not None:
        raise UsageError("--blocks and --width exclude each other")
    else:
        from ccvae_eval.cli.merge import measure_share

        measure_share(checkpoint, names, common, blocks)


def metric_names(metric: Sequence[str] | None, common: Common, *, every: bool) -> list[str]:
    """The names of the metrics that the options select; registers the plugins first."""
    from ccvae_eval.evaluation.metric import default_metrics

    if metric and every:
        raise UsageError("--metric and --all exclude each other")
    add_plugins(common.plugin)
    return _all_metrics() if every else list(metric or default_metrics())


def _all_metrics() -> list[str]:
    """The names of all registered metrics; a plugin that cannot be loaded is skipped with a notice on stderr."""
    from ccvae_eval.evaluation.metric import metric_named

    names = []
    for entry in registry.metrics.registrations():
        try:
            metric_named(entry.qualified)
        except PluginError as error:
            sys.stderr.write(f"skipped: {plain(str(error))}\n")
        else:
            names.append(entry.name)
    return list(dict.fromkeys(names))


add_options(command, options_of(Common))
