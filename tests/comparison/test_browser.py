"""The page of a comparison in a browser: one slider moves all models, disagreement sorts, nothing is requested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ccvae_eval.comparison.compare import compare
from ccvae_eval.comparison.page import page_html
from tests.support.browser import Browser, browser
from tests.support.comparisons import GALLERY, model, pictured

RIGHT, END = "\ue014", "\ue010"
SHADES = """return [...document.querySelectorAll('#models article:first-child canvas')]
    .map(canvas => canvas.getContext('2d').getImageData(8, 8, 1, 1).data[0])"""
SHOWN = "return [...document.querySelectorAll('#thumbs small')].map(item => +item.textContent)"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


def written(folder: Path, *names: str) -> Path:
    more = {"names": names} if names else {}
    runs = [pictured(model(1, 1.0, **more)), pictured(model(2, **more), 50)]  # type: ignore[arg-type]
    path = folder / "comparison.html"
    path.write_text(page_html(compare(*runs), {label: [run] for label, run in zip("AB", runs, strict=True)}))
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("page"))


def test_one_slider_moves_the_pictures_of_both_models(window: Browser, page: Path) -> None:
    window.open(page)
    first = window.script(SHADES)
    assert first == pytest.approx([0, 50], abs=4)
    window.keys("#station", RIGHT)
    assert window.script(SHADES) == pytest.approx([50, 100], abs=4)
    window.keys("#station", END)
    assert window.script(SHADES) == pytest.approx([200, 250], abs=4)
    assert "station=4" in window.script("return location.hash")
    window.open(page, "#label=2&station=1&between=1")
    assert window.script(SHADES) == pytest.approx([50, 100, 150], abs=12)
    assert window.script("return document.querySelector('input[name=label]:checked').value") == "2"
    window.script("document.querySelector('#between').click(); document.querySelector('#difference').click()")
    assert window.script(SHADES) == pytest.approx([150, 150], abs=12)
    assert window.messages() == []


def test_images_are_sorted_by_disagreement(window: Browser, page: Path) -> None:
    window.open(page)
    numbers = window.script(SHOWN)
    assert len(numbers) == GALLERY
    assert numbers == sorted(numbers, reverse=True)
    assert window.script("return document.querySelector('#sort').value") == "locality.focus"
    window.script("document.querySelector('.matrix td[data-of=Tie] button').click()")
    other = window.script(SHOWN)
    assert other == sorted(other, reverse=True)
    assert other != numbers
    assert "of=Tie" in window.script("return location.hash")


def test_an_image_shows_both_models_beside_each_other(window: Browser, page: Path) -> None:
    window.open(page, "#image=5")
    names = window.script("return [...document.querySelectorAll('#single figcaption b')].map(b => b.textContent)")
    assert names[:4] == ["original", "A: reconstruction", "B: reconstruction", "A: Smile"]
    cells = window.script("return [...document.querySelectorAll('#single tbody tr:first-child td')].length")
    assert cells == 4
    assert window.messages() == []


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(window: Browser, page: Path, width: int) -> None:
    window.resize(width, 900)
    window.open(page, "#between=1")
    assert window.script("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width", [390, 1280])
def test_no_cell_of_a_difference_is_cut(window: Browser, page: Path, width: int) -> None:
    window.resize(width, 900)
    window.open(page)
    cut = window.script("""
      const box = document.querySelector(".wide").getBoundingClientRect();
      return [...document.querySelectorAll("#answer .differences tbody :is(th, td)")]
        .filter(cell => cell.getBoundingClientRect().right > box.right + 1).map(cell => cell.textContent)""")
    assert cut == []


def test_pictures_are_drawn_as_soon_as_the_page_is_loaded(window: Browser, page: Path, tmp_path: Path) -> None:
    probe = f"<script>addEventListener('load', () => {{ window.shades = (() => {{ {SHADES} }})(); }})</script>"
    probed = tmp_path / "probed.html"
    html = page.read_text().replace("Content-Security-Policy", "", 1)  # the policy allows no second script
    probed.write_text(html.replace("</body>", f"{probe}</body>"))
    window.open(probed)
    assert window.script("return window.shades") == pytest.approx([0, 50], abs=4)


@pytest.mark.parametrize(("scheme", "width"), [("dark", 390), ("light", 1280)])
def test_axe_finds_no_violation_and_nothing_is_requested(window: Browser, page: Path, scheme: str, width: int) -> None:
    window.resize(width, 900)
    window.prefer(scheme)
    window.requests()
    window.open(page)
    assert window.requests() == [page.resolve().as_uri()]
    assert window.violations() == []
    assert window.messages() == []


def test_the_printed_page_has_the_numbers_of_cells_and_no_controls(window: Browser, page: Path) -> None:
    window.open(page)
    window.media("print")
    try:
        shown = "return [...document.querySelectorAll(arguments[0])].map(element => element.checkVisibility())"
        cells = window.script(shown, ".matrix button")
        assert cells
        assert all(cells)
        assert all(window.script(shown, "#models canvas"))
        assert not any(window.script(shown, ".controls, #theme, .linked"))
    finally:
        window.media("screen")


def test_hostile_names_run_nothing(window: Browser, tmp_path: Path) -> None:
    path = written(tmp_path, "<script>window.ran = 1</script>", '"><img src=x onerror="window.ran = 1">')
    window.open(path, "#image=0&label=1&between=1")
    assert window.script("return window.ran ?? null") is None
    assert window.script("return document.querySelectorAll('img[src=x]').length") == 0
    assert window.messages() == []
