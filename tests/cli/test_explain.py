"""``explain METRIC``: what a reader sees of each metric of ours in a terminal of 80 columns."""

from __future__ import annotations

import inspect
import json
import re

import pytest

from ccvae_eval.cli.main import main
from ccvae_eval.plugins.registry import HOME, metrics

OURS = [r.name for r in metrics.registrations() if r.distribution == HOME]
WIDTH = 80


@pytest.fixture
def shown(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command prints of the metric."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    return _printed(["explain", request.param], capsys)


def _printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code
    return capsys.readouterr().out


each = pytest.mark.parametrize(("shown", "name"), [(name, name) for name in OURS], indirect=["shown"])


@each
def test_every_section_is_there(shown: str, name: str) -> None:
    text = shown[: shown.index("Args:")]
    assert "Formula: " in text or " = " in text, f"{name} has no definition"
    for section in ("Range", "Direction", "Chance", "Cost", "Pitfalls", "Reference"):
        assert re.search(rf"(^|[.] ){section}:\s", text, re.MULTILINE), f"{name} says nothing of {section}"


@each
def test_every_item_of_a_list_begins_a_line_and_the_rest_of_it_is_set_in(shown: str, name: str) -> None:
    written = re.findall(r"^- `*(\w+)", inspect.cleandoc(metrics[name].__doc__ or ""), re.MULTILINE)
    assert re.findall(r"^- (\w+)", shown, re.MULTILINE) == written
    for item in re.findall(r"^- .*\n(?:(?!- |\n).*\n)*", shown, re.MULTILINE):
        assert all(line.startswith("  ") for line in item.splitlines()[1:]), item


@each
def test_no_markup_is_left_and_no_line_is_too_long(shown: str, name: str) -> None:
    del name
    assert "\\" not in shown
    assert "``" not in shown
    assert "math::" not in shown
    assert max(map(len, shown.splitlines())) <= WIDTH


@each
def test_every_value_s_name_is_whole(shown: str, name: str) -> None:
    table = shown[shown.index("\nvalue ") :]
    assert re.findall(r"^(\w+)", table, re.MULTILINE)[1:] == list(metrics[name].values)


def test_a_list_is_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\n- dprime = " in json.loads(_printed(["explain", "density", "--json"], capsys))["text"]
