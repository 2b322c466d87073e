"""Parquet files as Hugging Face writes them, whole and damaged."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ccvae_eval.core.errors import DataError, UsageError
from ccvae_eval.data.labels.relabel import remarks
from ccvae_eval.data.sets import parquet as module
from ccvae_eval.data.spec import open_data
from ccvae_eval.testing.data import check_data_set
from tests.support.grid_files import noise
from tests.support.parquet_files import CLASSES, shard, shards


def shown(data, ids) -> np.ndarray:
    return (data.batch(ids).images * 255).round().numpy().astype(np.uint8).transpose(0, 2, 3, 1)


def test_shards_of_hugging_face(tmp_path: Path) -> None:
    data = open_data(f"parquet:{shards(tmp_path)}")
    check_data_set(data)
    assert data.schema["kind"].classes == CLASSES
    wanted = np.concatenate([noise(8, 8, 8, 3, seed=2), noise(10, 8, 8, 3), noise(9, 8, 8, 3, seed=1)])
    assert np.array_equal(shown(data, np.arange(27)), wanted)
    assert np.array_equal(shown(data, np.arange(27)[::-2]), wanted[::-2])
    assert data.split("test").tolist() == list(range(8))
    assert 0 < len(data.split("judge")) < 19
    kinds = [i % 3 for count in (8, 10, 9) for i in range(count)]
    assert data.labels_of(np.arange(27))[:, 0].tolist() == kinds
    assert open_data(data.spec).digest == data.digest


def test_one_file_with_labels_of_every_kind(tmp_path: Path) -> None:
    columns = {
        "on": [True, False, None, True] * 3,
        "number": list(range(12)),
        "size": [0.5, None, 2.5, 1.0] * 3,
        "word": ["a", "b", None, "a"] * 3,
        "boxes": [[1, 2]] * 12,
    }
    data = open_data(f"parquet:{shard(tmp_path / 'all.parquet', 12, **columns)}")
    check_data_set(data)
    assert [(label.name, label.kind) for label in data.schema] == [
        ("kind", "categorical"), ("on", "binary"), ("number", "categorical"), ("size", "continuous"),
        ("word", "categorical"),
    ]  # fmt: skip
    np.testing.assert_array_equal(
        data.labels_of(np.arange(3)), [[0, 1, 0, 0.5, 0], [1, 0, 1, np.nan, 1], [2, np.nan, 2, 2.5, np.nan]]
    )
    assert len(data.split("test"))
    assert "Columns that are not labels: boxes." in remarks(data)
    some = open_data(f"parquet:{tmp_path},labels=word|kind,size=4,channels=1")
    assert (some.schema.names, some.input_shape) == (("word", "kind"), (1, 4, 4))


def test_missing_classes_and_missing_images(tmp_path: Path) -> None:
    images = [
        {"bytes": None, "path": "gone.png"},
        *parquet.read_table(shard(tmp_path / "a.parquet", 5))["image"].to_pylist(),
    ]
    parquet.write_table(pa.table({"image": images, "kind": [-1, 0, 1, 2, 1, 0]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="b.parquet/00000000: the row contains no image"):
        open_data(f"parquet:{tmp_path / 'b.parquet'},labels=kind")
    data = open_data(f"parquet:{tmp_path / 'b.parquet'},on_error=skip")
    assert (len(data), data.unreadable) == (5, ("b.parquet/00000000",))


def test_the_column_of_images_may_be_named_and_be_plain_bytes(tmp_path: Path) -> None:
    cells = [cell["bytes"] for cell in parquet.read_table(shard(tmp_path / "a.parquet", 6))["image"].to_pylist()]
    parquet.write_table(pa.table({"raw": cells[::-1], "photo": cells, "y": [0, 1] * 3}), tmp_path / "b.parquet")
    data = open_data(f"parquet:{tmp_path / 'b.parquet'},image=photo")
    assert np.array_equal(shown(data, np.arange(6)), noise(6, 8, 8, 3))
    assert np.array_equal(shown(open_data(f"parquet:{tmp_path / 'b.parquet'}"), np.arange(6)), noise(6, 8, 8, 3)[::-1])
    assert data.schema.names == ("y",)
    with pytest.raises(DataError, match="the column 'y' does not hold images"):
        open_data(f"parquet:{tmp_path / 'b.parquet'},image=y")


def test_few_row_groups_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHED_BYTES", 1)
    data = open_data(f"parquet:{shards(tmp_path)}")
    order = np.random.default_rng(0).permutation(27)
    assert np.array_equal(shown(data, order), shown(open_data(f"parquet:{tmp_path}"), np.arange(27))[order])
    assert len(data._store._groups) == 1
    monkeypatch.setattr(module, "MAX_GROUP_BYTES", 10)
    with pytest.raises(DataError, match="has .* bytes, the limit is 10"):
        open_data(f"parquet:{tmp_path}")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = shard(tmp_path / "train-00000-of-00001.parquet", 12)
    whole = path.read_bytes()
    for content in (b"", whole[:50], whole[: len(whole) // 2], whole[:-4], b"<html>" + whole[6:-20]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="train-00000-of-00001.parquet"):
            open_data(f"parquet:{tmp_path}")
    parquet.write_table(pa.table({"y": [1, 2]}), path)
    with pytest.raises(DataError, match=r"no column holds images .the columns are y .int64"):
        open_data(f"parquet:{tmp_path}")
    path.write_bytes(whole)
    parquet.write_table(pa.table({"image": [b"x"]}), tmp_path / "z.parquet")
    with pytest.raises(DataError, match="z.parquet: the columns are not those of train-00000"):
        open_data(f"parquet:{tmp_path}")


def test_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shard(tmp_path / "a.parquet", 5)
    monkeypatch.setattr(module, "MAX_IMAGE_BYTES", 10)
    with pytest.raises(DataError, match="a.parquet/00000000: the file is too large"):
        open_data(f"parquet:{path}")
    monkeypatch.setattr(module, "MAX_ROWS", 4)
    with pytest.raises(DataError, match="the files have too many rows .the limit is 4"):
        open_data(f"parquet:{path}")


def test_wrong_requests_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="contains no parquet files"):
        open_data(f"parquet:{tmp_path}")
    path = shard(tmp_path / "a.parquet", 5)
    for option in ("labels=kid", "crop=square", "n=3"):
        with pytest.raises(UsageError):
            open_data(f"parquet:{path},{option}")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="a.parquet: needs the package pyarrow"):
        open_data(f"parquet:{path}")
