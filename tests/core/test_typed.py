"""One reader of plain data: types, ranges, limits, and the place of every fault."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccvae_eval.core.errors import CcvaeEvalError, CheckpointError, InputError, UsageError
from ccvae_eval.core.typed import Limits, NullIsNan, Range, check, load_json, load_toml, plain, read, schema


@dataclass(frozen=True)
class Point:
    n: Annotated[int, Range(least=0)]
    value: Annotated[float, NullIsNan()] = 1.0


@dataclass(frozen=True)
class Names:
    """A dataclass that its only field stands for."""

    names: tuple[str, ...] = field(metadata={"key": ""})


@dataclass(frozen=True)
class Everything:
    name: str
    points: tuple[Point, ...] = field(metadata={"key": "measured"})
    names: Names = Names(())
    kind: Literal["linear", "quadratic"] = "linear"
    flag: bool = False
    share: Annotated[float, Range(least=0, most=1)] = 0.5
    limit: int | None = None
    pair: tuple[float | None, float | None] = (None, None)
    seen: frozenset[str] = frozenset()
    at: Mapping[str, str | int | float] = field(default_factory=dict)
    first: Point | None = None
    others: list[int] = field(default_factory=list)
    anything: Any = None

    def __post_init__(self) -> None:
        check(self, "everything")
        if self.flag and self.limit is not None:
            raise UsageError("flag excludes limit", hint="Leave one of them out.")


numbers = st.floats(allow_nan=False, allow_infinity=False)
points = st.builds(Point, st.integers(0, 10**9), numbers)
json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
text = st.text(st.characters(exclude_categories=["Cs"]))
everything = st.builds(
    Everything,
    name=text,
    points=st.lists(points, max_size=3).map(tuple),
    names=st.builds(Names, st.lists(text, max_size=3).map(tuple)),
    kind=st.sampled_from(["linear", "quadratic"]),
    share=st.floats(0, 1),
    limit=st.none() | st.integers(-(2**127), 2**127),
    pair=st.tuples(st.none() | numbers, st.none() | numbers),
    seen=st.frozensets(text, max_size=3),
    at=st.dictionaries(text, text | st.integers(-9, 9) | numbers, max_size=3),
    first=st.none() | points,
    others=st.lists(st.integers(-9, 9), max_size=3),
)
COMPLETE = plain(Everything("x", (Point(1), Point(2, math.nan)), first=Point(3), at={"dose": 1.0, "class": 2}))


@given(everything)
def test_reading_plain_data_returns_the_instance(instance: Everything) -> None:
    again = read(Everything, load_json(json.dumps(plain(instance)).encode()))
    assert again == instance
    assert [type(value) for value in again.at.values()] == [type(value) for value in instance.at.values()]


def test_null_is_nan_where_the_type_says_so() -> None:
    assert plain(Point(1, math.nan)) == {"n": 1, "value": None}
    assert math.isnan(read(Point, {"n": 1, "value": None}).value)
    with pytest.raises(InputError, match="share must be a number, got null"):
        read(Everything, {**COMPLETE, "share": None})


@given(json_data)
def test_no_data_cause_another_error_than_ours(data: Any) -> None:
    for kind in (Everything, Point, Names, tuple[Point, ...]):
        with suppress(InputError):
            read(kind, data, "x.json")


@given(st.sampled_from(sorted(COMPLETE)), json_data, st.sampled_from([InputError, CheckpointError, UsageError]))
def test_a_malformed_field_is_named(key: str, data: Any, error: type[CcvaeEvalError]) -> None:
    found = None
    try:
        read(Everything, {**COMPLETE, key: data}, "x.json", error=error)
    except error as fault:
        found = fault
    assert found is None or found.what.startswith(key) or found.what == "flag excludes limit"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measured": [{"n": 1}, {"n": "x"}]}, "x.json: measured[1].n must be an integer, got 'x'"),
        ({"measured": [{"n": 1.5}]}, "x.json: measured[0].n must be an integer, got 1.5"),
        ({"measured": [{"n": -1}]}, "x.json: measured[0].n must be at least 0, got -1"),
        ({"measured": [{"value": 1}]}, "x.json: measured[0].n is missing"),
        ({"measured": {"n": 1}}, "x.json: measured must be a list, got an object"),
        ({"measured": [[]]}, "x.json: measured[0] must be an object, got a list"),
        ({"points": []}, "x.json: points is unknown\nKnown: "),
        ({"nam": "x"}, "x.json: nam is unknown\nDid you mean 'name'?"),
        ({"name": True}, "x.json: name must be a string, got true"),
        ({"names": ["a", 3]}, "x.json: names[1] must be a string, got 3"),
        ({"kind": "cubic"}, "x.json: kind must be 'linear' or 'quadratic', got 'cubic'"),
        ({"flag": 1}, "x.json: flag must be true or false, got 1"),
        ({"share": 2}, "x.json: share must be from 0 to 1, got 2.0"),
        ({"limit": "x"}, "x.json: limit must be an integer, got 'x'"),
        ({"pair": [1]}, "x.json: pair must have 2 elements, got 1"),
        ({"pair": [1, True]}, "x.json: pair[1] must be a number, got true"),
        ({"at": {"a b": []}}, "x.json: at['a b'] must be a string, an integer or a number, got a list"),
        ({"first": {"n": None}}, "x.json: first.n must be an integer, got null"),
        ({"flag": True, "limit": 3}, "x.json: flag excludes limit\nLeave one of them out."),
        ({"name": 10**300}, "x.json: name must be a string, got an integer of many digits"),
        ({"name": ["x"] * 2}, "x.json: name must be a string, got a list"),
    ],
)
def test_an_error_states_place_and_expectation(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(Everything, {**COMPLETE, **change}, "x.json")
    assert str(caught.value).startswith(message)


def test_a_whole_document_of_another_type_is_refused() -> None:
    with pytest.raises(InputError, match=r"x\.json: must be an object, got 'text'"):
        read(Everything, "text", "x.json")


def test_unknown_keys_can_be_ignored_and_fields_can_be_given() -> None:
    assert read(Point, {"n": 1, "more": 2}, extra=True) == Point(1)
    assert read(Point, {"value": 2}, n=3) == Point(3, 2.0)
    with pytest.raises(UsageError, match="n is unknown\nKnown: value"):
        read(Point, {"n": 1}, error=UsageError, n=3)


@dataclass(frozen=True)
class Options:
    count: int = 1
    share: float = 0.5
    adversary: bool = True
    name: str = "x"
    estimator: Literal["exact", "weighted", "reference"] = "exact"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", 3, 3),
        ("count", "3", 3),
        ("count", 3.0, 3),
        ("share", "1e-3", 1e-3),
        ("share", 2, 2.0),
        ("adversary", "off", False),
        ("adversary", True, True),
        ("name", "y", "y"),
        ("name", 5, "5"),
        ("estimator", "reference", "reference"),
    ],
)
def test_words_are_converted_to_the_type_of_their_field(name: str, value: Any, expected: Any) -> None:
    found = getattr(read(Options, {name: value}, "model", words=True), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", 2.5),
        ("count", "many"),
        ("count", True),
        ("count", None),
        ("share", [1]),
        ("adversary", "perhaps"),
        ("estimator", "exactly"),
    ],
)
def test_words_that_do_not_fit_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"model: {name} must be"):
        read(Options, {name: value}, "model", words=True, error=UsageError)


def test_close_names_are_suggested() -> None:
    with pytest.raises(InputError, match="Did you mean 'estimator'"):
        read(Options, {"estimater": "exact"})
    with pytest.raises(InputError, match="Did you mean 'weighted'"):
        read(Options, {"estimator": "weigthed"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share": 1.5}, "everything.share: share must be from 0 to 1, got 1.5"),
        ({"share": math.nan}, "everything.share: share must be from 0 to 1, got nan"),
        ({"kind": "cubic"}, "everything.kind: kind must be 'linear' or 'quadratic', got 'cubic'"),
        ({"limit": "3"}, "everything.limit: limit must be an integer, got '3'"),
        ({"points": ("x",)}, "everything.points: points[0] must be an object, got 'x'"),
    ],
)
def test_instances_are_checked_against_their_types(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Everything(**{"name": "x", "points": (), **change})
    assert str(caught.value) == message


def test_plain_refuses_what_is_not_plain() -> None:
    with pytest.raises(TypeError, match="not plain data"):
        plain({"a": object()})


def test_the_schema_describes_the_plain_data() -> None:
    found = schema(Everything)
    assert found["required"] == list(COMPLETE)
    assert found["properties"]["measured"] == {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "n": {"type": "integer", "minimum": 0},
                "value": {"type": ["number", "null"], "description": "null = undefined"},
            },
            "required": ["n", "value"],
        },
    }
    assert found["properties"]["kind"] == {"enum": ["linear", "quadratic"]}
    assert found["properties"]["share"] == {"type": "number", "minimum": 0, "maximum": 1}
    assert found["properties"]["pair"]["maxItems"] == 2
    assert found["properties"]["names"] == {"type": "array", "items": {"type": "string"}}
    assert found["properties"]["at"]["additionalProperties"] == {"type": ["string", "integer", "number"]}
    assert found["properties"]["first"]["anyOf"][1] == {"type": "null"}
    assert found["properties"]["anything"] == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"\xff", "is not UTF-8 text"),
        (b'{"a": 1, "a": 2}', "key 'a' occurs twice"),
        (b"[NaN]", "NaN is not a number of JSON"),
        (b"[-Infinity]", "-Infinity is not a number of JSON"),
        (b"[0, 1e999]", "[1] must be finite, got inf"),
        (b'{"a": [' + b"1" * 41 + b"]}", "a[0] must have at most 128 bits"),
        (b"1" * 5000, "is not valid JSON"),
        (b"[" * 100_000, "is nested more than 32 levels deep"),
        (b"[" * 33 + b"]" * 33, "is nested more than 32 levels deep"),
        (b'["\\ud800"]', "[0] contains half a surrogate pair"),
        (b'{"\\ud800": 1}', "contains half a surrogate pair"),
        (b'["' + b"x" * 101 + b'"]', "[0] must have at most 100 characters, got 101"),
        (b"," * 160_000, "has too many entries"),
        (b" " * 300_000, "is too large"),
    ],
)
def test_json_beyond_the_limits_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    limits = Limits(size=200_000, entries=150_000, text=100)
    for source in (path, content):
        with pytest.raises(CheckpointError) as caught:
            load_json(source, str(path), limits=limits, error=CheckpointError)
        assert message in str(caught.value)
        assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = ", "is not valid TOML"),
        (b"a = 1\na = 2", "is not valid TOML"),
        (b"\xff", "is not UTF-8 text"),
        (b"[t]\na = [nan]", "t.a[0] must be finite, got nan"),
        (b"a = 2024-01-01", "a must be a string, a number, true, false, a list or an object, got a value of type date"),
        (b"a = 0x" + b"f" * 40, "a must have at most 128 bits"),
        (b"a = " + b"[" * 100_000, "is nested more than 32 levels deep"),
        (b".".join([b"a"] * 40) + b" = 1", "is nested more than 32 levels deep"),
    ],
)
def test_toml_beyond_the_limits_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_toml(content, "x.toml")
    assert message in str(caught.value)
    assert caught.value.where == "x.toml"


@given(st.binary(max_size=60) | json_data.map(lambda data: json.dumps(data).encode()))
def test_no_content_causes_another_error_than_ours(content: bytes) -> None:
    for load in (load_json, load_toml):
        with suppress(InputError):
            load(content, "x")


@pytest.mark.parametrize(("name", "message"), [("pipe", "is a pipe"), ("folder", "is a folder"), ("none", "opened")])
def test_special_files_are_refused_at_once(name: str, message: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=message):
        load_json(tmp_path / name)
    with pytest.raises(InputError, match="is a device"):
        load_toml(Path(os.devnull))
