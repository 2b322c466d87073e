"""The oracle costs hardly more than the drawing."""

from time import process_time

import pytest
import torch

from ccvae_eval.calibration.oracle import oracle
from ccvae_eval.data.faces import Faces

MOST = 1.35


def _seconds(call, rounds=3):
    times = []
    for _ in range(rounds):
        begun = process_time()
        call()
        times.append(process_time() - begun)
    return min(times)


@pytest.mark.benchmark(group="oracle")
def test_decoding_and_encoding_against_bare_drawing(benchmark):
    faces = Faces()
    ids = faces.split("test")[:400]
    model = oracle(faces, ids)
    factors, labels = faces.factors(ids), faces.labels_of(ids)
    images = faces.batch(ids).images
    codes = model.encode(images).loc
    benchmark.pedantic(model.decode, (codes,), rounds=3, warmup_rounds=1)
    bare = _seconds(lambda: faces.render(factors, labels))
    assert _seconds(lambda: model.decode(codes)) < MOST * bare
    assert _seconds(lambda: model.encode(images)) < bare
    assert torch.equal(model.decode(codes), images)
