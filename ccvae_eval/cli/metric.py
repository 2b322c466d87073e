"""The verbs that measure one metric; their options are the metric's own fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter, Signature
from typing import Annotated, Any

import typer

from ccvae_eval import registry
from ccvae_eval.cli.measuring import measure
from ccvae_eval.cli.options import Common, annotated_parameters, field_parameters, field_values
from ccvae_eval.cli.verbs import VERBS

CHECKPOINT = Annotated[str, typer.Argument(help="The checkpoint to measure.", show_default=False)]


def command(name: str) -> Callable[..., None]:
    """The command of one metric, its options made from the fields of the metric's dataclass."""
    kind = registry.metrics[name]
    own = [f.name for f in fields(kind)]

    def measure_one(checkpoint: str, **given: Any) -> None:
        settings = field_values(given, own)
        measure(checkpoint, [name], Common(**given), {name: settings})

    parameters = [
        Parameter("checkpoint", Parameter.POSITIONAL_OR_KEYWORD, annotation=CHECKPOINT),
        *field_parameters(kind, f"Settings of {name}"),
        *annotated_parameters(Common),
    ]
    measure_one.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    measure_one.__annotations__ = {p.name: p.annotation for p in parameters}
    measure_one.__doc__ = VERBS[name].summary + f"\n\nccvae-eval explain {name} says what the numbers mean."
    return measure_one
