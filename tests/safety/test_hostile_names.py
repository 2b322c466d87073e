"""Hostile names of labels, classes and files stay text in every file and view of a run, from evaluation to report."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ccvae_eval import evaluate, read
from ccvae_eval.cli.measuring import draw
from ccvae_eval.comparison import gate
from ccvae_eval.comparison import page as comparison_page
from ccvae_eval.comparison.compare import compare
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.storage import write
from ccvae_eval.model.interface import Label, LabelSchema
from ccvae_eval.rendering.text import plain
from ccvae_eval.report import paper
from ccvae_eval.report.page import notebook_html, page_html
from tests.support import fakes

ESCAPE, SCRIPT, IMAGE = "\x1b[31mred", "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'
FORMULA, CLOSING, LATEX, LONG = f"=cmd(){ESCAPE}", "</script><b>", "\\input{secret}", "n" * 300
NAMES, CLASSES = (SCRIPT, FORMULA, IMAGE), (CLOSING, LATEX, LONG)
SHOWN = (SCRIPT, "=cmd()\\x1b[31mred", IMAGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose labels, classes and files have hostile names."""
    place = tmp_path_factory.mktemp("run")
    labels = (Label(SCRIPT), Label(FORMULA), Label(IMAGE, "categorical", CLASSES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fakes, "SCHEMA", LabelSchema(labels))
        patch.setattr(fakes, "MEANS", dict(zip(NAMES, fakes.MEANS.values(), strict=True)))
        run = evaluate(
            fakes.SquaresVAE(), fakes.Squares(200), ["locality", "density", "accuracy"], sample=96, judge="none",
            references=False, command=f"ccvae-eval run {SCRIPT} {ESCAPE}",
        )  # fmt: skip
    assert run.failed == ()
    draw(write(run, place), place, figures=True, page=True)
    return place


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return read(folder)


class Page(HTMLParser):
    """Collects the elements and the visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("view", ["page", "notebook"])
def test_the_page_and_the_notebook_show_them_as_text(folder: Path, run: Run, view: str) -> None:
    html = (folder / "report.html").read_text() if view == "page" else notebook_html(run)
    page = Page(html)
    assert all(name in page.text for name in SHOWN)
    assert "\x1b" not in html
    assert [tag for tag, _ in page.elements].count("script") == (2 if view == "page" else 0)
    assert not [a for tag, a in page.elements if tag == "b" or any(key.startswith("on") for key in a)]
    assert all((a["src"] or "").startswith("data:image/") for tag, a in page.elements if tag == "img")
    if view == "page":
        assert all(name in page.text for name in CLASSES)


def test_a_spreadsheet_takes_none_for_a_formula(folder: Path, run: Run) -> None:
    rows = list(csv.DictReader(io.StringIO((folder / "values.csv").read_text())))
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "@", "\t", "\r"))]
    found = {row["characteristic"] for row in rows}
    assert found == {"", SCRIPT, f"'{FORMULA}", IMAGE}
    assert run.find(f"density.auc@{FORMULA}").characteristic == FORMULA


@pytest.mark.parametrize("name", [SCRIPT, FORMULA, IMAGE, LATEX, LONG])
def test_names_of_checkpoints_and_models_stay_text_in_every_view(run: Run, name: str) -> None:
    header = replace(run.header, checkpoint={**run.header.checkpoint, "path": f"{name}.pt", "model": name})
    renamed = replace(run, header=header)
    shown = plain(name)
    found = compare(run, renamed)
    both = {label: [one] for label, one in zip(found.models, (run, renamed), strict=True)}
    compared = comparison_page.page_html(found, both)
    for html in (page_html(renamed), notebook_html(renamed), compared):
        page = Page(html)
        assert shown in page.text
        assert "\x1b" not in html
        assert not [a for tag, a in page.elements if tag == "b" or any(key.startswith("on") for key in a)]
        assert all((a["src"] or "").startswith("data:image/") for tag, a in page.elements if tag == "img")
        assert [tag for tag, _ in page.elements].count("script") <= 2
    table = paper.paper_table({name: [renamed]}, [f"density.auc@{SCRIPT}"])
    assert not re.search(r"\\input|\x1b|<script", paper.latex(table))
    cells = [cell for row in csv.reader(io.StringIO(paper.as_csv(table))) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]


def test_latex_and_markdown_tables_show_them_as_text(run: Run) -> None:
    table = paper.paper_table({LATEX: [run], LONG: [run]}, [f"density.auc@{name}" for name in NAMES if name != IMAGE])
    text = paper.latex(table)
    assert "\\textbackslash{}input\\{secret\\}" in text
    assert not re.search(r"\\input|\x1b|<script", text)
    rows = [line for line in paper.markdown(table).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert not re.search(r"(?<!\\)[<>]|\x1b", paper.markdown(table))
    cells = [cell for row in csv.reader(io.StringIO(paper.as_csv(table))) for cell in row]
    assert not [cell for cell in cells if cell.startswith("=")]


def test_junit_shows_them_as_text(run: Run) -> None:
    results = gate.check_rules(run, [gate.Rule.of("min", f"density.auc@{name}", 2.0) for name in NAMES])
    suite = ElementTree.fromstring(gate.junit(results, LATEX + ESCAPE))
    assert len(suite.findall("testcase/failure")) == len(NAMES)
    assert [case.get("classname") for case in suite] == [f"{LATEX}\\x1b[31mred"] * len(NAMES)
    assert {tag.tag for tag in suite.iter()} == {"testsuite", "testcase", "failure"}


def test_figures_get_safe_names_within_their_folder(folder: Path) -> None:
    files = list((folder / "figures").rglob("*"))
    assert files
    assert all(re.fullmatch(r"[\w.-]{1,255}", file.name) and file.parent == folder / "figures" for file in files)
    assert sorted(path.name for path in folder.iterdir()) == [
        "evidence.npz", "figures", "pictures.npz", "report.html", "run.json", "values.csv",
    ]  # fmt: skip
