"""``run``: evaluate a checkpoint with several metrics in one pass."""

from __future__ import annotations

import sys
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


def command(
    checkpoint: CHECKPOINT,
    metric: Annotated[list[str] | None, METRIC] = None,
    every: Annotated[bool, ALL] = False,
    gate: Annotated[Path | None, GATE] = None,
    **given: Any,
) -> None:
    """Evaluate a checkpoint with several metrics in one pass.

    By default density, locality, drift, diversity, accuracy and reconstruction. Each image is encoded once, and
    metrics that need the same decoded image share it.
    """
    from ccvae_eval.evaluation.metric import default_metrics

    if metric and every:
        raise UsageError("--metric and --all exclude each other")
    common = Common(**given)
    add_plugins(common.plugin)
    names = _all_metrics() if every else list(metric or default_metrics())
    measure(checkpoint, names, common, gate_file=gate)


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
