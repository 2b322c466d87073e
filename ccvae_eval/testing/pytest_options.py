"""Options for pytest that name the plugin to test. ``ccvae-eval check`` passes them; to run the suite by hand::

pytest -p ccvae_eval.testing.pytest_options --pyargs ccvae_eval.testing.suite --ccvae-name mine --ccvae-plugin mine.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ccvae_eval.plugins import registry


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ccvae-eval", "the conformance suite for one plugin")
    group.addoption("--ccvae-name", help="the registered name of the plugin")
    group.addoption("--ccvae-kind", choices=list(registry.KINDS), default="model", help="the kind of the plugin")
    group.addoption("--ccvae-plugin", action="append", default=[], help="a Python file to register first")
    group.addoption("--ccvae-settings", default="{}", help="settings of the model, a JSON object")
    group.addoption("--ccvae-data", help="labelled images to test it on; default: noise, or rendered faces")
    group.addoption("--ccvae-results", help="a JSON file to write the outcome of each test to")


def pytest_configure(config: pytest.Config) -> None:
    for file in config.getoption("--ccvae-plugin"):
        registry.add_plugin_file(Path(file))
    if config.getoption("--ccvae-results"):
        config.pluginmanager.register(_Results(Path(config.getoption("--ccvae-results"))), "ccvae-results")


class _Results:
    """Collects the outcome of each test and writes them as JSON."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, list[dict[str, Any]]()

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        title = (getattr(item, "obj", None).__doc__ or item.name).strip().removesuffix(".")
        item.user_properties.append(("title", title))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        message = "" if report.outcome == "passed" else _message(report)
        self.rows.append({"test": dict(report.user_properties)["title"], "outcome": report.outcome, "message": message})

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.rows))


def _message(report: pytest.TestReport) -> str:
    """The message of a failed or skipped test, without its location."""
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message if crash else report.longrepr)
    return text.partition(": broken contract: ")[2] or text
