"""The options that the verbs share, each written once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from ccvae_eval.core.errors import UsageError
from ccvae_eval.report.text import argument_help

EVALUATION, OUTPUT, EXTENSION = "Evaluation", "Output", "Extension"


def _in(panel: str, help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


Data = Annotated[
    str | None,
    _in(EVALUATION, "Labelled images: faces, folder:PATH, mnist:PATH, npz:PATH. Default: $CCVAE_EVAL_DATA, else what "
        "the checkpoint was trained on, if that needs no path.", "--data", "-d"),
]  # fmt: skip
LABEL_HELP = "Rename a label (A=b), join exclusive ones (Hair=Black_Hair|Blond_Hair) or split one (*=Hair)."
Labels = Annotated[list[str] | None, _in(EVALUATION, LABEL_HELP, "--label")]
Out = Annotated[Path | None, _in(OUTPUT, "Folder to write to; default ./ccvae-eval/NAME-HASH.", "--out", "-o")]
Json = Annotated[bool, _in(OUTPUT, "Print exactly one JSON document on stdout.", "--json")]
Quiet = Annotated[bool, _in(OUTPUT, "No progress and no advice.", "--quiet", "-q")]
Verbose = Annotated[bool, _in(OUTPUT, "One row for each characteristic.", "--verbose", "-v")]
Figures = Annotated[bool, _in(OUTPUT, "Draw figures as PNG.", "--figures/--no-figures")]
Reports = Annotated[
    list[str] | None, _in(OUTPUT, "A report that a plugin writes beside run.json; repeatable.", "--report")
]
Device = Annotated[str, _in(EVALUATION, "auto, cpu, cuda, cuda:1 or mps.", "--device")]
Sample = Annotated[str | None, _in(EVALUATION, "How many images, or 'all'; default: each metric's own.", "--sample")]
Limit = Annotated[
    int | None,
    _in(EVALUATION, "The first N images, of the split if one is named, instead of a sample.", "--limit", min=1),
]
SplitName = Annotated[
    Literal["train", "judge", "test"] | None, _in(EVALUATION, "Which images; default: test.", "--split")
]
Seed = Annotated[int, _in(EVALUATION, "The evaluation's seed.", "--seed", min=0)]
BatchSize = Annotated[int, _in(EVALUATION, "Images in flight; no number depends on it.", "--batch-size", min=1)]
Characteristic = Annotated[
    list[str] | None, _in(EVALUATION, "Only this characteristic; repeatable.", "--characteristic", "-c")
]
JudgeChoice = Annotated[str, _in(EVALUATION, "The independent classifier: auto, none or a file.", "--judge")]
Plugin = Annotated[
    list[Path] | None, _in(EXTENSION, "A Python file with models, metrics or data of yours; it is run.", "--plugin")
]
ModelName = Annotated[
    str | None, _in(EXTENSION, "The model or adapter to build, where the checkpoint names none.", "--model")
]
ModelSetting = Annotated[
    list[str] | None,
    _in(EXTENSION, "A setting or constructor argument of the model: KEY=VALUE. images.range=[-1,1] and "
        "images.logits=true are about its pixels.", "--set"),
]  # fmt: skip
Setting = Annotated[list[str] | None, _in(EVALUATION, "A metric's setting: metric.key=value.", "--option")]
CacheDir = Annotated[Path | None, _in(EXTENSION, "Where judges and references are kept.", "--cache-dir")]


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


def annotated_parameters(kind: type) -> list[Parameter]:
    """The fields of a dataclass whose annotations are options, as parameters of a command's function."""
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
    """The fields of a dataclass of settings as options, their help from its docstring; tuples are repeatable."""
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
    """Takes the settings out of a command's arguments; lists become tuples."""
    taken = {name: given.pop(name) for name in names}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in taken.items()}


def metric_options(given: list[str] | None) -> dict[str, dict[str, Any]]:
    """Reads ``--option metric.key=value``; a value is JSON where it can be, else a string.

    >>> metric_options(["locality.steps=5", "drift.matcher=sift"])
    {'locality': {'steps': 5}, 'drift': {'matcher': 'sift'}}
    """
    found: dict[str, dict[str, Any]] = {}
    for text in given or []:
        address, equals, value = text.partition("=")
        metric, dot, key = address.partition(".")
        if not (equals and dot and key):
            raise UsageError(f"{text!r} is no option", where="--option", hint="Write metric.key=value.")
        found.setdefault(metric, {})[key] = _value(value)
    return found


def _value(text: str) -> Any:
    """A value as JSON has it, a list as a tuple; what is no JSON is a string."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else value


def sample_of(text: str | None) -> int | str | None:
    """``--sample``: a positive number, or "all"."""
    if text is None or text == "all":
        return text
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--sample {text!r} is no number of images", hint="A positive number, or 'all'.")
    return int(text)


def assignments(given: list[str] | None, where: str) -> Mapping[str, Any]:
    """Reads a list of ``KEY=VALUE``; a value is JSON where it can be, else a string."""
    found: dict[str, Any] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"{text!r} is no KEY=VALUE", where=where)
        found[key] = _value(value)
    return found
