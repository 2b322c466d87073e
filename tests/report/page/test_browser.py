"""The page in a browser: slider, sorting, dialog, theme, copying and state, without an error in the console."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ccvae_eval.report.page import page_html, runs_html
from tests.support.browser import Browser, browser
from tests.support.runs import GALLERY, IMAGES, LABELS, STATIONS, in_classes, measurement, pictured_run, value

RIGHT, DOWN, END, ESCAPE, ENTER = "\ue014", "\ue015", "\ue010", "\ue00c", "\ue007"
FIRST_PIXEL = "return [...document.querySelector('#stage canvas').getContext('2d').getImageData(8, 8, 1, 1).data]"
PAD_PIXEL = FIRST_PIXEL.replace("#stage", "#plane .stage")
SHOWN = "return [...document.querySelectorAll('#thumbs small')].map(item => item.textContent)"
BACKGROUND = "return getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page_html(in_classes(pictured_run())))
    return path


def test_the_slider_moves_the_picture_and_keeps_its_state(window: Browser, page: Path) -> None:
    window.open(page)
    assert window.script(FIRST_PIXEL)[0] < 10
    window.keys("#station", RIGHT)
    after_one_step = window.script(FIRST_PIXEL)[0]
    assert 40 < after_one_step < 90
    window.keys("#station", END)
    assert window.script(FIRST_PIXEL)[0] > 245
    assert f"station={STATIONS - 1}" in window.script("return location.hash")
    window.open(page, "#label=0&station=1&region=1")
    assert window.script(FIRST_PIXEL)[0] == after_one_step
    assert window.script("return document.querySelector('input[name=label]:checked').value") == "0"
    assert window.script("return document.querySelectorAll('#stage svg path').length") == 6
    assert window.messages() == []


def test_a_label_with_classes_has_a_button_for_each(window: Browser, page: Path) -> None:
    window.open(page, "#station=3")
    window.script("document.querySelectorAll('input[name=label]')[1].click()")
    assert window.script("return document.querySelector('.slider').checkVisibility()") is False
    buttons = "[...document.querySelectorAll('#classes input')]"
    names = window.script(f"return {buttons}.map(button => button.labels[0].textContent)")
    assert names == ["unchanged", "absent", "present"]
    assert abs(window.script(FIRST_PIXEL)[0] - 0) < 9
    window.keys("#classes input:checked", RIGHT)
    assert abs(window.script(FIRST_PIXEL)[0] - 100) < 9
    window.script(f"{buttons}[2].click()")
    assert abs(window.script(FIRST_PIXEL)[0] - 200) < 9
    label = window.script("return document.querySelector('#stage canvas').getAttribute('aria-label')")
    assert label == f"image 0, {LABELS[1]}, present"
    assert "station=2" in window.script("return location.hash")
    window.script("document.querySelectorAll('input[name=label]')[0].click()")
    assert window.script("return document.querySelector('.slider').checkVisibility()") is True
    assert window.script("return document.querySelector('#classes').checkVisibility()") is False
    assert window.messages() == []


def test_the_pad_moves_two_labels_by_keys_mouse_and_touch(window: Browser, page: Path) -> None:
    window.open(page)

    def near(red: float, green: float) -> bool:
        found = window.script(PAD_PIXEL)
        return abs(found[0] - red) < 15 and abs(found[1] - green) < 15

    assert near(0, 0)
    window.keys("#pad", RIGHT + RIGHT + DOWN)
    assert near(120, 60)
    assert f"{LABELS[1]} 3 of 5, {LABELS[0]} 2 of 5" in window.script(
        "return document.querySelector('#pad-text').value"
    )
    window.keys("#pad", RIGHT * 9)
    assert near(240, 60)
    for kind in ("mouse", "touch"):
        window.drag("#pad", (-40, -40), (80, 80), kind)
        assert near(240, 240)
        window.drag("#pad", (-40, -40), (-80, 80), kind)
        assert near(0, 240)
    window.open(page, "#x=2&y=1")
    assert near(120, 60)
    assert window.messages() == []


def test_difference_shows_the_change_from_the_first_station(window: Browser, page: Path) -> None:
    window.open(page, "#station=0&difference=1")
    assert window.script(FIRST_PIXEL)[:3] == [0, 0, 0]
    window.keys("#station", RIGHT)
    assert window.script(FIRST_PIXEL)[0] > 150


def test_sorting_sorts(window: Browser, page: Path) -> None:
    window.open(page, f"#sort=locality.focus&of={LABELS[1]}")
    numbers = [float(text) for text in window.script(SHOWN)]
    assert len(numbers) == GALLERY
    assert numbers == sorted(numbers)


def test_a_cell_of_a_matrix_shows_the_worst_median_and_best_image(window: Browser, page: Path) -> None:
    window.open(page)
    leak = ".matrix td[data-worst=high] button"
    window.keys(leak, ENTER)
    assert window.script("return document.querySelector('#behind').open")
    text = window.script("return document.querySelector('#behind p').textContent")
    assert text.startswith(f"Among the {GALLERY} pictured images of the {IMAGES} in the sample, from the largest")
    heads = window.script("return [...document.querySelectorAll('#behind h4')].map(head => head.textContent)")
    assert [head.split(":")[0] for head in heads] == ["Worst", "Median", "Best"]
    numbers = [float(head.rsplit(", ", 1)[1]) for head in heads]
    assert numbers == sorted(numbers, reverse=True)
    shown = window.script("return [...document.querySelectorAll('#behind figcaption')].map(c => c.textContent)")
    assert shown == 3 * ["original", "reconstruction", f"do({LABELS[0]})"]
    assert "cell=1" in window.script("return location.hash")
    assert window.violations() == []
    window.script("document.querySelector('#behind button[type=button]').click()")
    numbers_of_all = [float(text) for text in window.script(SHOWN)]
    assert numbers_of_all == sorted(numbers_of_all, reverse=True)
    assert (numbers[0], numbers[2]) == (numbers_of_all[0], numbers_of_all[-1])
    assert window.script("return document.querySelector('#sort').value").startswith("locality.response (judged ")
    window.open(page, "#cell=0")  # the diagonal, where a large number is good
    heads = window.script("return [...document.querySelectorAll('#behind h4')].map(head => head.textContent)")
    numbers = [float(head.rsplit(", ", 1)[1]) for head in heads]
    assert numbers == sorted(numbers)
    window.keys("#behind form button", ESCAPE)
    assert not window.script("return document.querySelector('#behind').open")
    assert window.messages() == []


def test_an_injected_script_does_not_run(window: Browser, page: Path, tmp_path: Path) -> None:
    injected = tmp_path / "injected.html"
    attack = "<script>window.ran = 1</script><img src=data: onerror='window.ran = 1'>"
    injected.write_text(page.read_text().replace("</main>", f"{attack}</main>"))
    window.open(injected)
    assert window.script("return window.ran ?? null") is None
    assert any("Content Security Policy" in message for message in window.messages())
    assert window.script(FIRST_PIXEL)  # the page's own script ran


def test_an_image_opens_with_its_versions_and_closes_with_escape(window: Browser, page: Path) -> None:
    window.open(page)
    window.script("document.querySelector('#thumbs button').focus()")
    window.keys("#thumbs button", "\ue007")
    assert window.script("return document.querySelector('#single').open")
    assert window.script("return document.querySelectorAll('#single canvas').length") == 2 + len(LABELS)
    assert "absent → present" in window.script("return document.querySelector('#single').textContent")
    assert "image=0" in window.script("return location.hash")
    window.keys("#single form button", ESCAPE)
    assert not window.script("return document.querySelector('#single').open")


def test_the_theme_follows_the_preference_and_the_button(window: Browser, page: Path) -> None:
    window.prefer("dark")
    window.open(page)
    dark = window.script(BACKGROUND)
    window.prefer("light")
    light = window.script(BACKGROUND)
    assert dark != light
    window.script("document.querySelector('#theme').click()")
    assert window.script(BACKGROUND) == dark
    assert "theme=dark" in window.script("return location.hash")


def test_rows_are_copied_in_the_chosen_format(window: Browser, page: Path) -> None:
    window.open(page)
    said = "return document.querySelector('#said').textContent"
    for form, text in (
        ("number", "0.5 [0.4, 0.6]"),
        ("address", "locality.focus"),
        ("latex", r"locality.focus & 0.5 & [0.4, 0.6] & 0 & 0.9 & 60 \\"),
        ("markdown", "| locality.focus | 0.5 [0.4, 0.6] | 0 | 0.9 | 60 |"),
        ("csv", "locality.focus,0.5,0.4,0.6,0,0.9,60"),
    ):
        window.script(f"document.querySelector('#format').value = '{form}'")
        window.script(
            "document.querySelector('tr[data-address=\"locality.focus\"] .copy').click();"
            "return new Promise(done => setTimeout(done, 200))"
        )
        assert window.script(said) == f"Copied: {text}"


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(window: Browser, page: Path, width: int) -> None:
    window.resize(width, 900)
    window.open(page)
    assert window.script("return document.documentElement.scrollWidth <= innerWidth")


def test_hostile_names_run_nothing(window: Browser, tmp_path: Path) -> None:
    names = ("<script>window.ran = 1</script>", '"><img src=x onerror="window.ran = 1">', "</script><b>", "x" * 300)
    path = tmp_path / "hostile.html"
    path.write_text(page_html(pictured_run(names)))
    window.open(path, "#image=0&label=1&sort=locality.focus")
    assert window.script("return window.ran ?? null") is None
    assert window.script("return document.querySelectorAll('img[src=x], b').length") == 2 + len(names)  # of the dialog
    assert window.messages() == []


def test_the_table_of_runs_opens_without_an_error(window: Browser, tmp_path: Path) -> None:
    path = tmp_path / "runs.html"
    path.write_text(runs_html({"a": pictured_run()}))
    window.open(path)
    assert window.messages() == []
    assert window.script("return document.querySelector('#theme').hidden") is False


@pytest.mark.parametrize("width", [390, 1280])
def test_no_name_in_the_table_of_runs_is_broken_within_a_word(window: Browser, tmp_path: Path, width: int) -> None:
    path, run = tmp_path / "runs.html", pictured_run()
    data = {**run.header.data, "name": "faces,size=64,seed=0,n=60000"}
    many = [
        measurement(f"metric_{k}", "headline_value", [value("headline_value", 0.5, reference=1.0)]) for k in range(8)
    ]
    run = replace(run, header=replace(run.header, data=data), measurements=(*run, *many))
    path.write_text(runs_html({"one": run, "two": run}))
    window.resize(width, 900)
    window.open(path)
    model, name, box = window.script("""
      const lines = cell => {
        const range = document.createRange();
        range.selectNodeContents(cell);
        return new Set([...range.getClientRects()].map(line => line.top)).size;
      };
      const [model, name] = document.querySelectorAll(".runs tbody td"), box = document.querySelector(".wide");
      return [lines(model), lines(name), [box.scrollWidth > box.clientWidth, getComputedStyle(box).overflowX]];""")
    assert model == 1
    assert name <= 4
    assert box == [True, "auto"]
    assert window.script("return document.documentElement.scrollWidth <= innerWidth")


def test_everything_is_reached_by_keyboard_and_has_a_name(window: Browser, page: Path) -> None:
    window.open(page)
    nameless = window.script("""
        const named = element => ['aria-label', 'aria-labelledby'].some(name => element.getAttribute(name))
            || element.textContent.trim() || element.labels?.length;
        return [...document.querySelectorAll('button, a, input, select, [role=img], dialog')]
            .filter(element => !named(element)).map(element => element.outerHTML);
    """)
    assert nameless == []
    assert (
        window.script('return document.querySelectorAll(\'[tabindex]:not([tabindex="0"],[tabindex="-1"])\').length')
        == 0
    )


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_text_has_enough_contrast(window: Browser, page: Path, scheme: str) -> None:
    window.prefer(scheme)
    window.open(page)
    low = window.script("""
        const channels = colour => colour.match(/[\\d.]+/g).map(Number);
        const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
        const lightness = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
            .reduce((sum, v, k) => sum + v * [.2126, .7152, .0722][k], 0);
        const hasText = element => [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
        const ground = element => {
            for (let at = element; at; at = at.parentElement) {
                const found = channels(getComputedStyle(at).backgroundColor);
                if (found.length === 3 || found[3] > 0) return found;
            }
        };
        const shown = element => hasText(element) && element.checkVisibility();
        return [...document.querySelectorAll('body *')].filter(shown).map(element => {
            const both = [channels(getComputedStyle(element).color), ground(element)].map(lightness);
            const [a, b] = both.sort((x, y) => y - x);
            return [(a + .05) / (b + .05), `${element.tagName}.${element.className} ${element.textContent}`];
        }).filter(([ratio]) => ratio < 4.5)
    """)
    assert low == []


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_axe_finds_no_violation_and_nothing_is_requested(window: Browser, page: Path, scheme: str) -> None:
    window.prefer(scheme)
    window.requests()
    window.open(page)
    assert window.requests() == [page.resolve().as_uri()]
    assert window.violations() == []


@pytest.mark.parametrize(("scheme", "width"), [("dark", 390), ("light", 1280)])
def test_axe_finds_no_violation_in_a_page_of_many_labels_with_everything_open(
    window: Browser, tmp_path: Path, scheme: str, width: int
) -> None:
    path = tmp_path / "report.html"
    path.write_text(page_html(pictured_run([f"Label_{k}_with_a_long_name" for k in range(16)])))
    window.resize(width, 900)
    window.prefer(scheme)
    window.open(path)
    window.script("for (const part of document.querySelectorAll('details')) part.open = true")
    assert window.script("return document.querySelectorAll('*').length") > 3000
    assert window.script("return document.documentElement.scrollWidth <= innerWidth")
    assert window.violations() == []


@pytest.mark.parametrize("width", [390, 1280])
def test_no_row_of_a_matrix_breaks_its_name_within_a_word(window: Browser, tmp_path: Path, width: int) -> None:
    path = tmp_path / "report.html"
    path.write_text(page_html(pictured_run(["Arched_Eyebrows", "Wearing_Necktie"])))
    window.resize(width, 900)
    window.open(path)
    lines = window.script("""
      return [...document.querySelectorAll(".matrix tbody th")].flatMap(head => [...head.childNodes]
        .filter(node => node.nodeType === Node.TEXT_NODE).map(node => {
          const range = document.createRange();
          range.selectNodeContents(node);
          return range.getClientRects().length;
        }))""")
    assert lines
    assert set(lines) == {1}
