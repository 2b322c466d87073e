"""``report``: a page beside each run, and a table for a folder of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ccvae_eval.evaluation.storage import write
from tests.support.commands import run_command
from tests.support.runs import pictured_run


@pytest.mark.parametrize("named", ["", "run.json", "renamed.json"])
def test_a_run_gets_a_page_beside_it(tmp_path: Path, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(pictured_run(), tmp_path)
    (tmp_path / "renamed.json").write_bytes((tmp_path / "run.json").read_bytes())
    assert run_command("report", str(tmp_path / named)) == 0
    assert f"Written to {tmp_path / 'report.html'}" in capsys.readouterr().out
    assert "<h2>Single images</h2>" in (tmp_path / "report.html").read_text()


def test_a_folder_of_runs_gets_a_table_that_links_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("first", "second/deep", ".unfinished"):
        write(pictured_run(), tmp_path / name)
    assert run_command("report", str(tmp_path), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "report.html")}
    table = (tmp_path / "report.html").read_text()
    for name in ("first", "second/deep"):
        assert f'<a href="{name}/report.html">' in table
        assert (tmp_path / name / "report.html").is_file()
    assert "unfinished" not in table
    assert not (tmp_path / ".unfinished" / "report.html").exists()


@pytest.mark.parametrize(("make", "message"), [(True, "no run in this folder"), (False, "cannot be opened")])
def test_what_holds_no_run_is_refused(
    tmp_path: Path, make: bool, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "empty"
    if make:
        place.mkdir()
    assert run_command("report", str(place)) == 3
    assert message in capsys.readouterr().err
