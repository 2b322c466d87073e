"""Codes and factors as tables: CSV and parquet agree, and malformed tables are rejected."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ccvae_eval.cli.main import main
from ccvae_eval.core.errors import DataError, UsageError
from ccvae_eval.data.labels import columns
from ccvae_eval.data.sets import codes as codes_module
from ccvae_eval.data.sets.codes import numbers_or_text, read_codes

CODES = "a,b\n0.5,1\n-2,3\n1e3,0\n"
FACTORS = "shape,size,split\nround,1,train\n,2,train\nsquare,,test\n"


def written(folder: Path, codes: str = CODES, factors: str = FACTORS) -> tuple[Path, Path]:
    (folder / "codes.csv").write_text(codes)
    (folder / "factors.csv").write_text(factors)
    return folder / "codes.csv", folder / "factors.csv"


def test_reading_a_pair_of_csv_files(tmp_path: Path) -> None:
    found = read_codes(*written(tmp_path))
    assert found.codes.tolist() == [[0.5, 1], [-2, 3], [1000, 0]]
    assert found.arrays["names"] == ["shape", "size"]
    assert found.factors[:, 0].tolist() == ["round", "", "square"]
    assert found.factors[:2, 1].tolist() == [1, 2]
    assert np.isnan(found.factors[2, 1])
    assert found.arrays["train"].tolist() == [True, True, False]
    assert found.arrays["test"].tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        ("a,b\n1,x\n2,y\n3,z\n", FACTORS, "column 'b' contains 'x'"),
        ("a,b\n1,2\n", FACTORS, "the factors have 3 rows, the codes 1"),
        (CODES, "split\ntrain\ntrain\ntest\n", "the table has no column of factors"),
        (CODES, FACTORS.replace("test", "dev"), "split must be train or test, got 'dev'"),
        (CODES, "s,s\n1,2\n1,2\n1,2\n", "the same name"),
        (CODES.replace("-2,3", "-2"), FACTORS, "line 3: the row must have 2 cells like the header, got 1"),
        ("a,b\n", FACTORS, "needs a header line and at least one row"),
    ],
)
def test_malformed_tables_are_rejected(codes: str, factors: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_codes(*written(tmp_path, codes, factors))


@pytest.mark.parametrize(("module", "limit"), [(columns, "MAX_CELLS"), (codes_module, "MAX_CODES_BYTES")])
def test_tables_beyond_the_limits_are_rejected(
    module: ModuleType, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, limit, 5)
    with pytest.raises(DataError, match=r"codes.csv.*too large"):
        read_codes(*written(tmp_path))


def test_a_table_of_codes_needs_factors(tmp_path: Path) -> None:
    for name in ("codes.csv", "codes.parquet"):
        with pytest.raises(UsageError, match="needs a table of factors"):
            read_codes(tmp_path / name)


def test_without_pyarrow_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in ("a.parquet", "b.parquet"):
        (tmp_path / name).write_bytes(b"PAR1")
    with pytest.raises(SystemExit) as ended:
        main(["disentanglement", "--codes", str(tmp_path / "a.parquet"), "--factors", str(tmp_path / "b.parquet")])
    assert ended.value.code == 3
    message = capsys.readouterr().err
    assert "needs the package pyarrow, which is not installed" in message
    assert "pip install 'ccvae-eval[parquet]'" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("cells", [[[1, 2], None], [b"x"], ["a", 3]])
def test_cells_of_another_type_are_rejected(cells: list[Any]) -> None:
    with pytest.raises(DataError, match="numbers or text"):
        numbers_or_text(cells, "x")


def test_parquet_files_equal_csv_files(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    from pyarrow import parquet

    codes = {"a": [0.5, -2.0, 1000.0], "b": [1, 3, 0]}
    factors = {
        "shape": ["round", None, "square"],
        "size": [1, 2, None],
        "split": arrow.array(["train", "train", "test"]).dictionary_encode(),
    }
    parquet.write_table(arrow.table(codes), tmp_path / "codes.parquet")
    parquet.write_table(arrow.table(factors), tmp_path / "factors.pq")
    columnar, text = read_codes(tmp_path / "codes.parquet", tmp_path / "factors.pq"), read_codes(*written(tmp_path))
    assert np.array_equal(columnar.codes, text.codes)
    assert repr(columnar.factors.tolist()) == repr(text.factors.tolist())
    assert columnar.arrays["names"] == text.arrays["names"]
    assert np.array_equal(columnar.arrays["train"], text.arrays["train"])
    mixed = read_codes(tmp_path / "codes.parquet", tmp_path / "factors.csv")
    assert np.array_equal(mixed.codes, text.codes)
    (tmp_path / "codes.parquet").write_bytes(b"PAR1 no more PAR1")
    with pytest.raises(DataError, match="not a readable parquet file"):
        read_codes(tmp_path / "codes.parquet", tmp_path / "factors.pq")
