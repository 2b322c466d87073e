"""Tables of the terminal: columns that are left out, and matrices as tables of shades."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ccvae_eval.core.results import COUNT, EVERY_UNDEFINED, Estimate, Measurement, Value, ValueSpec, undefined
from ccvae_eval.rendering.tables import FittedTable, metric_tables, shaded_table


def shown(what: Any, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(what)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (50, ["name", "first", "second", "third", "note"]),
        (36, ["name", "third", "note"]),
        (26, ["name", "note"]),
    ],
)
def test_columns_are_left_out_until_no_word_is_broken(width: int, headings: list[str]) -> None:
    table = FittedTable(spare=(("first", "second"), "third"))
    for heading in ("name", "first", "second", "third", "note"):
        table.add_column(heading, overflow="fold")
    table.add_row("balanced_accuracy", "1", "2", "[0.1]", "two short words")
    lines = shown(table, width)
    assert lines[0].split() == headings
    missing = [heading for heading in ("first", "second", "third") if heading not in headings]
    assert (f"left out at this width: {', '.join(missing)};" in " ".join(lines)) == bool(missing)
    assert "balanced_accuracy" in lines[1]
    assert max(map(len, lines)) <= width
    assert {"two", "short", "words"} <= set(" ".join(lines).split())
    assert len(table.columns) == 5, "the table itself stays as it is"


def test_a_very_long_name_is_folded_and_costs_no_column() -> None:
    table = FittedTable(spare=("number",))
    table.add_column("name", overflow="fold")
    table.add_column("number", no_wrap=True)
    table.add_row("n" * 300, "1")
    lines = shown(table, 60)
    assert "number" in lines[0]
    assert "".join(lines[1:]).count("n") == 300


def test_a_long_name_is_folded_only_for_lack_of_room() -> None:
    table = FittedTable("name", "note")
    table.add_row(name := "n" * 40, "words " * 20)
    assert any(line.startswith(name) for line in shown(table, 60))
    assert not any(line.startswith(name) for line in shown(table, 42))


def test_a_matrix_has_numbers_and_shades() -> None:
    lines = shown(shaded_table("title", ["a", "b"], ["a", "b"], [[1, 0.5], [0, np.nan]], ascii_only=False))
    assert lines[0] == "title"
    assert [line.split() for line in lines[1:]] == [["a", "b"], ["a", "100█", "50▒"], ["b", "–"]]
    assert shown(shaded_table("t", ["a"], ["b"], [[0.29]], ascii_only=True))[2].split() == ["a", "29", "."]


def test_headings_that_do_not_fit_are_numbered() -> None:
    rows, columns = [f"characteristic-{k}" for k in range(3)], [f"characteristic-{k}" for k in range(4)]
    lines = shown(shaded_table("title", rows, columns, [[0.2] * 4] * 3, ascii_only=False))
    assert lines[1].split() == ["1", "2", "3", "4"]
    assert lines[2].split()[:2] == ["1", "characteristic-0"]
    assert lines[-1] == "· columns: 4 characteristic-3"
    other = shown(shaded_table("title", ["z0"], columns, [[0.2] * 4], ascii_only=False))
    assert other[2].split()[0] == "z0"
    assert " ".join(other[3:]).startswith("· columns: 1 characteristic-0; 2 characteristic-1;")


def test_a_narrow_terminal_leaves_out_the_last_columns() -> None:
    names = [f"label-{k}" for k in range(40)]
    lines = shown(shaded_table("title", names, names, np.eye(40).tolist(), ascii_only=False), 60)
    assert lines[1].split() == [str(k) for k in range(1, len(lines[1].split()) + 1)]
    assert 8 <= len(lines[1].split()) < 40
    assert max(map(len, lines)) <= 60


def test_the_notes_count_the_labels_of_each_mean() -> None:
    values = (
        Value("focus", Estimate(0.5, n=9)),
        Value("focus", Estimate(0.5, n=9), "Smiling", in_mean=True),
        Value("focus", undefined(), "Hat", in_mean=True, note="too rare"),
        Value("area", Estimate(0.1, n=9)),
        Value("area", Estimate(0.1, n=9), "Smiling", in_mean=True),
        Value("area", undefined(), "Hat", in_mean=True, note="too rare"),
    )
    lines = shown(metric_tables(Measurement("m", 1, {}, "focus", values), {}), 100)
    assert "· mean: over 1 of 2 labels (Smiling)" in lines
    assert "· area: over 1 of 2 labels (Smiling)" in lines


def test_every_dash_of_a_metric_has_its_reason_below_the_table() -> None:
    values = (
        Value("spread", Estimate(0.5, n=9)),
        Value("kept", undefined(), note=f"{EVERY_UNDEFINED}: needs a judge"),
        Value("obeyed", undefined(), at={"class": "x"}, note=f"{EVERY_UNDEFINED}; needs a judge"),
        Value("energy", undefined(), note="the data set cannot redraw a variety"),
    )
    lines = shown(metric_tables(Measurement("m", 1, {}, "spread", values), {}), 100)
    assert [line for line in lines if line.startswith("·")] == [
        "· kept, obeyed (class x): needs a judge",
        "· energy: the data set cannot redraw a variety",
    ]


@pytest.mark.parametrize(("unit", "name"), [(COUNT, "total"), ("", "mean")])
def test_the_row_of_all_characteristics_is_named_for_what_it_is(unit: str, name: str) -> None:
    rows = tuple(Value("found", Estimate(2.0, n=9), of) for of in (None, "Hat"))
    lines = shown(metric_tables(Measurement("mine", 1, {}, "found", rows), {"found": ValueSpec("found", unit)}))
    assert [line.split()[0] for line in lines[2:4]] == ["Hat", name]
