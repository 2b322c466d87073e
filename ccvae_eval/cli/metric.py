"""The verbs that measure one metric; their options are the metric's own fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter, Signature
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from ccvae_eval import registry
from ccvae_eval.cli.measuring import measure
from ccvae_eval.cli.options import Common, common_parameters
from ccvae_eval.cli.verbs import VERBS
from ccvae_eval.evaluation import metric_named
from ccvae_eval.report.docstrings import argument_help

CHECKPOINT = Annotated[str, typer.Argument(help="The checkpoint to measure.", show_default=False)]


def command(name: str) -> Callable[..., None]:
    """The command of one metric, its options made from the fields of the metric's dataclass."""
    kind = registry.metrics[name]
    own = [f.name for f in fields(kind)]

    def measure_one(checkpoint: str, **given: Any) -> None:
        settings = {key: _setting(given.pop(key)) for key in own}
        measure(checkpoint, [metric_named(name, settings)], Common(**given))

    parameters = [
        Parameter("checkpoint", Parameter.POSITIONAL_OR_KEYWORD, annotation=CHECKPOINT),
        *_own_parameters(kind, name),
        *common_parameters(),
    ]
    measure_one.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    measure_one.__annotations__ = {p.name: p.annotation for p in parameters}
    measure_one.__doc__ = VERBS[name].summary + f"\n\nccvae-eval explain {name} says what the numbers mean."
    return measure_one


def _own_parameters(kind: type, name: str) -> list[Parameter]:
    hints, help_of = get_type_hints(kind), argument_help(kind)
    parameters = []
    for field in fields(kind):
        option = typer.Option(help=help_of.get(field.name, ""), rich_help_panel=f"Settings of {name}")
        annotation = Annotated[_typer_type(hints[field.name]), option]
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        parameters.append(Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return parameters


def _typer_type(hint: Any) -> Any:
    """Tuples become repeatable options; everything else is what it is."""
    return list[get_args(hint)[0]] if get_origin(hint) is tuple else hint  # type: ignore[misc]


def _setting(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
