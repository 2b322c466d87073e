"""The documentation site builds without warnings, and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image

import ccvae_eval
from ccvae_eval.cli import VERBS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
METRIC_PAGES = [
    "density", "measurement", "locality", "drift", "diversity", "accuracy", "intervention", "generation",
    "reconstruction", "disentanglement",
]  # fmt: skip


class Page(HTMLParser):
    """The anchors and the relative links of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            if name in ("href", "src") and value and not urlsplit(value).scheme:
                self.links.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages of the built site; warnings are errors."""
    for module in ("sphinx", "myst_parser", "furo", "sphinx_copybutton"):
        pytest.importorskip(module, reason="the documentation site needs the extra docs: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(folder / "trees"), str(DOCS)]
    done = subprocess.run([*command, str(folder / "html")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return {path: Page(path) for path in (folder / "html").rglob("*.html")}


def test_every_picture_is_whole() -> None:
    pictures = sorted(DOCS.rglob("*.png"))
    assert pictures
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()  # raises an OSError if the file is cut


@pytest.mark.slow
def test_every_internal_link_has_a_target(site: dict[Path, Page]) -> None:
    broken = []
    for path, page in site.items():
        for link in page.links:
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = site[target].ids if parts.fragment and target in site else {unquote(parts.fragment)}
            if not target.exists() or unquote(parts.fragment) not in anchors:
                broken.append(f"{path.name}: {link}")
    assert broken == []


@pytest.mark.slow
def test_generated_pages_are_those_of_the_program(site: dict[Path, Page]) -> None:
    pages = {path.name: page for path, page in site.items()}
    assert set(VERBS) <= pages["commands.html"].ids
    assert {f"ccvae_eval.{name}" for name in ccvae_eval.__all__} <= pages["python.html"].ids
    assert "A run of ccvae-eval" in pages["run-json.html"].text
    assert "noisy" in pages["in-a-notebook.html"].text
    assert not [path for path, page in site.items() if "generated:" in page.text]


def test_every_metric_page_has_the_same_parts() -> None:
    for name in METRIC_PAGES:
        text = (DOCS / "metrics" / f"{name}.md").read_text(encoding="utf-8")
        headings = re.findall(r"^##? (.*)$", text, re.MULTILINE)
        assert headings[:2] == [name, "How to read it"]
        assert "\n**When not to use it.** " in text
        assert headings[-2] == "Calibration curves"
        assert re.search("egenerate cases.* cost and pitfalls", headings[-1])


def test_the_first_page_shows_the_table_of_the_demonstration() -> None:
    (table,) = re.findall(r"```text\n(.*?)```", (DOCS / "start.md").read_text(encoding="utf-8"), re.DOTALL)
    assert table in (ROOT / "README.md").read_text(encoding="utf-8")
