"""A headless Chromium for tests, driven over the WebDriver protocol; ``browser`` skips where it is not installed."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

START_SECONDS = 60
SCRIPT_SECONDS = 300


class Browser:
    """One browser window.

    Args:
        address: the address of the WebDriver.
        session: the WebDriver's session.
    """

    def __init__(self, address: str, session: str) -> None:
        self._session = f"{address}/session/{session}"

    def call(self, command: str, **arguments: Any) -> Any:
        return _post(f"{self._session}/{command}", arguments)

    def open(self, page: Path, fragment: str = "") -> None:
        """Opens a file and waits until its script has run; the page is always loaded anew."""
        self.call("url", url="about:blank")
        self.call("url", url=page.resolve().as_uri() + fragment)
        self.script("return new Promise(done => setTimeout(done, 300))")

    def script(self, body: str, *arguments: Any) -> Any:
        """Runs the body of a JavaScript function and returns its result; waits for a promise."""
        return self.call("execute/sync", script=body, args=list(arguments))

    def keys(self, selector: str, text: str) -> None:
        """Types into the element of a selector, as a person at the keyboard would."""
        (element,) = self.call("element", using="css selector", value=selector).values()
        self.call(f"element/{element}/value", text=text)

    def drag(self, selector: str, start: tuple[int, int], end: tuple[int, int], kind: str = "mouse") -> None:
        """Drags between two points, in pixels from the centre of the element; ``kind`` is "mouse" or "touch"."""
        origin = self.call("element", using="css selector", value=selector)
        moves = [
            {"type": "pointerMove", "duration": 50, "origin": origin, "x": x, "y": y} for x, y in (start, end)
        ]  # fmt: skip
        press = [{"type": kind_of, "button": 0} for kind_of in ("pointerDown", "pointerUp")]
        actions = [moves[0], press[0], moves[1], press[1]]
        finger = {"type": "pointer", "id": kind, "parameters": {"pointerType": kind}, "actions": actions}
        self.call("actions", actions=[finger])

    def resize(self, width: int, height: int) -> None:
        """Sets the size of the viewport in pixels, also below the least width of a window."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=metrics)

    def prefer(self, scheme: str) -> None:
        """Sets the colour scheme that the user prefers, "dark" or "light"."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params={"features": [feature]})

    def media(self, name: str) -> None:
        """Shows the page as on "screen" or in "print"."""
        self.call("goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params={"media": name})

    def screenshot(self, path: Path, height: int | None = None) -> None:
        """Writes a picture of the first ``height`` pixels of the page (default: of the window) as PNG."""
        more = {} if height is None else {"captureBeyondViewport": True, "clip": {
            "x": 0, "y": 0, "width": self.script("return innerWidth"), "height": height, "scale": 1}}  # fmt: skip
        found = self.call("goog/cdp/execute", cmd="Page.captureScreenshot", params={"format": "png", **more})
        path.write_bytes(base64.b64decode(found["data"]))

    def messages(self) -> list[str]:
        """The messages of the console since the last call: errors, warnings and refused requests."""
        return [str(entry["message"]) for entry in self.call("se/log", type="browser")]

    def requests(self) -> list[str]:
        """The addresses requested since the last call, without data that the page contains itself."""
        events = [json.loads(entry["message"])["message"] for entry in self.call("se/log", type="performance")]
        urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("data:", "blob:", "about:"))]

    def violations(self) -> list[str]:
        """What axe-core finds against accessibility: the rule, its remedy, and the elements that it names.

        The time grows with the elements of the page, hidden ones included: 10 s and more for the 14,000 of a full run.
        """
        axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
        self.script(Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
        found = self.script("return axe.run({ resultTypes: ['violations'] })")["violations"]
        return [f"{v['id']}: {v['help']}: {[node['target'] for node in v['nodes'][:5]]}" for v in found]


def _post(address: str, content: Any, method: str = "POST") -> Any:
    body = json.dumps(content).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=SCRIPT_SECONDS) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from None


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile in ``folder``; skips the test without Chromium and its driver."""
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("Chromium and chromedriver are not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "binary": chromium,
        "args": [
            "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--disable-quic", "--disable-dev-shm-usage",
            f"--user-data-dir={folder / 'profile'}",
        ],
    }  # fmt: skip
    wanted = {
        "browserName": "chrome",
        "timeouts": {"script": 1000 * SCRIPT_SECONDS},
        "goog:chromeOptions": options,
        "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
    }
    service = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    session = None
    try:
        end = time.monotonic() + START_SECONDS
        while session is None:
            try:
                session = _post(f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
        yield Browser(address, session)
    finally:
        if session is not None:
            _post(f"{address}/session/{session}", {}, "DELETE")
        service.terminate()
        service.wait()
