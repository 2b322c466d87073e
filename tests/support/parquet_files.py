"""Parquet files as Hugging Face writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from tests.support.grid_files import noise, png

CLASSES = ("cat", "dog", "eel")


def shard(path: Path, count: int, seed: int = 0, group: int = 4, **columns: list[Any]) -> Path:
    """A file of images with the ClassLabel ``kind`` and further columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(pixels), "path": f"{i}.png"} for i, pixels in enumerate(noise(count, 8, 8, 3, seed=seed))]
    table = pa.table({"image": images, "kind": [i % 3 for i in range(count)], **columns})
    features = {"image": {"_type": "Image"}, "kind": {"names": list(CLASSES), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(table.replace_schema_metadata(metadata), path, row_group_size=group)
    return path


def shards(place: Path) -> Path:
    for name, count, seed in (
        ("train-00000-of-00002", 10, 0),
        ("train-00001-of-00002", 9, 1),
        ("test-00000-of-00001", 8, 2),
    ):
        shard(place / "data" / f"{name}.parquet", count, seed)
    return place
