"""Plain data (JSON, TOML, options) and the dataclasses that describe them.

The fields of a dataclass state types and ranges once. :func:`read` builds the dataclass from untrusted plain data,
:func:`plain` is its inverse, :func:`check` validates an instance that Python code made, and :func:`schema` returns the
JSON schema. :func:`load_json` and :func:`load_toml` parse files within limits.

Fields have the types bool, int, float, str, ``Any`` (not checked), ``Literal``, ``X | Y``, tuple, list, frozenset,
``Mapping[str, X]`` and dataclasses. ``Annotated`` adds a :class:`Range`, :class:`NullIsNan`, :class:`Keys`, or a
description for the schema. The metadata ``{"key": name}`` of a field give it another name in plain data; with the name
"" the value of this only field stands for the whole dataclass.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from ccvae_eval.core.errors import CcvaeEvalError, InputError, UsageError, suggestion
from ccvae_eval.core.files import read_regular_file

T = TypeVar("T")
LONGEST_SHOWN = 60
_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a string", NoneType: "null"}
_JSON_NAMES = {bool: "boolean", int: "integer", float: "number", str: "string", NoneType: "null"}
_WORDS = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}
_LISTS = (tuple, list, frozenset)
_PART = r"""(?:[\w-]++|"(?:\\.|[^"\\\n]){0,100}+"|'[^'\n]*+')"""
"""A part of a dotted key of TOML."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number. NaN lies outside every bound.

    Args:
        least, most: the least and the greatest value.
        above, below: bounds that are not values themselves; ``below=math.inf`` = finite.

    >>> str(Range(least=3)), str(Range(least=0, most=1)), str(Range(above=0, below=math.inf))
    ('at least 3', 'from 0 to 1', 'above 0 and finite')
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"from {self.least} to {self.most}"
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        words = [f"{word} {bound}" for word, bound in bounds.items() if bound is not None]
        return " and ".join(words).replace("below inf", "finite")

    def schema(self) -> dict[str, Any]:
        """The bounds as keywords of JSON schema."""
        names = {"minimum": self.least, "maximum": self.most, "exclusiveMinimum": self.above,
                 "exclusiveMaximum": self.below}  # fmt: skip
        return {name: bound for name, bound in names.items() if bound is not None and bound < math.inf}


class NullIsNan:
    """Annotation of a float that is NaN in Python and null in plain data: an undefined value."""

    def schema(self) -> dict[str, Any]:
        """The type in JSON schema."""
        return {"type": ["number", "null"], "description": "null = undefined"}


class Keys:
    """Keys that a mapping has in every complete file, and the types of their values.

    :func:`read` checks the types of the keys that a file has, and requires none of them.
    """

    def __init__(self, **kinds: Any) -> None:
        self.kinds = kinds

    def schema(self) -> dict[str, Any]:
        """The keys as keywords of JSON schema."""
        return {"properties": {key: schema(kind) for key, kind in self.kinds.items()}, "required": list(self.kinds)}


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a file.

    Args:
        size: bytes.
        depth: levels of nesting.
        entries: keys and elements, counted as the characters ``, [ { =`` of the file.
        text: characters of a string.
        bits: bits of an integer.
        finite: False to accept NaN and infinities, as Python's json writes them.
    """

    size: int = 1 << 20
    depth: int = 32
    entries: int = 1 << 18
    text: int = 1 << 20
    bits: int = 128
    finite: bool = True


class _Fault(Exception):
    """A fault in plain data; every level that it passes adds its key to the path."""

    def __init__(self, what: str, hint: str = "", path: str = "") -> None:
        self.what, self.hint, self.path = what, hint, path

    def inside(self, key: str | int) -> _Fault:
        step = key if isinstance(key, str) and key.isidentifier() and len(key) <= LONGEST_SHOWN else f"[{shown(key)}]"
        self.path = f"{step}{self.path if self.path[:1] in ('', '[') else '.' + self.path}"
        return self

    def __str__(self) -> str:
        return f"{self.path}{self.what}".removeprefix(": ").strip()


def shown(value: object) -> str:
    """A value in an error message, in the words of JSON and at most 60 characters long.

    >>> shown(True), shown("a b"), shown([1, 2]), shown(None)
    ('true', "'a b'", 'a list', 'null')
    """
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Mapping) or is_dataclass(value):
        return "an object"
    if isinstance(value, list | tuple | Set):
        return "a list"
    if isinstance(value, str):
        return repr(value if len(value) <= LONGEST_SHOWN else value[: LONGEST_SHOWN - 1] + "…")
    if isinstance(value, Real):
        return str(value) if not isinstance(value, int) or value.bit_length() <= 256 else "an integer of many digits"
    return f"a value of type {type(value).__name__}"


def _wrong(wanted: str, value: object, hint: str = "") -> _Fault:
    return _Fault(f" must be {wanted}, got {shown(value)}", hint)


def _either(words: Sequence[str]) -> str:
    """The alternatives of a message.

    >>> _either(["a", "b", "c"])
    'a, b or c'
    """
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


class _Mode(NamedTuple):
    """The arguments ``words`` and ``extra`` of :func:`read`."""

    words: bool = False
    extra: bool = False


Converter = Callable[[Any, _Mode], Any]


class _Field(NamedTuple):
    name: str
    hint: Any
    convert: Converter
    required: bool


@cache
def _fields(kind: Any) -> dict[str, _Field]:
    """The fields of a dataclass by their keys in plain data."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        f.metadata.get("key", f.name): _Field(
            f.name, hints[f.name], _converter(hints[f.name]), f.default is f.default_factory is MISSING
        )
        for f in fields(kind)
    }


@cache
def _converter(hint: Any) -> Converter:
    """The function that converts a plain value to a type, or raises a ``_Fault``."""
    kind: Any = get_origin(hint) or hint
    args = get_args(hint)
    if hint is Any:
        return lambda value, _: value
    if kind is Annotated:
        return _annotated(args[0], args[1:])
    if kind is Literal:
        return _literal(args)
    if kind in (Union, UnionType):
        return _union(args)
    if is_dataclass(kind):
        return lambda value, mode: _build(kind, value, mode, {})
    if kind in _LISTS:
        return _listed(kind, args)
    if kind in (Mapping, dict):
        return _mapping(_converter(args[1]))
    return _scalar(kind)


def _annotated(hint: Any, marks: tuple[Any, ...]) -> Converter:
    convert, ranges = _converter(hint), [mark for mark in marks if isinstance(mark, Range)]
    nullable = any(isinstance(mark, NullIsNan) for mark in marks)
    known = {key: _converter(kind) for mark in marks if isinstance(mark, Keys) for key, kind in mark.kinds.items()}

    def converted(value: Any, mode: _Mode) -> Any:
        if value is None and nullable:
            return math.nan
        found = convert(value, mode)
        for bounds in ranges:
            if found not in bounds:
                raise _wrong(str(bounds), found)
        for key in known.keys() & found.keys() if known else ():
            try:
                known[key](found[key], mode)
            except _Fault as fault:
                raise fault.inside(key) from None
        return found

    return converted


def _literal(choices: tuple[Any, ...]) -> Converter:
    def converted(value: Any, _: _Mode) -> Any:
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return choice
        hint = suggestion(value, choices) if isinstance(value, str) and len(choices) > 2 else ""
        raise _wrong(_either([shown(choice) for choice in choices]), value, hint if "Did" in hint else "")

    return converted


def _union(kinds: tuple[Any, ...]) -> Converter:
    converters = {kind: _converter(kind) for kind in kinds}
    names = [_NAMES[kind] for kind in kinds if kind in _NAMES and kind is not NoneType]

    def converted(value: Any, mode: _Mode) -> Any:
        if type(value) in converters:  # 1.0 stays a float where an integer is possible too
            return converters[type(value)](value, mode)
        faults = []
        for kind, convert in converters.items():
            try:
                return convert(value, mode)
            except _Fault as fault:
                faults += [fault] if kind not in _NAMES else []
        raise faults[0] if faults else _wrong(_either(names), value)

    return converted


def _listed(build: Any, args: tuple[Any, ...]) -> Converter:
    fixed = build is tuple and (len(args) != 2 or args[1] is not Ellipsis)
    converters = [_converter(arg) for arg in args if arg is not Ellipsis]

    def converted(value: Any, mode: _Mode) -> Any:
        if not isinstance(value, list | tuple | Set):
            raise _wrong("a list", value)
        if fixed and len(value) != len(converters):
            raise _Fault(f" must have {len(converters)} elements, got {len(value)}")
        each = converters if fixed else converters * len(value)
        found = []
        for index, item in enumerate(value):
            try:
                found.append(each[index](item, mode))
            except _Fault as fault:
                raise fault.inside(index) from None
        return build(found)

    return converted


def _mapping(convert: Converter) -> Converter:
    def converted(value: Any, mode: _Mode) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong("an object", value)
        found = {}
        for key, item in value.items():
            try:
                found[str(key)] = convert(item, mode)
            except _Fault as fault:
                raise fault.inside(str(key)) from None
        return found

    return converted


def _scalar(kind: Any) -> Converter:
    def converted(value: Any, mode: _Mode) -> Any:
        if type(value) is kind:
            return value
        if mode.words:
            value = _from_words(value, kind)
        if kind is float and isinstance(value, Real) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:
                raise _wrong("a number", value) from None
        if kind is int and isinstance(value, Integral | float) and not isinstance(value, bool) and value == value // 1:
            return int(value)
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
        raise _wrong(_NAMES.get(kind, f"a {kind.__name__}"), value)

    return converted


def _from_words(value: Any, kind: Any) -> Any:
    """Text of an option as the type that a setting has; anything else unchanged."""
    try:
        if isinstance(value, str):
            if kind is bool:
                return _WORDS.get(value.lower(), value)
            return kind(value) if kind in (int, float) else value
        return str(value) if kind is str and isinstance(value, int | float) else value
    except ValueError:
        return value


def _build(kind: Any, value: Any, mode: _Mode, given: Mapping[str, Any]) -> Any:
    """A dataclass from plain data."""
    known = _fields(kind)
    if isinstance(value, kind):
        return value
    if "" in known:
        value = {"": value}
    if not isinstance(value, Mapping):
        raise _wrong("an object", value)
    found = dict(given)
    known = {key: field for key, field in known.items() if field.name not in given}
    for key in value:
        if key not in known and not mode.extra:
            raise _Fault(" is unknown", suggestion(str(key), known)).inside(str(key))
    for key, field in known.items():
        try:
            if key in value:
                found[field.name] = field.convert(value[key], mode)
            elif field.required:
                raise _Fault(" is missing")
        except _Fault as fault:
            raise (fault.inside(key) if key else fault) from None
    try:
        return kind(**found)
    except CcvaeEvalError as error:
        raise _Fault(f": {error.what}", error.hint) from error


def read(
    kind: type[T],
    value: Any,
    where: str = "",
    *,
    error: type[CcvaeEvalError] = InputError,
    words: bool = False,
    extra: bool = False,
    **given: Any,
) -> T:
    """Builds a value of a type from plain data.

    Args:
        kind: a dataclass, or another type that a field may have.
        value: None, bool, int, float, str, and lists and mappings of these.
        where: the file, option or object that the data come from, for errors.
        error: class of the errors.
        words: True for options, where text such as "8" and "off" may stand for a number or a truth value.
        extra: True to ignore unknown keys, as in a file of a newer version.
        given: fields that the data cannot set.

    Raises:
        CcvaeEvalError: of class ``error``: a key is missing or unknown, or a value has another type or range. The
            message begins with the path of the value.

    >>> @dataclass(frozen=True)
    ... class Traversal:
    ...     steps: Annotated[int, Range(least=3)] = 11
    >>> read(Traversal, {"steps": 5})
    Traversal(steps=5)
    >>> read(tuple[Traversal, ...], [{}, {"steps": 2}], "a.json")
    Traceback (most recent call last):
    ...
    ccvae_eval.core.errors.InputError: a.json: [1].steps must be at least 3, got 2
    """
    hint: Any = kind
    try:
        if given:
            return cast(T, _build(hint, value, _Mode(words, extra), given))
        return cast(T, _converter(hint)(value, _Mode(words, extra)))
    except _Fault as fault:
        raise error(str(fault), where=where, hint=fault.hint) from None


def check(instance: Any, where: str) -> None:
    """Validates the fields of a dataclass against their types and ranges, for ``__post_init__``.

    Args:
        instance: an instance of a dataclass.
        where: its name, for errors.

    Raises:
        UsageError: a field has another type, or a value that is not allowed.
    """
    kind: Any = type(instance)
    for field in _fields(kind).values():
        try:
            field.convert(getattr(instance, field.name), _Mode())
        except _Fault as fault:
            what = str(fault.inside(field.name))
            raise UsageError(what, where=f"{where}.{field.name}", hint=fault.hint) from None


def plain(value: Any) -> Any:
    """Returns plain data from which :func:`read` builds the value again; NaN and infinities become None.

    >>> plain((Range(least=1), {"a": math.nan}))
    [{'least': 1, 'most': None, 'above': None, 'below': None}, {'a': None}]
    """
    kind: Any = type(value)
    if value is None or kind in (str, bool, int):
        return value
    if kind is float:
        return value if math.isfinite(value) else None
    if is_dataclass(value):
        found = {key: plain(getattr(value, field.name)) for key, field in _fields(kind).items()}
        return found.get("", found)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted(map(plain, value))
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str | Integral):
        return str(value) if isinstance(value, str) else int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    raise TypeError(f"not plain data: {value!r}")


def schema(hint: Any) -> dict[str, Any]:
    """Returns the JSON schema (draft 2020-12) of what :func:`plain` writes of a type, which has every key.

    >>> schema(tuple[Annotated[int, Range(least=0)], ...])
    {'type': 'array', 'items': {'type': 'integer', 'minimum': 0}}
    """
    kind: Any = get_origin(hint) or hint
    args = get_args(hint)
    if kind is Annotated:
        found = schema(args[0])
        for mark in args[1:]:
            found |= {"description": mark} if isinstance(mark, str) else mark.schema()
        return found
    if kind is Literal:
        return {"const": args[0]} if len(args) == 1 else {"enum": list(args)}
    if kind in (Union, UnionType):
        options = [schema(arg) for arg in args]
        if all(option.keys() == {"type"} for option in options):
            return {"type": [option["type"] for option in options]}
        return {"anyOf": options}
    if is_dataclass(kind):
        known = _fields(hint)
        if "" in known:
            return schema(known[""].hint)
        properties = {key: schema(field.hint) for key, field in known.items()}
        return {"type": "object", "properties": properties, "required": list(properties)}
    if kind in _LISTS:
        each = schema(args[0]) if args[-1] in (Ellipsis, args[0]) else {"anyOf": [schema(arg) for arg in args]}
        bounds = {"minItems": len(args), "maxItems": len(args)} if kind is tuple and args[-1] is not Ellipsis else {}
        return {"type": "array", **({"items": each} if each else {}), **bounds}
    if kind in (Mapping, dict):
        each = schema(args[1])
        return {"type": "object", **({"additionalProperties": each} if each else {})}
    return {} if kind is Any else {"type": _JSON_NAMES[kind]}


def load_json(
    source: Path | bytes, where: str = "", *, limits: Limits = Limits(), error: type[InputError] = InputError
) -> Any:
    """Parses a JSON file.

    Args:
        source: path of a regular file, or its content.
        where: name of the file for errors, if only the content is given.
        limits: limits of the file.
        error: class of the errors.

    Raises:
        InputError: of class ``error``: the file cannot be read, exceeds a limit, is not valid JSON, has a key twice, or
            has numbers that are not finite.
    """

    def parsed(text: str) -> Any:
        constant = _not_a_number if limits.finite else None
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=constant)

    return _load(source, where, "JSON", parsed, limits, error)


def load_toml(
    source: Path | bytes, where: str = "", *, limits: Limits = Limits(), error: type[InputError] = InputError
) -> dict[str, Any]:
    """Parses a TOML file, see :func:`load_json`. Dates and times are refused."""

    def parsed(text: str) -> Any:
        # the time that tomllib takes for a key is quadratic in its parts
        if re.search(rf"(?<![\w-])(?:{_PART}[ \t]*+\.[ \t]*+){{{limits.depth},}}", text):
            raise RecursionError
        return tomllib.loads(text)

    return cast(dict[str, Any], _load(source, where, "TOML", parsed, limits, error))


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"key {shown(max(counts, key=counts.__getitem__))} occurs twice in an object")
    return found


def _not_a_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number of JSON")


def _load(
    source: Path | bytes, where: str, form: str, parse: Callable[[str], Any], limits: Limits, error: type[InputError]
) -> Any:
    if isinstance(source, bytes):
        content = source
        if len(content) > limits.size:
            raise error("is too large", where=where, why=f"more than {limits.size:,} bytes")
    else:
        where, content = str(source), read_regular_file(source, limits.size, error)
    if sum(map(content.count, (b",", b"[", b"{", b"="))) > limits.entries:
        raise error("has too many entries", where=where, why=f"more than {limits.entries:,}")
    try:
        found = parse(content.decode())
        _require_limits(found, limits, 1)
    except UnicodeDecodeError:
        raise error("is not UTF-8 text", where=where) from None
    except ValueError as invalid:
        raise error(f"is not valid {form}", where=where, why=str(invalid)) from None
    except RecursionError:
        raise error(f"is nested more than {limits.depth} levels deep", where=where) from None
    except _Fault as fault:
        raise error(str(fault), where=where) from None
    return found


def _require_limits(value: Any, limits: Limits, depth: int) -> None:
    """Refuses values that exceed a limit, and values that JSON does not have."""
    kind = type(value)
    if kind is str:
        if len(value) > limits.text:
            raise _Fault(f" must have at most {limits.text:,} characters, got {len(value):,}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Fault(" contains half a surrogate pair, which is not Unicode text") from None
    elif kind is float:
        if limits.finite and not math.isfinite(value):
            raise _wrong("finite", value)
    elif kind is int:
        if value.bit_length() > limits.bits:
            raise _Fault(f" must have at most {limits.bits} bits")
    elif kind in (dict, list):
        if depth > limits.depth:
            raise _Fault(f" is nested more than {limits.depth} levels deep")
        key: str | int = ""
        try:
            for key, item in value.items() if kind is dict else enumerate(value):
                _require_limits(key, limits, depth)
                _require_limits(item, limits, depth + 1)
        except _Fault as fault:
            raise fault.inside(key) from None
    elif value is not None and kind is not bool:
        raise _wrong("a string, a number, true, false, a list or an object", value)
