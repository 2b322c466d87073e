"""From the words ``name[,key=value]...`` to a matcher with those settings."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import Any

from ccvae_eval.errors import UsageError, suggestion
from ccvae_eval.metrics.matchers.contract import Matcher
from ccvae_eval.registry import matchers

_SETTING = re.compile(r",(?=[A-Za-z_][A-Za-z0-9_]*=)")


def matcher_named(text: str) -> Matcher:
    """A registered matcher, with some of its settings changed; a comma belongs to a value unless ``key=`` follows it.

    Raises:
        UsageError: an unknown name or setting, or a value of another type.

    >>> matcher_named("sift,ratio=0.8").ratio
    0.8
    """
    name, *parts = _SETTING.split(text)
    kind: Any = matchers[name]
    known = {field.name: field.type for field in fields(kind)}
    settings: dict[str, Any] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key not in known:
            raise UsageError(f"{name} has no setting {key!r}", where=text, hint=suggestion(key, known))
        settings[key] = value if known[key] in (str, "str") else _number(value, key, text)
    matcher: Matcher = kind(**settings)
    return matcher


def _number(value: str, key: str, where: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        raise UsageError(f"{key}={value} is no number", where=where) from None
