"""The options that several verbs share, and parsers of ``KEY=VALUE`` options."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from ccvae_eval.core.errors import UsageError
from ccvae_eval.plugins import registry
from ccvae_eval.report.text import argument_help

EVALUATION, OUTPUT, EXTENSION = "Evaluation", "Output", "Extension"


def _in(panel: str, help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


Data = Annotated[
    str | None,
    _in(EVALUATION, "Labelled images: faces, folder:PATH, mnist:PATH, npz:PATH. Default: $CCVAE_EVAL_DATA, else the "
        "checkpoint's training data, if they need no path.", "--data", "-d"),
]  # fmt: skip
LABEL_HELP = "Rename a label (NEW=OLD), merge exclusive labels (Hair=Black_Hair|Blond_Hair) or split one (*=Hair)."
Labels = Annotated[list[str] | None, _in(EVALUATION, LABEL_HELP, "--label")]
Out = Annotated[Path | None, _in(OUTPUT, "Folder to write to; default ./ccvae-eval/NAME-HASH.", "--out", "-o")]
Json = Annotated[bool, _in(OUTPUT, "Print one JSON document on stdout.", "--json")]
Quiet = Annotated[bool, _in(OUTPUT, "Show no progress and no hints.", "--quiet", "-q")]
Verbose = Annotated[bool, _in(OUTPUT, "Show one row for each characteristic.", "--verbose", "-v")]
Figures = Annotated[bool, _in(OUTPUT, "Write figures as PNG files.", "--figures/--no-figures")]
Reports = Annotated[list[str] | None, _in(OUTPUT, "Report plugin to write beside run.json; repeatable.", "--report")]
Device = Annotated[str, _in(EVALUATION, "auto, cpu, cuda, cuda:1 or mps.", "--device")]
Sample = Annotated[str | None, _in(EVALUATION, "Number of images, or 'all'; default: set by each metric.", "--sample")]
Limit = Annotated[
    int | None,
    _in(EVALUATION, "Use the first N images (of the split, if one is named) instead of a sample.", "--limit", min=1),
]
SplitName = Annotated[
    Literal["train", "judge", "test"] | None, _in(EVALUATION, "Split to evaluate; default: test.", "--split")
]
Seed = Annotated[int, _in(EVALUATION, "Random seed of the evaluation.", "--seed", min=0)]
BatchSize = Annotated[int, _in(EVALUATION, "Images per batch; does not affect results.", "--batch-size", min=1)]
Characteristic = Annotated[
    list[str] | None, _in(EVALUATION, "Evaluate only this characteristic; repeatable.", "--characteristic", "-c")
]
JudgeChoice = Annotated[
    str, _in(EVALUATION, "The judge (an independent attribute classifier): auto, none or a file.", "--judge")
]
Plugin = Annotated[
    list[Path] | None,
    _in(EXTENSION, "Python file with your own models, metrics or data; it is executed.", "--plugin"),
]
ModelName = Annotated[
    str | None, _in(EXTENSION, "Model or adapter to build, if the checkpoint does not name one.", "--model")
]
ModelSetting = Annotated[
    list[str] | None,
    _in(EXTENSION, "A setting or constructor argument of the model: KEY=VALUE. images.range=[-1,1] and "
        "images.logits=true describe its pixels.", "--set"),
]  # fmt: skip
Setting = Annotated[list[str] | None, _in(EVALUATION, "A setting of a metric: metric.key=value.", "--option")]
CacheDir = Annotated[Path | None, _in(EXTENSION, "Folder for cached judges and references.", "--cache-dir")]


@dataclass(frozen=True, slots=True)
class Common:
    """The options of every measuring verb."""

    data: Data = None
    label: Labels = None
    characteristic: Characteristic = None
    sample: Sample = None
    limit: Limit = None
    split: SplitName = None
    seed: Seed = 0
    device: Device = "auto"
    batch_size: BatchSize = 256
    judge: JudgeChoice = "auto"
    option: Setting = None
    out: Out = None
    json: Json = False
    verbose: Verbose = False
    quiet: Quiet = False
    figures: Figures = True
    report: Reports = None
    model: ModelName = None
    set: ModelSetting = None
    plugin: Plugin = None
    cache_dir: CacheDir = None


def add_plugins(files: Iterable[Path] | None) -> None:
    """Registers the plugins in the files of ``--plugin``."""
    for file in files or ():
        registry.add_plugin_file(file)


def set_parameters(command: Any, parameters: list[Parameter]) -> None:
    """Gives a command the signature that typer reads its arguments and options from."""
    command.__signature__ = Signature(parameters)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def annotated_parameters(kind: type) -> list[Parameter]:
    """Parameters of a command, one for each field of a dataclass whose annotations are options."""
    hints = get_type_hints(kind, include_extras=True)
    return [
        Parameter(
            f.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if f.default is MISSING else f.default,
            annotation=hints[f.name],
        )
        for f in fields(kind)
    ]


def field_parameters(kind: type, panel: str, *, without: tuple[str, ...] = ()) -> list[Parameter]:
    """Parameters of a command, one for each setting in a dataclass; help is taken from its docstring.

    Tuples become repeatable options.
    """
    hints, help_of = get_type_hints(kind), argument_help(kind)
    parameters = []
    for field in fields(kind):
        if field.name in without:
            continue
        hint: Any = hints[field.name]
        default: Any = field.default
        if get_origin(hint) is tuple:
            item: Any = get_args(hint)[0]
            hint, default = list[item], list(default)
        annotation = Annotated[hint, _in(panel, help_of.get(field.name, ""))]
        parameters.append(Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return parameters


def field_values(given: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Removes the named settings from a command's arguments and returns them; lists become tuples."""
    taken = {name: given.pop(name) for name in names}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in taken.items()}


def metric_options(given: list[str] | None) -> dict[str, dict[str, Any]]:
    """Parses ``--option metric.key=value``; a value that is not JSON is a string.

    >>> metric_options(["locality.steps=5", "drift.matcher=sift"])
    {'locality': {'steps': 5}, 'drift': {'matcher': 'sift'}}
    """
    found: dict[str, dict[str, Any]] = {}
    for text in given or []:
        address, equals, value = text.partition("=")
        metric, dot, key = address.partition(".")
        if not (equals and dot and key):
            raise UsageError(f"{text!r} is not a metric setting", where="--option", hint="Write metric.key=value.")
        found.setdefault(metric, {})[key] = _value(value)
    return found


def _value(text: str) -> Any:
    """Parses a value as JSON, lists as tuples; text that is not JSON stays a string."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else value


def sample_of(text: str | None) -> int | str | None:
    """Parses ``--sample``: a positive number or "all"."""
    if text is None or text == "all":
        return text
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--sample must be a positive number or 'all', got {text!r}")
    return int(text)


def assignments(given: list[str] | None, where: str) -> Mapping[str, Any]:
    """Parses a list of ``KEY=VALUE``; a value that is not JSON is a string."""
    found: dict[str, Any] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"{text!r} is not of the form KEY=VALUE", where=where)
        found[key] = _value(value)
    return found
