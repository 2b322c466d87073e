"""``report --figure``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ccvae_eval.evaluation.storage import write
from tests.support.commands import run_command
from tests.support.runs import pictured_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(pictured_run(), tmp_path / "run")
    return tmp_path / "run"


def test_one_figure_is_written_in_a_format_and_width(folder: Path, tmp_path: Path) -> None:
    density = (folder, "--figure", "density@Smiling", "--width", "85mm")
    assert run_command("report", *density, "--out", tmp_path / "a.svg") == 0
    assert 'width="240.9' in (tmp_path / "a.svg").read_text()  # 85 mm in points
    strips = (folder, "--figure", "locality@Smiling", "--kind", "strips", "--images", "2,5")
    assert run_command("report", *strips, "--format", "pdf") == 0
    assert (folder / "figures" / "locality-Smiling-strips-2-5.pdf").read_bytes().startswith(b"%PDF")
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--figure", "locality", "--images", "99"), "Images with pictures: 0, 1, 2"),
        (("--figure", "locality", "--images", "one"), "ids separated by commas"),
        (("--figure", "density", "--width", "3 feet"), "in, cm, mm or pt"),
        (("--figure", "density", "--width", "1mm"), "between 1.5 and 40 inches"),
        (("--figure", "density", "--out", "a.gif"), "must end in .pdf, .svg or .png"),
        (("--format", "pdf"), "--format needs --figure"),
        (("--data", "faces"), "--data needs --live"),
        (("--figure", "density", "--live", "model.pt"), "--figure and --live exclude each other"),
    ],
)
def test_a_wrong_option_is_an_error(arguments: tuple[str, ...], message: str, folder: Path, capsys: Any) -> None:
    assert run_command("report", folder, *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
