"""``run``: several metrics in one pass."""

from __future__ import annotations

import sys
from inspect import Parameter, Signature
from typing import Annotated, Any

import typer

from ccvae_eval.api import CARD, metric_named
from ccvae_eval.cli.measuring import measure
from ccvae_eval.cli.options import EVALUATION, Common, annotated_parameters
from ccvae_eval.core.errors import PluginError, UsageError
from ccvae_eval.plugins import registry
from ccvae_eval.report.text import plain

CHECKPOINT = Annotated[str, typer.Argument(help="The checkpoint to measure.", show_default=False)]
METRIC = Annotated[
    list[str] | None, typer.Option("--metric", "-m", help="This metric; repeatable.", rich_help_panel=EVALUATION)
]
ALL = Annotated[bool, typer.Option("--all", help="Every registered metric.", rich_help_panel=EVALUATION)]


def command(checkpoint: str, metric: list[str] | None = None, every: bool = False, **given: Any) -> None:
    """Measure a checkpoint by several metrics in one pass.

    By default density, locality, drift, diversity, accuracy and reconstruction: the images are encoded once, decodings
    are shared.
    """
    if metric and every:
        raise UsageError("--metric and --all do not go together")
    common = Common(**given)
    for file in common.plugin or []:
        registry.add_plugin_file(file)
    names = _every() if every else list(metric or CARD)
    measure(checkpoint, names, common)


def _every() -> list[str]:
    """All registered metrics; one of a stranger that is broken is left out and named on stderr."""
    names = []
    for entry in registry.metrics.registrations():
        try:
            metric_named(entry.qualified)
        except PluginError as error:
            sys.stderr.write(f"left out: {plain(str(error))}\n")
        else:
            names.append(entry.name)
    return list(dict.fromkeys(names))


_PARAMETERS = [
    Parameter("checkpoint", Parameter.POSITIONAL_OR_KEYWORD, annotation=CHECKPOINT),
    Parameter("metric", Parameter.KEYWORD_ONLY, default=None, annotation=METRIC),
    Parameter("every", Parameter.KEYWORD_ONLY, default=False, annotation=ALL),
    *annotated_parameters(Common),
]
command.__signature__ = Signature(_PARAMETERS)  # type: ignore[attr-defined]
command.__annotations__ = {p.name: p.annotation for p in _PARAMETERS}
