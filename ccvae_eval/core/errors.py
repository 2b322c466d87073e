"""Every error that this toolkit raises on purpose.

Each says *what* went wrong, *where* (file, member, option, plugin), *why*, and *hint*: what to do about it. The
command line turns one into a message and an exit code; a library user catches ``CcvaeEvalError``.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class CcvaeEvalError(Exception):
    """The root of the deliberate errors.

    Args:
        what: what went wrong, one sentence without a full stop.
        where: the file, option, metric or plugin it happened in.
        why: the cause, if ``what`` does not say it all.
        hint: what the user can do.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 5

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.hint = what, where, why, hint

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        cause = f" ({self.why})" if self.why else ""
        advice = f"\n{self.hint}" if self.hint else ""
        return f"{place}{self.what}{cause}{advice}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.why, self.hint)

    def as_plain(self) -> dict[str, str]:
        """The error as the JSON document of a failed command."""
        return {"code": self.code, "what": self.what, "where": self.where, "why": self.why, "hint": self.hint}


def _rebuild(kind: type[CcvaeEvalError], what: str, where: str, why: str, hint: str) -> CcvaeEvalError:
    return kind(what, where=where, why=why, hint=hint)


class UsageError(CcvaeEvalError):
    """An unknown name or option, or options that do not go together."""

    code = "usage"
    exit_code = 2


class InputError(CcvaeEvalError):
    """A file, folder or array that cannot be used as it is."""

    code = "input"
    exit_code = 3


class CheckpointError(InputError):
    """A checkpoint that is refused or unreadable."""

    code = "checkpoint"


class DataError(InputError):
    """Images or labels that are refused or unreadable."""

    code = "data"


class LabelMismatchError(DataError):
    """The data's labels and the model's do not meet."""

    code = "labels"


class PluginError(CcvaeEvalError):
    """Code of a plugin failed or broke its contract; names the plugin and its distribution."""

    code = "plugin"
    exit_code = 4


class UnsupportedError(CcvaeEvalError):
    """A metric asked for a capability that this model or data set does not have. The metric's status becomes
    ``unsupported``; nothing has failed."""

    code = "unsupported"
    exit_code = 0


class UndefinedError(CcvaeEvalError):
    """A value that does not exist for these data (a label that is never positive, say). Its status becomes
    ``undefined``; it is never 0."""

    code = "undefined"
    exit_code = 0


class NonFiniteError(CcvaeEvalError):
    """A network gave NaN or infinity."""

    code = "nan"
    exit_code = 4


def suggestion(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the nearest of the known names, or all of them where none is near.

    >>> suggestion("localty", ["locality", "drift"])
    "Did you mean 'locality'?"
    >>> suggestion("xyz", ["locality", "drift"])
    'Known: drift, locality.'
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"Known: {', '.join(names)}." if names else "None is known."


class ContractBroken(AssertionError):
    """A model, data set or metric does not keep what its protocol says. The message names who, and what to keep."""


def require(kept: bool, who: str, what: str) -> None:
    """Raises unless the contract is kept.

    >>> require(True, "density", "has a docstring")
    >>> require(False, "density", "has a docstring")
    Traceback (most recent call last):
    ...
    ccvae_eval.core.errors.ContractBroken: density: broken contract: has a docstring
    """
    if not kept:
        raise ContractBroken(f"{who}: broken contract: {what}")
