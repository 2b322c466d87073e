"""docs/security.md names every case, and tests that exist."""

from __future__ import annotations

import re

import pytest

from ccvae_eval.checkpoint.safe_reader import child
from ccvae_eval.core import array_files
from ccvae_eval.data.images import decode
from ccvae_eval.data.labels import columns
from ccvae_eval.data.sets import celeba, codes, matlab, mnist, npz, parquet
from ccvae_eval.data.sets.grid import rows
from ccvae_eval.evaluation.arrays import LARGEST_PICTURES
from ccvae_eval.evaluation.storage import MAX_EVIDENCE_BYTES
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


def test_the_limits_are_those_of_the_code() -> None:
    promise = PAGE.partition("3. **Limits.**")[2].partition("4. **")[0]
    assert f"{child.MAX_MEMORY_BYTES >> 20} MiB of memory" in promise
    assert f"{child.seconds_for(0)} s of CPU" in promise
    section = PAGE.partition("## Limits of data")[2].partition("\n## ")[0]
    for limit in (
        f"up to {npz.MAX_HELD_BYTES >> 20} MiB", f"{array_files.MAX_ROW_BYTES >> 20} MiB for an image",
        f"{npz.MAX_IMAGES:,} images", f"{array_files.MAX_UNPACKED_BYTES >> 30} GiB, and the free space",
        f"{npz.MAX_LABELS:,} cells", f"{npz.MAX_NAMES:,} names", f"{npz.MAX_ARRAYS_BYTES >> 20} MiB of the arrays",
        f"{mnist.MAX_BYTES >> 20} MiB; `npz:`",
        f"{columns.MAX_TABLE_BYTES >> 20} MiB and {codes.MAX_CODES_BYTES >> 20} MiB",
        f"{decode.MAX_IMAGE_BYTES >> 20} MiB and {decode.MAX_PIXELS:,} pixels for an image",
        f"{columns.MAX_CELLS:,} cells", f"{columns.MAX_ROW_LENGTH:,} characters",
        f"{columns.MAX_TEXT_BYTES >> 20} MiB of text",
        f"{celeba.MAX_TABLE_BYTES >> 20} MiB, {celeba.MAX_LINES:,} lines",
        f"{rows.MAX_BYTES >> 30} GiB, {rows.MAX_ROW_BYTES >> 20} MiB for an image, {rows.MAX_TABLE_BYTES >> 20} MiB",
        f"up to {rows.HELD_BYTES >> 20} MiB; larger", f"{rows.MAX_BAND_BYTES >> 20} MiB for HDF5 images",
        f"{matlab.MAX_ARRAY_BYTES >> 30} GiB for an array", f"{parquet.MAX_GROUP_BYTES >> 20} MiB for the images of a",
        f"{parquet.MAX_ROWS:,} rows",
        f"{MAX_EVIDENCE_BYTES >> 30} GiB, {2 * LARGEST_PICTURES >> 20} MiB and {MAX_EVIDENCE_BYTES >> 30} GiB",
    ):  # fmt: skip
        assert limit in section


def test_the_files_that_the_page_names_exist() -> None:
    assert all((ROOT / name).is_file() for name in re.findall(r"`((?:tests|tools)/[\w/]+\.py)`", PAGE))
    assert (ROOT / "SECURITY.md").is_file()
