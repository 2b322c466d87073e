"""The live page in a browser: its pictures are torch's, its controls move them, and it requests nothing."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import ccvae_eval
from ccvae_eval.model.interface import ModelContext
from ccvae_eval.plugins.registry import models
from ccvae_eval.report.live.render import live_html
from tests.support.browser import Browser, browser
from tests.support.decoders import Decoded, redraw, upsampling_decoder
from tests.support.fakes import SCHEMA, Squares
from tests.testing.test_models import SETTINGS

RIGHT = "\ue014"
LEVELS = 2
"""Largest difference of a pixel between the page and torch, of 255."""
WRITTEN = "return new Promise(done => setTimeout(() => done(location.hash), 400))"
BACKGROUND = "return getComputedStyle(document.body).backgroundColor"


def built(name: str) -> Any:
    prior = ((0.5, 0.5), (0.4, 0.6), (0.2, 0.3, 0.5))
    model = models[name].from_settings(SETTINGS[name], ModelContext(SCHEMA, (3, 32, 32), prior))
    redraw(model.decoder, 1)
    return model.eval()


MODELS: Mapping[str, Callable[[], Any]] = {
    "upsampling": lambda: Decoded(upsampling_decoder(), names=("Glasses", "Smile")),
    "ccvae": lambda: built("ccvae"),
    "m2": lambda: built("m2"),
    "mccvae": lambda: built("mccvae"),
    "mvae": lambda: built("mvae"),
}


@dataclass(frozen=True)
class Page:
    """A live page, the model that it is made from, and the data that its script reads."""

    path: Path
    model: Any
    data: dict[str, Any]

    @classmethod
    def of(cls, model: Any, folder: Path, data: Any) -> Page:
        run = ccvae_eval.evaluate(model, data, ["reconstruction"], sample=60, judge="none", references=False)
        html = live_html(run, model)
        (folder / "live.html").write_text(html)
        return cls(folder / "live.html", model, json.loads(re.findall(r'id="data">(.*?)</script>', html, re.DOTALL)[0]))

    def codes(self, packed: str, *shape: int) -> NDArray[np.float32]:
        return np.frombuffer(base64.b64decode(packed), np.float32).reshape(len(self.data["ids"]), *shape).copy()

    @property
    def own(self) -> NDArray[np.float32]:
        return self.codes(self.data["codes"], self.data["dim"])

    def expected(self, code: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            image = 255 * self.model.decode(torch.from_numpy(code)[None])[0]
        return np.moveaxis(image.numpy(), 0, 2)


def pixels(window: Browser, canvas: str) -> NDArray[np.float32]:
    size, numbers = window.script(
        "const { width, height } = document.querySelector(arguments[0]);"
        "const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });"
        "context.drawImage(document.querySelector(arguments[0]), 0, 0);"
        "return [[height, width], [...context.getImageData(0, 0, width, height).data]]",
        canvas,
    )
    return np.asarray(numbers, np.float32).reshape(*size, 4)[..., :3]


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Page]:
    made: dict[str, Page] = {}

    def page(name: str) -> Page:
        if name not in made:
            size = 16 if name == "upsampling" else 32
            made[name] = Page.of(MODELS[name](), tmp_path_factory.mktemp("live"), Squares(200, size=size))
        return made[name]

    return page


@pytest.mark.parametrize("name", list(MODELS))
def test_pictures_are_those_of_torch(window: Browser, pages: Callable[[str], Page], name: str) -> None:
    page = pages(name)
    row, dimension, number = 5, page.data["dim"] - 1, 2.5
    image = f"#image={page.data['ids'][row]}"
    code = page.own[row]
    window.open(page.path, image)
    np.testing.assert_allclose(pixels(window, "#reconstruction"), page.expected(code), atol=LEVELS)
    np.testing.assert_array_equal(pixels(window, "#moved"), pixels(window, "#reconstruction"))

    window.open(page.path, f"{image}&z{dimension}={number}")
    code[dimension] = number
    np.testing.assert_allclose(pixels(window, "#moved"), page.expected(code), atol=LEVELS)
    assert np.abs(page.expected(code) - page.expected(page.own[row])).max() > 3 * LEVELS

    changed = 0.0
    for k, label in enumerate(page.data["labels"]):
        classes = len(window.script(f"return [...document.querySelectorAll('input[name=y{k}]')]")) - 1
        for target in range(classes):
            code = page.own[row]
            code[label["columns"]] = page.codes(label["codes"], classes, len(label["columns"]))[row, target]
            window.open(page.path, f"{image}&y{k}={target}")
            np.testing.assert_allclose(pixels(window, "#moved"), page.expected(code), atol=LEVELS)
            changed = max(changed, float(np.abs(page.expected(code) - page.expected(page.own[row])).max()))
    assert changed > 3 * LEVELS
    assert window.messages() == []


def test_sliders_classes_and_images_are_moved_by_keyboard_and_reset(
    window: Browser, pages: Callable[[str], Page]
) -> None:
    window.open(pages("ccvae").path)
    start = pixels(window, "#moved")
    window.keys("#z0", RIGHT * 60)
    assert "z0=" in window.script(WRITTEN)
    assert np.abs(pixels(window, "#moved") - start).max() > 3 * LEVELS
    window.script("document.querySelector('input[name=y0][value=\"1\"]').click()")
    assert window.script(WRITTEN) == "#y0=1"  # the class takes the place of the slider
    window.keys('input[name="image"]', RIGHT)
    assert f"image={pages('ccvae').data['ids'][1]}" in window.script(WRITTEN)
    assert np.abs(pixels(window, "#original") - start).max() > 3 * LEVELS
    window.script("document.querySelector('#reset').click()")
    assert "y0" not in window.script(WRITTEN)
    np.testing.assert_array_equal(pixels(window, "#moved"), pixels(window, "#reconstruction"))


def test_the_difference_is_black_until_something_changes(window: Browser, pages: Callable[[str], Page]) -> None:
    window.open(pages("ccvae").path, "#difference=1")
    assert pixels(window, "#moved").max() == 0
    window.keys("#z0", RIGHT * 60)
    window.script(WRITTEN)
    assert pixels(window, "#moved").max() > 3 * LEVELS


def test_a_model_that_intervenes_by_itself_sets_one_label_at_a_time(
    window: Browser, pages: Callable[[str], Page]
) -> None:
    page = pages("mvae")
    assert all(label["columns"] == list(range(page.data["dim"])) for label in page.data["labels"])
    window.open(page.path, "#y0=1")
    window.script("document.querySelector('input[name=y1][value=\"0\"]').click()")
    assert window.script(WRITTEN) == "#y1=0"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_accessible_in_both_themes_and_widths_without_a_request(
    window: Browser, pages: Callable[[str], Page], scheme: str, width: int
) -> None:
    page = pages("ccvae")
    window.prefer(scheme)
    window.resize(width, 900)
    window.requests()
    window.open(page.path)
    assert window.requests() == [page.path.resolve().as_uri()]
    assert window.messages() == []
    assert window.script("return document.documentElement.scrollWidth <= innerWidth")
    assert window.violations() == []
    assert (window.script(BACKGROUND) == "rgb(255, 255, 255)") == (scheme == "light")


def test_hostile_names_run_nothing(window: Browser, tmp_path: Path) -> None:
    names = ("<script>window.ran = 1</script>", '"><img src=x onerror="window.ran = 1">')
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (120, 16, 16, 3), np.uint8), random.integers(0, 2, (120, 2))
    page = Page.of(Decoded(upsampling_decoder(), names=names), tmp_path, (images, labels.astype(np.float32), names))
    window.open(page.path, "#y0=1")
    assert window.script("return window.ran ?? null") is None
    legends = window.script("return [...document.querySelectorAll('.groups legend')].map(item => item.textContent)")
    assert legends[:2] == list(names)
    assert window.messages() == []
