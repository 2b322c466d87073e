"""The published schema of run.json (JSON Schema, draft 2020-12)."""

from __future__ import annotations

from typing import Any

from ccvae_eval.run.record import SCHEMA_VERSION

_TEXT = {"type": "string"}
_NUMBER = {"type": ["number", "null"], "description": "null = undefined"}
_COUNT = {"type": "integer", "minimum": 0}
_PLAIN: dict[str, Any] = {"type": "object"}


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required or list(properties)}


_VALUE = _object(
    {
        "name": _TEXT,
        "characteristic": {"type": ["string", "null"], "description": "null = the mean over characteristics"},
        "at": {"type": "object", "description": "what else the value depends on"},
        "value": _NUMBER,
        "low": _NUMBER,
        "high": _NUMBER,
        "n": _COUNT,
        "unit": _TEXT,
        "excluded": _COUNT,
        "chance": _NUMBER,
        "reference": _NUMBER,
        "higher_is_better": {"type": ["boolean", "null"]},
        "range": {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2},
        "interval_method": _TEXT,
        "note": _TEXT,
        "in_mean": {"type": "boolean", "description": "whether the mean over characteristics is of this row too"},
    }
)

_MEASUREMENT = _object(
    {
        "metric": _TEXT,
        "version": {"type": "integer", "minimum": 1},
        "profile": _TEXT,
        "settings": _PLAIN,
        "status": {"enum": ["ok", "undefined", "unsupported", "failed"]},
        "reason": {"anyOf": [{"type": "null"}, _object({"code": _TEXT, "text": _TEXT})]},
        "headline": _TEXT,
        "values": {"type": "array", "items": _VALUE},
        "notes": {"type": "array", "items": _TEXT},
        "seconds": {"type": "number", "minimum": 0},
    }
)

_MAYBE_PLAIN = {"type": ["object", "null"]}

RUN_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A run of ccvae-eval",
    **_object(
        {
            "schema_version": {"const": SCHEMA_VERSION},
            "tool": _object({"name": _TEXT, "version": _TEXT}),
            "environment": _PLAIN,
            "checkpoint": _object({"path": {}, "sha256": {}, "format": {}, "model": {}, "settings": _PLAIN}),
            "training": _MAYBE_PLAIN,
            "data": _object({"name": _TEXT, "digest": _TEXT, "n": _COUNT, "labels": {"type": "array"}, "split": _TEXT}),
            "judge": _MAYBE_PLAIN,
            "regions": _PLAIN,
            "seed": {"type": "integer"},
            "command": _TEXT,
            "started": _TEXT,
            "warnings": {"type": "array", "items": _TEXT},
            "measurements": {"type": "array", "items": _MEASUREMENT},
            "evidence": {"anyOf": [{"type": "null"}, _object({"file": _TEXT, "sha256": _TEXT})]},
        }
    ),
}
