"""A report of a plugin that fails, and one without its method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ccvae_eval.core.errors import InputError, PluginError
from ccvae_eval.evaluation.run import Header, Run
from ccvae_eval.plugins import registry
from ccvae_eval.report.interface import write_report

PLUGIN = """
class Failing:
    def write(self, run, folder):
        raise KeyError("table")


class Closed(Failing):
    def __init__(self):
        raise RuntimeError("no licence")


class Empty: ...


class Writing:
    def write(self, run, folder):
        (folder / "x.txt").write_text("x")
        return [folder / "x.txt"]


CCVAE_EVAL = {"reports": {"failing": Failing, "closed": Closed, "empty": Empty, "writing": Writing}}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(registry, "_files", {})
    (tmp_path / "my.py").write_text(PLUGIN)
    registry.add_plugin_file(tmp_path / "my.py")
    return Run(Header(seed=0), (), {})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("failing", "report 'failing' failed in write(run, folder) (KeyError: 'table')\nrun.json has been written."),
        ("closed", "report 'closed' cannot be created (RuntimeError: no licence)"),
        ("empty", "report 'empty' has no write(run, folder)"),
    ],
)
def test_a_report_that_fails_is_named_with_its_file(name: str, message: str, run: Run, tmp_path: Path) -> None:
    with pytest.raises(PluginError) as caught:
        write_report(name, run, tmp_path / "out")
    assert f"{tmp_path / 'my.py'}: {message}" in str(caught.value)


def test_a_report_returns_its_files_and_a_folder_that_cannot_be_made_is_not_its_fault(run: Run, tmp_path: Path) -> None:
    assert write_report("writing", run, tmp_path / "out") == [tmp_path / "out" / "x.txt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="folder cannot be created"):
        write_report("writing", run, tmp_path / "file")
