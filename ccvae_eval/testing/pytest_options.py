"""Options for pytest: which plugin to try. ``ccvae-eval check`` gives them; so can you::

pytest -p ccvae_eval.testing.pytest_options --pyargs ccvae_eval.testing.suite --ccvae-name mine --ccvae-plugin mine.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ccvae_eval.plugins import registry


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ccvae-eval", "the contract suite for one plugin")
    group.addoption("--ccvae-name", help="the name under which it is registered")
    group.addoption("--ccvae-kind", choices=list(registry.KINDS), default="model", help="what it is")
    group.addoption("--ccvae-plugin", action="append", default=[], help="a Python file to register first")
    group.addoption("--ccvae-settings", default="{}", help="settings of the model, a JSON object")
    group.addoption("--ccvae-data", help="labelled images to try it on; default: noise, or drawn faces")
    group.addoption("--ccvae-results", help="a file for the outcome of each test, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    for file in config.getoption("--ccvae-plugin"):
        registry.add_plugin_file(Path(file))
    if config.getoption("--ccvae-results"):
        config.pluginmanager.register(_Results(Path(config.getoption("--ccvae-results"))), "ccvae-results")


class _Results:
    """Writes one line for each test."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, list[dict[str, Any]]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
        said = "" if report.outcome == "passed" else _last_line(report)
        self.rows.append({"test": name, "outcome": report.outcome, "message": said})

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.rows))


def _last_line(report: pytest.TestReport) -> str:
    """What a test said, without where it was said."""
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message if crash else report.longrepr)
    return text.partition(": broken contract: ")[2] or text
