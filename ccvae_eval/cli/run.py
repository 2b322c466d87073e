"""``run``: evaluate a checkpoint with several metrics in one pass."""

from __future__ import annotations

import sys
from inspect import Parameter
from typing import Annotated, Any

import typer

from ccvae_eval.api import DEFAULT_METRICS, metric_named
from ccvae_eval.cli.measuring import CHECKPOINT, measure
from ccvae_eval.cli.options import EVALUATION, Common, add_plugins, annotated_parameters, set_parameters
from ccvae_eval.core.errors import PluginError, UsageError
from ccvae_eval.plugins import registry
from ccvae_eval.report.text import plain

METRIC = Annotated[
    list[str] | None,
    typer.Option("--metric", "-m", help="Compute only this metric; repeatable.", rich_help_panel=EVALUATION),
]
ALL = Annotated[bool, typer.Option("--all", help="Compute every registered metric.", rich_help_panel=EVALUATION)]


def command(checkpoint: str, metric: list[str] | None = None, every: bool = False, **given: Any) -> None:
    """Evaluate a checkpoint with several metrics in one pass.

    By default density, locality, drift, diversity, accuracy and reconstruction. Each image is encoded once, and
    metrics that need the same decoded image share it.
    """
    if metric and every:
        raise UsageError("--metric and --all exclude each other")
    common = Common(**given)
    add_plugins(common.plugin)
    names = _all_metrics() if every else list(metric or DEFAULT_METRICS)
    measure(checkpoint, names, common)


def _all_metrics() -> list[str]:
    """The names of all registered metrics; a plugin that cannot be loaded is skipped with a notice on stderr."""
    names = []
    for entry in registry.metrics.registrations():
        try:
            metric_named(entry.qualified)
        except PluginError as error:
            sys.stderr.write(f"skipped: {plain(str(error))}\n")
        else:
            names.append(entry.name)
    return list(dict.fromkeys(names))


_PARAMETERS = [
    Parameter("checkpoint", Parameter.POSITIONAL_OR_KEYWORD, annotation=CHECKPOINT),
    Parameter("metric", Parameter.KEYWORD_ONLY, default=None, annotation=METRIC),
    Parameter("every", Parameter.KEYWORD_ONLY, default=False, annotation=ALL),
    *annotated_parameters(Common),
]
set_parameters(command, _PARAMETERS)
