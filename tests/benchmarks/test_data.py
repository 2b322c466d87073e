"""Cost of data: drawing faces and reading files must not dominate an evaluation."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import cv2
import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.data.spec import open_data
from ccvae_eval.model.fixed_batches import FIXED_BATCH
from tests.benchmarks.conftest import Budget
from tests.support.costs import ConvolutionalSquaresVAE, min_seconds, seconds
from tests.support.fakes import FACTORS

IMAGES = 512
FACES_TO_DECODING = 3.0
"""Cost of drawing a face, in decodings of the shipped model."""
REGIONS_TO_PICTURES = 110
"""Cost of all nine regions of a face, in faces drawn. Without reuse of unchanged layers it is 185."""
LABELS_TO_PICTURES = 0.25
FOLDER_TO_DECODING = 3.0
PICTURES_TO_RUN = 0.1
"""Reading is done between the decodings, not in a thread beside them: it would gain no more than this."""
RUN_DECODES = 83
"""Images that a default run decodes for each image of two labels (celebahq64, without a judge)."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    cv2.setNumThreads(1)


@pytest.mark.benchmark(group="faces")
def test_drawing_faces(benchmark: BenchmarkFixture, budget: Budget) -> None:
    data = Faces()
    ids = np.arange(IMAGES)
    benchmark.pedantic(data.batch, args=(ids,), rounds=3, warmup_rounds=1)
    network = ConvolutionalSquaresVAE()
    codes = torch.zeros(FIXED_BATCH, FACTORS)

    def decode() -> None:
        with torch.no_grad():
            for _ in range(IMAGES // FIXED_BATCH):
                network.decode(codes)

    def draw() -> object:
        return data.batch(ids)

    budget("drawing a face at 64 pixels / decoding one", lambda: seconds(draw) / seconds(decode), FACES_TO_DECODING)
    budget(
        "labels of a face / drawing it",
        lambda: min_seconds(lambda: data.labels_of(ids)) / min_seconds(draw),
        LABELS_TO_PICTURES,
    )


@pytest.mark.benchmark(group="faces")
def test_regions_of_faces(benchmark: BenchmarkFixture, budget: Budget) -> None:
    ids = np.arange(64)

    def every_region() -> None:
        data = Faces()
        for label in data.schema.names:
            data.region(ids, label)

    benchmark.pedantic(every_region, rounds=1)
    budget(
        "nine regions of a face / drawing it",
        lambda: min_seconds(every_region, rounds=2) / min_seconds(lambda: Faces().batch(ids), rounds=9),
        REGIONS_TO_PICTURES,
    )


def write_zip(folder: Path, count: int, size: int) -> list[bytes]:
    """Writes JPEGs of faces, and a table with one label, into a folder; returns the files' content."""
    pictures = Faces(n=count).pixels(np.arange(count))
    files = [bytes(cv2.imencode(".jpg", cv2.resize(picture, (size, size)))[1]) for picture in pictures]
    with ZipFile(folder / "x.zip", "w") as archive:
        for i, content in enumerate(files):
            archive.writestr(f"{i}.jpg", content)
    rows = "".join(f"{i}.jpg,{i % 2}\n" for i in range(count))
    (folder / "attributes.csv").write_text(f"file,On\n{rows}")
    return files


@pytest.mark.benchmark(group="folder")
def test_reading_pictures_of_256_pixels(benchmark: BenchmarkFixture, budget: Budget, tmp_path: Path) -> None:
    write_zip(tmp_path, 64, size=256)
    data = open_data(f"folder:{tmp_path},crop=256,size=64")
    network = ConvolutionalSquaresVAE()
    codes = torch.zeros(FIXED_BATCH, FACTORS)

    def read() -> object:
        return data.batch(np.arange(64))

    def decode() -> None:
        with torch.no_grad():
            for _ in range(64 * RUN_DECODES // FIXED_BATCH):
                network.decode(codes)

    benchmark.pedantic(read, rounds=1)
    budget("reading JPEGs of 256 pixels / a run's decodings of them", lambda: seconds(read) / seconds(decode),
           PICTURES_TO_RUN)  # fmt: skip


@pytest.mark.benchmark(group="folder")
def test_reading_a_zip(benchmark: BenchmarkFixture, budget: Budget, tmp_path: Path) -> None:
    files = write_zip(tmp_path, IMAGES, size=64)
    data = open_data(f"folder:{tmp_path}")
    benchmark.pedantic(data.batch, args=(np.arange(IMAGES),), rounds=3)

    def decode() -> object:
        return [cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) for content in files]

    budget(
        "reading JPEGs from a zip / decoding them",
        lambda: min_seconds(lambda: data.batch(np.arange(IMAGES))) / min_seconds(decode),
        FOLDER_TO_DECODING,
    )
