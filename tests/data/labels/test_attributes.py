from __future__ import annotations

import numpy as np
import pytest

from ccvae_eval.core.errors import DataError, LabelMismatchError, UsageError
from ccvae_eval.data.labels import columns as attributes
from ccvae_eval.data.labels.columns import read_attributes

TABLE = b"file,On,Hair,Split\r\na.png,1,x,train\r\nb.png,,y,test\r\n\r\n"


def test_a_table_has_files_labels_and_splits() -> None:
    found = read_attributes(TABLE, "x.csv")
    assert found.files == ("a.png", "b.png")
    assert found.schema.names == ("On", "Hair")
    assert np.array_equal(found.labels, [[1, 0], [np.nan, 1]], equal_nan=True)
    assert found.splits == ("train", "test")


def test_columns_that_are_not_chosen_are_ignored() -> None:
    table = b"file,A,name,B\na,0,same,1\nb,1,same,0\n"
    with pytest.raises(DataError, match="column 'name' has only one value, 'same'"):
        read_attributes(table, "x.csv")
    found = read_attributes(table, "x.csv", ("B", "A"))
    assert found.schema.names == ("B", "A")
    assert found.labels.tolist() == [[1, 0], [0, 1]]
    assert found.splits is None
    with pytest.raises(UsageError, match="the table has no label 'nane'\nDid you mean 'name'"):
        read_attributes(table, "x.csv", ("nane",))


def test_rows_select_files_labels_and_splits() -> None:
    found = read_attributes(TABLE, "x.csv").rows([1])
    assert (found.files, found.splits) == (("b.png",), ("test",))
    assert np.array_equal(found.labels, [[np.nan, 1]], equal_nan=True)


def test_quotes_byte_order_marks_and_spaces() -> None:
    found = read_attributes('\ufefffile , "Hair, long"\n"a,1.png",1\n b.png , 0\n'.encode(), "x.csv")
    assert found.files == ("a,1.png", "b.png")
    assert found.schema.names == ("Hair, long",)
    assert found.labels.tolist() == [[1], [0]]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"", "no rows\nThe first line names the columns"),
        (b"file,On\n", "no rows"),
        (b"file,On\na,1\na,0\n", "'a' is listed twice"),
        (b"file,On\na,1\nb\n", "row 3 must have 2 cells like the first line, got 1"),
        (b"file,On\na,1,0\n", "row 2 must have 2 cells like the first line, got 3"),
        (b"file,On,On\na,1,0\n", "2 columns are named 'On'"),
        (b"file,On,\na,1,0\n", "column 3 has no name"),
        (b"\xff\xfe\x00", "not a CSV table.*\n.*UTF-8"),
        (b'file,On\na,"1\n', "not a CSV table"),
    ],
)
def test_malformed_tables_are_rejected(table: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_attributes(table, "x.csv")


def test_infinite_labels_and_large_tables_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LabelMismatchError, match="must be finite"):
        read_attributes(b"file,age\na,inf\nb,3\n", "x.csv")
    monkeypatch.setattr(attributes, "MAX_TABLE_BYTES", 10)
    with pytest.raises(DataError, match="MiB"):
        read_attributes(TABLE, "x.csv")


def test_a_table_of_too_many_cells_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "MAX_CELLS", 6)
    assert len(read_attributes(b"file,On\na,1\nb,0\n", "x.csv").files) == 2
    with pytest.raises(DataError, match="x.csv: the table is too large \\(more than 6 cells"):
        read_attributes(b"file,On\na,1\nb,0\nc,1\n", "x.csv")
