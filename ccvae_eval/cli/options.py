"""The options that several verbs share, and parsers of ``KEY=VALUE`` options."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from hashlib import sha256
from inspect import Parameter, Signature, signature
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from ccvae_eval.cli import GIVEN
from ccvae_eval.core.devices import require_device_name
from ccvae_eval.core.errors import InputError, UsageError
from ccvae_eval.core.typed import load_json
from ccvae_eval.plugins import registry
from ccvae_eval.rendering.text import argument_help

EVALUATION, OUTPUT, EXTENSION = "Evaluation", "Output", "Extension"


def option_in(panel: str, help: str, *names: str, **more: Any) -> Any:
    """An option in a panel of the help; without names it is named after its parameter."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def registered(group: str, *more: str) -> Any:
    """Completion of the names registered in a group, and of ``more``; imports no plugin."""

    def names(incomplete: str) -> list[str]:
        return [name for name in [*registry.Registry(group), *more] if name.startswith(incomplete)]

    return names


def metric_settings(incomplete: str) -> list[str]:
    """Completion of ``metric.key=value`` up to the equals sign; imports the metric that is named."""
    name, dot, _ = incomplete.partition(".")
    if not dot:
        return [f"{name}." for name in registered("metrics")(incomplete)]
    settings = fields(registry.metrics[name]) if name in registry.metrics else ()
    return [text for field in settings if (text := f"{name}.{field.name}=").startswith(incomplete)]


def _device_name(name: str) -> str:
    require_device_name(name)
    return name


LABEL_HELP = "Rename a label (NEW=OLD), merge exclusive labels (Hair=Black_Hair|Blond_Hair) or split one (*=Hair)."
Labels = Annotated[list[str] | None, option_in(EVALUATION, LABEL_HELP, "--rename")]
Out = Annotated[Path | None, option_in(OUTPUT, "Folder to write to; default: a new one in ./runs.", "--out", "-o")]
Force = Annotated[bool, option_in(OUTPUT, "Write into a folder that already contains files.", "--force")]
Overwrite = Annotated[bool, option_in(OUTPUT, "Overwrite an existing file.", "--force")]
Json = Annotated[bool, option_in(OUTPUT, "Print one JSON document on stdout.", "--json")]
Quiet = Annotated[bool, option_in(OUTPUT, "Show no progress and no hints.", "--quiet", "-q")]
Seed = Annotated[int, option_in(EVALUATION, "Random seed of the evaluation.", min=0)]
JUDGE_HELP = (
    "The judge (an independent attribute classifier): auto, full (trained on every label of the data), none or a file."
)
JudgeChoice = Annotated[str, option_in(EVALUATION, JUDGE_HELP)]
PLUGIN_HELP = "Python file with your own models, metrics or data; it is executed."
Plugin = Annotated[list[Path] | None, option_in(EXTENSION, PLUGIN_HELP)]
ModelName = Annotated[
    str | None,
    option_in(
        EXTENSION,
        "Model or adapter to build, if the checkpoint does not name one.",
        "--model",
        autocompletion=lambda incomplete: registered("models", *registry.adapters)(incomplete),
    ),
]
ModelSetting = Annotated[
    list[str] | None,
    option_in(EXTENSION, "A setting or constructor argument of the model: KEY=VALUE. images.range=[-1,1] and "
        "images.logits=true describe its pixels.", "--set"),
]  # fmt: skip
SETTING_HELP = "A setting of a metric: metric.key=value."
Setting = Annotated[list[str] | None, option_in(EVALUATION, SETTING_HELP, "--option", autocompletion=metric_settings)]
Device = Annotated[
    str,
    option_in(
        EVALUATION,
        "Device: auto, cpu, cuda, cuda:1 or mps.",
        callback=_device_name,
        autocompletion=lambda incomplete: [n for n in ("auto", "cpu", "cuda", "mps") if n.startswith(incomplete)],
    ),
]
CacheDir = Annotated[Path | None, option_in(EXTENSION, "Folder for cached judges and references.")]
DATA_HELP = (
    "Labelled images: faces, folder:PATH, mnist:PATH, npz:PATH. Default: $CCVAE_EVAL_DATA, else the checkpoint's "
    "training data, if they need no path."
)
PAD_HELP = (
    "Two binary labels that the report moves at once; repeatable. Default: the two pairs with the strongest leak."
)
WIDTH_HELP = (
    "Look at more and more of the images, up to --sample, until the interval of every headline value is at most this "
    "wide."
)
DRY_RUN_HELP = "Print the plan and the estimated time; measure nothing and write nothing."
TIMEOUT_HELP = "Seconds that each metric may take, without encoding and shared decoding; default: no limit."
PRECISION_HELP = "Arithmetic of encoder and decoder; bf16 (bfloat16) is faster on a GPU and changes the third digit."
BY_HELP = (
    "Show the values by class of this label too, with the worst class and the gap: is the model worse for one group?"
)
LIMIT_HELP = "Use the first N images (of the split, if one is named) instead of a sample."


@dataclass(frozen=True, slots=True)
class Common:
    """The options of every measuring verb."""

    data: Annotated[str | None, option_in(EVALUATION, DATA_HELP, "--data", "-d", autocompletion=registered("data"))] = (
        None
    )
    label: Labels = None
    characteristic: Annotated[
        list[str] | None,
        option_in(EVALUATION, "Evaluate only these labels: A,B.", "--labels", "--characteristic", "-c"),
    ] = None
    by: Annotated[str | None, option_in(EVALUATION, BY_HELP, metavar="LABEL")] = None
    sample: Annotated[str | None, option_in(EVALUATION, "Number of images or 'all'; default: set by the metric.")] = (
        None
    )
    limit: Annotated[int | None, option_in(EVALUATION, LIMIT_HELP, min=1)] = None
    split: Annotated[
        Literal["train", "judge", "test"] | None, option_in(EVALUATION, "Split to evaluate; default: test.")
    ] = None
    width: Annotated[float | None, option_in(EVALUATION, WIDTH_HELP, min=0)] = None
    dry_run: Annotated[bool, option_in(EVALUATION, DRY_RUN_HELP, "--dry-run")] = False
    seed: Seed = 0
    device: Device = "auto"
    batch_size: Annotated[int, option_in(EVALUATION, "Images per batch; does not affect results.", min=1)] = 256
    precision: Annotated[Literal["float32", "bf16"], option_in(EVALUATION, PRECISION_HELP)] = "float32"
    judge: JudgeChoice = "auto"
    option: Setting = None
    out: Out = None
    force: Force = False
    json: Json = False
    verbose: Annotated[bool, option_in(OUTPUT, "Show one row for each characteristic.", "--verbose", "-v")] = False
    quiet: Quiet = False
    figures: Annotated[bool, option_in(OUTPUT, "Write figures as PNG files.")] = True
    report: Annotated[
        list[str] | None,
        option_in(OUTPUT, "Report plugin to write beside run.json; repeatable.", autocompletion=registered("reports")),
    ] = None
    page: Annotated[bool, option_in(OUTPUT, "Write the report or the comparison as one HTML file.")] = True
    pad: Annotated[list[str] | None, option_in(OUTPUT, PAD_HELP, metavar="A,B")] = None
    model: ModelName = None
    set: ModelSetting = None
    plugin: Plugin = None
    cache_dir: CacheDir = None
    metric_timeout: Annotated[float | None, option_in(EVALUATION, TIMEOUT_HELP, min=0.1)] = None


SINGLE = ("width", "dry_run")
"""Options that only a single evaluation has."""


def add_plugins(files: Iterable[Path] | None) -> None:
    """Registers the plugins in the files of ``--plugin``."""
    for file in files or ():
        registry.add_plugin_file(file)


def require_inputs(data: str | None = None, judge: str | None = None) -> None:
    """Refuses an unknown data set or an unusable judge file, before torch is imported."""
    from ccvae_eval.checkpoint import read_bundle
    from ccvae_eval.data.spec import registered_spec

    if data:
        registered_spec(data)
    if judge not in (None, "auto", "full", "none"):
        read_bundle(judge)


OTHER_NAMES = {"-o": "--out", "-d": "--data", "-c": "--labels", "--characteristic": "--labels", "--label": "--rename"}
"""Other names of the options that :func:`command_line` leaves out."""


def command_line(without: str = "") -> str:
    """The command as it was given, for a shell; without the output folder and the options in ``without``, if any."""
    given = list(GIVEN.get())
    if without:
        dropped = {"--out", "--force", *(part for part in shlex.split(without) if part.startswith("--"))}
        if "--data" in dropped:  # the other data have the new names of the labels
            dropped.add("--rename")
        parts, given = iter(given), []
        for part in parts:
            name, equals, _ = part.partition("=")
            if part[:2] in OTHER_NAMES and len(part) > 2 and not part.startswith("--"):  # the value is attached: -oDIR
                name, equals = part[:2], part[2:]
            if OTHER_NAMES.get(name, name) not in dropped:
                given.append(part)
            elif not equals and name != "--force":
                next(parts, None)
    return shlex.join(["ccvae-eval", *given])


def default_folder(name: str, *identity: object) -> Path:
    """The folder ``./runs/NAME-HASH``, with a hash of what identifies the result."""
    return Path("runs") / f"{name}-{sha256(repr(identity).encode()).hexdigest()[:8]}"


def new_folder(name: str, *identity: object) -> Path:
    """The first of ``./runs/NAME-HASH``, ``./runs/NAME-HASH-2``, ... that does not exist."""
    return free_folder(default_folder(name, *identity))


def free_folder(place: Path) -> Path:
    """The first of FOLDER, FOLDER-2, FOLDER-3, ... that does not exist."""
    numbered = (place.with_name(f"{place.name}-{number}") for number in count(2))
    return place if not place.exists() else next(folder for folder in numbered if not folder.exists())


RUN_FILES = ("run.json", "values.csv", "evidence.npz", "pictures.npz", "report.html")
"""Files that a run writes into its folder, beside the folder of its figures."""


RESULTS = ("run.json", "share-*-of-*.npz", "sweep.json")
"""Files by which a folder of a run, of its shares or of a sweep is known."""


def claim_folder(out: Path | None, *, force: bool) -> None:
    """Creates the output folder, before anything is computed.

    Raises:
        InputError: it is a file or cannot be created.
            A file of a run is there as a pipe, a device or a folder, or the folder of the figures is a link.
        UsageError: it holds a run or other files already, and ``force`` is False.
    """
    from ccvae_eval.core.files import make_folder, require_folder, require_place

    if out is None:
        return
    if out.is_file():
        raise InputError("this is a file, but --out needs a folder", where=str(out))
    if (out / "run.json").exists() and not force:
        raise UsageError("the folder already contains a run", where=str(out), hint="Name another one, or add --force.")
    require_folder(out)
    make_folder(out)
    foreign = any(not file.name.startswith(".") for file in out.iterdir())
    if foreign and not force and not any(next(out.glob(name), None) for name in RESULTS):
        hint = "Name another one, or add --force."
        raise UsageError("the folder contains files that are not a run", where=str(out), hint=hint)
    for name in RUN_FILES:
        require_place(out / name)
    require_place(out / "figures", folder=True)


def require_new(file: Path | None, *, force: bool) -> None:
    """Refuses an output file that exists already, before anything is computed.

    Raises:
        InputError: a pipe, a device or a folder is there.
        UsageError: a file is there, and ``force`` is False.
    """
    from ccvae_eval.core.files import require_place

    if file is None:
        return
    require_place(file)
    if file.exists() and not force:
        hint = "--force overwrites it; --out names another file."
        raise UsageError("the file exists already", where=str(file), hint=hint)


def add_options(command: Any, more: Iterable[Parameter]) -> None:
    """Gives a command further options in place of ``**given``; typer reads them from the signature."""
    hints = get_type_hints(command, include_extras=True)
    own = [p for p in signature(command).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    command.__signature__ = Signature([*(p.replace(annotation=hints[p.name]) for p in own), *more])
    command.__annotations__ = {p.name: p.annotation for p in command.__signature__.parameters.values()}


def options_of(kind: type) -> list[Parameter]:
    """One option for each field of a dataclass whose annotations are options."""
    hints = get_type_hints(kind, include_extras=True)
    defaults = {f.name: Parameter.empty if f.default is MISSING else f.default for f in fields(kind)}
    return [_option(name, default, hints[name]) for name, default in defaults.items()]


def _option(name: str, default: Any, annotation: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def setting_options(
    kind: type, panel: str, *, without: tuple[str, ...] = (), names: Mapping[str, str] = MappingProxyType({})
) -> list[Parameter]:
    """One option for each setting in a dataclass, with help from its docstring; tuples become repeatable options.

    ``names`` has the options whose name is not that of the setting.
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
        name = [names[field.name]] if field.name in names else []
        text = help_of.get(field.name, "")
        annotation = Annotated[hint, option_in(panel, text[:1].upper() + text[1:], *name)]
        parameters.append(_option(field.name, default, annotation))
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
    for address, value in assignments(given, "--option").items():
        metric, _, key = address.partition(".")
        if not key:
            raise UsageError(f"{address!r} is not a metric setting", where="--option", hint="Write metric.key=value.")
        found.setdefault(metric, {})[key] = value
    return found


def _value(text: str) -> Any:
    """Parses a value as JSON, lists as tuples; text that is not JSON stays a string."""
    try:
        value = load_json(text.encode(errors="surrogatepass"))
    except InputError:
        return text
    return tuple(value) if isinstance(value, list) else value


def sample_of(text: str | None) -> int | str | None:
    """Parses ``--sample``: a positive number or "all"."""
    from ccvae_eval.data.spec import sample_size

    count = sample_size(text, "--sample")
    return text if count is None else count


def pairs_of(given: list[str] | None) -> list[tuple[str, str]] | None:
    """Parses ``--pad``: each is two names with a comma between them; None = not given."""
    found = []
    for text in given or ():
        names = [name.strip() for name in text.split(",")]
        if len(names) != 2 or not all(names):
            raise UsageError(f"{text!r} is not of the form A,B", where="--pad")
        found.append((names[0], names[1]))
    return found or None


def assignments(given: list[str] | None, where: str) -> Mapping[str, Any]:
    """Parses a list of ``KEY=VALUE``; a value that is not JSON is a string."""
    found: dict[str, Any] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"{text!r} is not of the form KEY=VALUE", where=where)
        found[key] = _value(value)
    return found
