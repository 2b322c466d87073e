"""``explain METRIC`` in a terminal of 80 columns, for each built-in metric."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest

import ccvae_eval
from ccvae_eval.cli.main import main
from ccvae_eval.plugins.registry import BUILTIN_DISTRIBUTION, metrics
from ccvae_eval.report.bibliography import _ENTRIES, SOURCES
from tests.support.commands import run_command

BUILTIN_METRICS = [r.name for r in metrics.registrations() if r.distribution == BUILTIN_DISTRIBUTION]
WIDTH = 80


@pytest.fixture
def shown(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The output of ``explain`` for the metric."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    return _printed(["explain", request.param], capsys)


def _printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code
    return capsys.readouterr().out


each = pytest.mark.parametrize(("shown", "name"), [(name, name) for name in BUILTIN_METRICS], indirect=["shown"])


@each
def test_every_section_is_present(shown: str, name: str) -> None:
    text = shown[: shown.index("Args:")]
    assert "Formula: " in text or " = " in text, f"{name} has no definition"
    for section in ("Range", "Direction", "Chance", "Cost", "Pitfalls", "Reference"):
        assert re.search(rf"(^|[.] ){section}:\s", text, re.MULTILINE), f"{name} has no section {section}"


@each
def test_list_items_start_a_line_and_are_indented(shown: str, name: str) -> None:
    items = re.findall(r"^- `*(\w+)", inspect.cleandoc(metrics[name].__doc__ or ""), re.MULTILINE)
    assert re.findall(r"^- (\w+)", shown, re.MULTILINE) == items
    for item in re.findall(r"^- .*\n(?:(?!- |\n).*\n)*", shown, re.MULTILINE):
        assert all(line.startswith("  ") for line in item.splitlines()[1:]), item


@each
def test_no_markup_remains_and_no_line_is_too_long(shown: str, name: str) -> None:
    del name
    assert "\\" not in shown
    assert "``" not in shown
    assert "math::" not in shown
    assert max(map(len, shown.splitlines())) <= WIDTH


@each
def test_no_value_name_is_wrapped(shown: str, name: str) -> None:
    table = shown[shown.index("\nvalue ") : shown.index("\nUndefined values:")]
    assert re.findall(r"^(\w+)", table, re.MULTILINE)[1:] == list(metrics[name].values)


def test_lists_keep_their_items_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\n- dprime = " in json.loads(_printed(["explain", "density", "--json"], capsys))["text"]


def test_the_sources_of_every_metric_as_bibtex(capsys: pytest.CaptureFixture[str]) -> None:
    used = set()
    for name in [*BUILTIN_METRICS, "compare"]:
        text = _printed(["explain", name, "--bibtex"], capsys)
        keys = re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE)
        assert keys == list(SOURCES[name])
        assert text.count("{") == text.count("}")
        used |= set(keys)
    assert used == set(_ENTRIES)
    with pytest.raises(SystemExit) as ended:
        main(["explain", "localty", "--bibtex"])
    assert ended.value.code == 2


def test_the_citation_file_states_the_version() -> None:
    citation = (Path(__file__).parents[2] / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {ccvae_eval.__version__}\n" in citation


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("focus", "locality.focus"),
        ("MIG", "disentanglement.mig"),
        ("drift.spill", "drift.spill"),
        ("drift.spill@Smiling", "drift.spill"),
        ("CE002", "Remedy: A label that the judge recognises on real images"),
        ("celebahq", "regions=celebahq' boxes for CelebA-HQ"),
        ("judge", "--judge FILE"),
        ("folder", "crop selects the part that is resized"),
        ("ccvae", "CCVAE (Joy et al., ICLR 2021)"),
    ],
)
def test_values_data_sets_models_and_the_judge_are_explained(
    name: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in " ".join(_printed(["explain", name], capsys).split())
    assert json.loads(_printed(["explain", name, "--json"], capsys))["name"] == name


def test_an_address_is_explained_only_in_its_metric(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(_printed(["explain", "drift.spill", "--json"], capsys))["values"]
    assert [(value["metric"], value["value"]) for value in found] == [("drift", "spill")]


def test_an_unknown_check_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("explain", "ce999") == 2
    message = capsys.readouterr().err
    assert "no check has the code CE999" in message
    assert "CE001, CE002" in message


@each
def test_the_headline_of_every_metric_says_how_to_read_it(shown: str, name: str) -> None:
    text = shown[shown.index("How to read") :]
    assert text.startswith(f"How to read {metrics[name].headline}:\n")
    assert "Typical of a CCVAE: " in text


@pytest.mark.parametrize("group", ["models", "metrics", "data", "matchers"])
def test_list_describes_every_plugin(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(_printed(["list", group, "--json"], capsys))[group]
    assert all(row["description"] for row in rows if row["distribution"] == BUILTIN_DISTRIBUTION)
