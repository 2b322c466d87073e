"""docs/security.md names every case, and tests that exist."""

from __future__ import annotations

import re

import pytest

from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| (.+) \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)


def test_every_case_has_a_row() -> None:
    assert [int(number) for number, *_ in ROWS] == [*range(1, len(ROWS) + 1)]
    assert len(ROWS) == 54


@pytest.mark.parametrize("number", range(1, len(ROWS) + 1))
def test_the_tests_of_a_case_exist(number: int) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", ROWS[number - 1][3])
    assert named or "cannot apply" in ROWS[number - 1][2]
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"


def test_the_files_that_the_page_names_exist() -> None:
    assert all((ROOT / name).is_file() for name in re.findall(r"`((?:tests|tools)/[\w/]+\.py)`", PAGE))
    assert (ROOT / "SECURITY.md").is_file()
