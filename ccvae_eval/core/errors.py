"""The deliberate errors of the toolkit.

Each error carries ``what`` (the problem), ``where`` (file, member, option, plugin), ``why`` (the cause) and ``hint``
(the remedy). The command line turns an error into a message and an exit code; in Python, catch ``CcvaeEvalError``.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from types import FrameType
from typing import Any, ClassVar

ARGUMENTS = {
    "--sample": "sample", "--limit": "limit", "--split": "split", "--judge": "judge", "--data": "data",
    "--device": "device", "--batch-size": "batch_size", "--labels": "characteristics", "--cache-dir": "cache_dir",
    "--seed": "seed", "--width": "width", "--set": "settings", "--option": "options", "--model": "model",
    "--plugin": "plugins", "--metric-timeout": "metric_timeout", "--precision": "precision",
    "--rename": "data", "--by": "by",
}  # fmt: skip
"""Arguments of ``evaluate`` and ``load`` that correspond to options of the command line."""
_OPTION = re.compile(
    rf"ccvae-eval [^\n]*|(?P<option>{'|'.join(ARGUMENTS)})(?![\w-])"
    r"(?: (?P<value>'[^']*'|\d+\b|(?:all|auto|none|full|test|bf16|float32)\b|[A-Za-z]\w*:[^\s;)]*[^\s;),.]"
    r"|[A-Z]+\b(?![,=])|[A-Z]\w*(?:,\w+)*|\w+(?:\.\w+)*=(?:\[[^]]*\]|\w+)))?"
)
"""An option with its value, if what follows has the form of one."""


def python_words(text: str) -> str:
    """The text with arguments of Python in place of the options of the command line, except those of a command.

    >>> python_words("--sample 640 --labels A,B --judge auto"), python_words("--limit must be at least 1")
    ("sample=640 characteristics=['A', 'B'] judge='auto'", '`limit` must be at least 1')
    >>> python_words("state it: --set images.range=[-1,1]")
    "state it: settings={'images.range': [-1, 1]}"
    >>> python_words("--rename 'Hair=Hair_Color' renames")
    "data='NAME:PATH,label=Hair=Hair_Color' renames"
    """
    return _OPTION.sub(_as_argument, text)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _as_argument(found: re.Match[str]) -> str:
    option, value = found["option"], found["value"]
    if option is None:
        return found[0]
    name = ARGUMENTS[option]
    if value is None and option == "--rename":
        return "label=NEW=OLD in `data`"
    if value is None:
        return f"`{name}`"
    value = value.strip("'")
    if option in ("--set", "--option"):
        key, _, text = value.partition("=")
        metric, _, setting = key.partition(".")
        given = {metric: {setting: _value(text)}} if option == "--option" else {key: _value(text)}
        return f"{name}={given}"
    if option == "--rename":
        return f"{name}='NAME:PATH,label={value}'"
    if option == "--labels":
        return f"{name}={value.split(',')}"
    shown = value if value.isdigit() or value.isupper() else repr(value)
    return f"{name}=[{shown}]" if option == "--plugin" else f"{name}={shown}"


class CcvaeEvalError(Exception):
    """Base class of the deliberate errors.

    As text it names the options of the command line inside of a command, else the arguments of Python.

    Args:
        what: the problem, one sentence without a full stop.
        where: the file, option, metric or plugin.
        why: the cause, unless ``what`` already says it.
        hint: the remedy.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 5
    in_command: ClassVar[bool] = False
    """True while a command runs."""

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.hint = what, where, why, hint

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        cause = f" ({self.why})" if self.why else ""
        advice = f"\n{self.hint}" if self.hint else ""
        text = f"{place}{self.what}{cause}{advice}"
        return text if self.in_command else python_words(text)

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), where=self.where, why=self.why, hint=self.hint), (self.what,)

    def as_plain(self) -> dict[str, str]:
        """Returns the error as the JSON document of a failed command."""
        return {"code": self.code, "what": self.what, "where": self.where, "why": self.why, "hint": self.hint}


class UsageError(CcvaeEvalError):
    """An unknown name or option, or options that contradict each other."""

    code, exit_code = "usage", 2


class InputError(CcvaeEvalError):
    """A file, folder or array that cannot be used as it is."""

    code, exit_code = "input", 3


class CheckpointError(InputError):
    """A checkpoint that is refused or unreadable."""

    code = "checkpoint"


class DataError(InputError):
    """Images or labels that are refused or unreadable."""

    code = "data"


class LabelMismatchError(DataError):
    """Labels or shapes of the data that do not match the model's."""

    code = "labels"


class PluginError(CcvaeEvalError):
    """Code of a plugin failed or broke its interface; the error names the plugin and its distribution."""

    code, exit_code = "plugin", 4


class UnsupportedError(CcvaeEvalError):
    """A capability that a metric needs and this model or data set lacks. The metric's status becomes ``unsupported``;
    the run has not failed."""

    code, exit_code = "unsupported", 0


class UndefinedError(CcvaeEvalError):
    """A value that does not exist for these data, such as the ROC area of a label that is never positive. Its status
    becomes ``undefined``; the value is NaN, never 0."""

    code, exit_code = "undefined", 0


class NonFiniteError(CcvaeEvalError):
    """A network returned NaN or infinity."""

    code, exit_code = "nan", 4


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Signals that ask a command to stop: Ctrl-C, batch systems, a lost connection."""


def handle_stop_signals(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Installs a handler of the stop signals. Signals that are ignored, as under ``nohup``, stay so.

    Returns:
        The earlier handlers.
    """
    heeded = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heeded}


class StopRequest(BaseException):
    """A signal asked this process to stop. Not a ``KeyboardInterrupt``, which typer ends without a word.

    Args:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 130 if number == signal.SIGINT else 143


def is_stop_request(error: BaseException) -> bool:
    """True if an exception comes from a signal, not from the code that runs.

    Python's own handler of Ctrl-C, which programs and notebooks use, raises what code may raise too.
    """
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(error, StopRequest) or (isinstance(error, KeyboardInterrupt) and default)


def is_memory_error(error: BaseException) -> bool:
    """True if memory ran out, on the CPU or on a GPU."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's, without importing it


def optional_module(name: str, extra: str, *, where: str, error: type[CcvaeEvalError], instead: str = "") -> Any:
    """A module of a package that an extra of ``ccvae-eval`` installs.

    Args:
        name: the module, such as ``pyarrow.parquet``.
        extra: name of the extra.
        where: the file or option that needs it.
        error: class of the error.
        instead: what else the user can do, added to the hint.

    Raises:
        CcvaeEvalError: of class ``error``: the package is not installed; the hint names the extra.
    """
    package = name.partition(".")[0]
    try:
        import_module(package)
        return import_module(name)
    except ImportError:
        hint = f"pip install 'ccvae-eval[{extra}]'{instead}"
        raise error(f"needs the package {package}, which is not installed", where=where, hint=hint) from None


def listed(names: Iterable[str], most: int = 8) -> str:
    """The first names, and how many more there are.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    names = list(names)
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def closest(name: str, known: Iterable[str]) -> str:
    """The known name that is most similar to a name; "" if none is similar."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, sorted(known), n=1, cutoff=0.6)), "")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Returns a sentence that suggests the closest known name, or lists all of them if none is close.

    >>> suggestion("localty", ["locality", "drift"])
    "Did you mean 'locality'?"
    >>> suggestion("xyz", ["locality", "drift"])
    'Known: drift, locality.'
    """
    names = sorted(known)
    if close := closest(name, names):
        return f"Did you mean '{close}'?"
    return f"Known: {', '.join(names)}." if names else "There are none to choose from."


class ContractBroken(AssertionError):
    """A plugin violates a rule of its interface. The message names the plugin and the rule."""


def require(condition: bool, plugin: str, rule: str) -> None:
    """Raises ``ContractBroken`` unless a rule of an interface holds.

    >>> require(True, "density", "has a docstring")
    >>> require(False, "density", "has a docstring")
    Traceback (most recent call last):
    ...
    ccvae_eval.core.errors.ContractBroken: density: broken contract: has a docstring
    """
    if not condition:
        raise ContractBroken(f"{plugin}: broken contract: {rule}")
