"""Cost of the oracle relative to drawing the images."""

import pytest
import torch

from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.oracle.model import oracle
from tests.support.costs import min_seconds

MAX_RATIO = 1.6
"""On an idle machine: 1.33 to 1.41. The budget guards against drawing every image twice."""


@pytest.fixture
def one_thread():
    """With several threads, processor time would include waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.benchmark(group="oracle")
def test_decoding_and_encoding_against_bare_drawing(benchmark, budget, one_thread):
    faces = Faces()
    ids = faces.split("test")[:400]
    model = oracle(faces, ids)
    factors, labels = faces.factors(ids), faces.labels_of(ids)
    images = faces.batch(ids).images
    codes = model.encode(images).loc
    benchmark.pedantic(model.decode, (codes,), rounds=3, warmup_rounds=1)

    def draw():
        return faces.render(factors, labels)

    budget(
        "decoding by the reference model / drawing",
        lambda: min_seconds(lambda: model.decode(codes), 7) / min_seconds(draw, 7),
        MAX_RATIO,
    )
    budget(
        "encoding by the reference model / drawing",
        lambda: min_seconds(lambda: model.encode(images), 7) / min_seconds(draw, 7),
        1.0,
    )
    assert torch.equal(model.decode(codes), images)
