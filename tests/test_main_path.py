"""``locality ckpt.pt`` stays readable: it runs through few files and needs few types."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import ROOT

MOST_FILES, MOST_TYPES = 69, 59
"""Today's numbers: lower them when the path gets shorter. The aim is 60 files and 40 types."""


@pytest.mark.slow
def test_the_main_path_runs_through_few_files_and_types() -> None:
    """In a process of its own: caches and imports of other tests would shorten the path."""
    tool = [sys.executable, str(ROOT / "tools" / "trace_main_path.py")]
    lines = subprocess.run(tool, capture_output=True, text=True, check=True).stdout.splitlines()
    files, types = (int(line.split()[0]) for line in lines[-2:])
    assert 20 < files <= MOST_FILES
    assert 20 < types <= MOST_TYPES
