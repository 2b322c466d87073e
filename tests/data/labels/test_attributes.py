from __future__ import annotations

import numpy as np
import pytest

from ccvae_eval.core.errors import DataError, LabelMismatchError, UsageError
from ccvae_eval.data.labels import columns as attributes
from ccvae_eval.data.labels.columns import read_attributes

TABLE = b"file,On,Hair,Split\r\na.png,1,x,train\r\nb.png,,y,test\r\n\r\n"


def test_a_table_is_files_labels_and_splits() -> None:
    found = read_attributes(TABLE, "x.csv")
    assert found.files == ("a.png", "b.png")
    assert found.schema.names == ("On", "Hair")
    assert np.array_equal(found.labels, [[1, 0], [np.nan, 1]], equal_nan=True)
    assert found.splits == ("train", "test")


def test_labels_may_be_chosen_and_others_are_not_looked_at() -> None:
    table = b"file,A,name,B\na,0,same,1\nb,1,same,0\n"
    with pytest.raises(DataError, match="column 'name' has 1 different value"):
        read_attributes(table, "x.csv")
    found = read_attributes(table, "x.csv", ("B", "A"))
    assert found.schema.names == ("B", "A")
    assert found.labels.tolist() == [[1, 0], [0, 1]]
    assert found.splits is None
    with pytest.raises(UsageError, match="no label 'nane'\nDid you mean 'name'"):
        read_attributes(table, "x.csv", ("nane",))


def test_rows_keep_what_belongs_together() -> None:
    found = read_attributes(TABLE, "x.csv").rows([1])
    assert (found.files, found.splits) == (("b.png",), ("test",))
    assert np.array_equal(found.labels, [[np.nan, 1]], equal_nan=True)


def test_quotes_marks_and_blanks() -> None:
    found = read_attributes('\ufefffile , "Hair, long"\n"a,1.png",1\n b.png , 0\n'.encode(), "x.csv")
    assert found.files == ("a,1.png", "b.png")
    assert found.schema.names == ("Hair, long",)
    assert found.labels.tolist() == [[1], [0]]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"", "no rows"),
        (b"file,On\n", "no rows"),
        (b"file,On\na,1\na,0\n", "'a' is named twice"),
        (b"file,On\na,1\nb\n", "row 3 has 1 cells, the first line 2"),
        (b"file,On\na,1,0\n", "row 2 has 3 cells"),
        (b"file,On,On\na,1,0\n", "repeat or are empty"),
        (b"file,\na,1\n", "repeat or are empty"),
        (b"\xff\xfe\x00", "not a table in UTF-8"),
        (b'file,On\na,"1\n', "not a table"),
    ],
)
def test_tables_that_are_none(table: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_attributes(table, "x.csv")


def test_infinite_labels_and_endless_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LabelMismatchError, match="infinite"):
        read_attributes(b"file,age\na,inf\nb,3\n", "x.csv")
    monkeypatch.setattr(attributes, "MOST_BYTES", 10)
    with pytest.raises(DataError, match="MiB"):
        read_attributes(TABLE, "x.csv")
