"""From the words ``name[,key=value]...`` to a matcher with those settings."""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass
from typing import Any, cast

from ccvae_eval.blame import blamed, is_ours
from ccvae_eval.errors import CcvaeEvalError, PluginError, UsageError, suggestion
from ccvae_eval.metrics.matchers.contract import Matcher, Matches
from ccvae_eval.registry import matchers
from ccvae_eval.types import Images

_SETTING = re.compile(r",(?=[A-Za-z_][A-Za-z0-9_]*=)")


class Watched:
    """A stranger's matcher: what fails in it names it."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self.name, self.bounded = matcher.name, matcher.bounded

    @property
    def search(self) -> float:
        return self._matcher.search

    @property
    def guard(self) -> float:
        return self._matcher.guard

    def features(self, images: Images) -> Any:
        with blamed(self._matcher, "matcher", f"features(images), images of shape {tuple(images.shape)}"):
            return self._matcher.features(images)

    def match(self, first: Any, second: Any) -> Matches:
        with blamed(self._matcher, "matcher", "match(first, second)"):
            return self._matcher.match(first, second)


def matcher_named(text: str) -> Matcher:
    """A registered matcher, with some of its settings changed; a comma belongs to a value unless ``key=`` follows it.

    Raises:
        UsageError: an unknown name or setting, or a value of another type.

    >>> matcher_named("sift,ratio=0.8").ratio
    0.8
    """
    name, *parts = _SETTING.split(text)
    kind: Any = matchers[name]
    if not is_dataclass(kind):
        raise PluginError(
            f"{name!r} is no matcher",
            where=matchers.find(name).distribution,
            why="it is no dataclass of settings",
            hint="`ccvae-eval new matcher NAME` writes one to start from.",
        )
    known = {field.name: field.type for field in fields(kind)}
    settings: dict[str, Any] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key not in known:
            raise UsageError(f"{name} has no setting {key!r}", where=text, hint=suggestion(key, known))
        settings[key] = value if known[key] in (str, "str") else _number(value, key, text)
    try:
        matcher: Matcher = matchers[name](**settings)
    except CcvaeEvalError:
        raise
    except Exception as error:
        where = f"{matchers.find(name).distribution} {matchers.find(name).version}".strip()
        why = f"{type(error).__name__}: {error}"
        hint = f"`ccvae-eval check {name} --kind matcher` tries the matcher alone."
        raise PluginError(f"matcher {name!r} cannot be made", where=where, why=why, hint=hint) from error
    return matcher if is_ours(matcher) else cast("Matcher", Watched(matcher))


def _number(value: str, key: str, where: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        raise UsageError(f"{key}={value} is no number", where=where) from None
