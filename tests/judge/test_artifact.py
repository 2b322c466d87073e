import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ccvae_eval.checkpoint import read_bundle, write_bundle
from ccvae_eval.core.errors import CheckpointError, DataError
from ccvae_eval.judge import Judge, train_judge
from ccvae_eval.judge.artifact import judged_on_cpu
from ccvae_eval.model.interface import Label, LabelSchema
from tests.support.fakes import GradedSquares, Squares


@pytest.fixture(scope="module")
def squares():
    return Squares(count=300)


@pytest.fixture(scope="module")
def judge(squares):
    return train_judge(squares, steps=10)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_saved_and_reopened_judge_is_equal_in_every_bit(judge, squares, tmp_path, suffix):
    path = tmp_path / f"judge{suffix}"
    judge.save(path)
    again = Judge.open(path)
    images = squares.batch(np.arange(50)).images
    before, after = judge.log_probabilities(images), again.log_probabilities(images)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.sha256 == judge.sha256
    assert again.record == judge.record
    assert again.temperatures == judge.temperatures
    assert all(t.dtype == torch.float16 for t in read_bundle(path).tensors.values())


def test_a_judge_of_a_continuous_label_is_saved_with_the_labels_moments(tmp_path):
    data = GradedSquares(count=300)
    judge = train_judge(data, steps=10)
    mean, deviation = judge.moments["Smile"]
    assert 25 < mean < 35
    assert 8 < deviation < 15
    judge.save(tmp_path / "judge.safetensors")
    again = Judge.open(tmp_path / "judge.safetensors")
    assert (again.moments, again.sha256) == (judge.moments, judge.sha256)
    images = data.batch(np.arange(5)).images
    assert torch.equal(judge.log_probabilities(images)["Smile"], again.log_probabilities(images)["Smile"])
    only = again.for_labels(LabelSchema((Label("Smile", "continuous"),))).log_probabilities(images)
    assert torch.equal(only["Smile"], again.log_probabilities(images)["Smile"])
    assert replace(judge, moments={"Smile": (mean, 2 * deviation)}).sha256 != judge.sha256
    bundle = read_bundle(tmp_path / "judge.safetensors")
    write_bundle(tmp_path / "without.safetensors", bundle.tensors, {**bundle.metadata, "moments": {}})
    with pytest.raises(CheckpointError, match="moments must name the continuous labels"):
        Judge.open(tmp_path / "without.safetensors")


def test_log_probabilities_cover_every_class_and_sum_to_one(judge, squares):
    found = judge.log_probabilities(squares.batch(np.arange(7)).images)
    assert {name: tuple(t.shape) for name, t in found.items()} == {"Glasses": (7, 2), "Smile": (7, 2), "Hair": (7, 3)}
    assert all(torch.allclose(t.exp().sum(1), torch.ones(7)) for t in found.values())
    assert all(not t.requires_grad for t in found.values())


def test_batches_brought_to_the_cpu_together_keep_their_values_and_memory_order():
    class Transposed:
        """Probabilities that are stored class by class, as some kernels return them."""

        def log_probabilities(self, images):
            return {"Glasses": images[:2].T, "Hair": images[2:].T.contiguous()}

    batches = [torch.rand(5, 7, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    for images, found in zip(batches, judged_on_cpu(Transposed(), batches), strict=True):
        for name, expected in Transposed().log_probabilities(images).items():
            assert torch.equal(found[name], expected)
            assert found[name].stride() == expected.stride()


def test_a_row_does_not_depend_on_the_other_rows(judge, squares):
    images = squares.batch(np.arange(70)).images
    whole = judge.log_probabilities(images)["Hair"]
    for rows in (slice(0, 1), slice(3, 10), slice(32, 70)):
        assert torch.equal(judge.log_probabilities(images[rows])["Hair"], whole[rows])


def test_for_labels_uses_the_order_of_a_models_labels_and_classes(judge, squares):
    images = squares.batch(np.arange(40)).images
    own = judge.log_probabilities(images)
    requested = LabelSchema(
        (
            Label("Hair", "categorical", ("Brown", "Black", "Blond")),
            Label("Glasses"),
            Label("Beard"),
            Label("Smile", "categorical", ("no", "yes")),
        )
    )
    found = judge.for_labels(requested).log_probabilities(images)
    assert list(found) == ["Hair", "Glasses"]
    assert torch.equal(found["Hair"], own["Hair"][:, [2, 0, 1]])
    assert torch.equal(found["Glasses"], own["Glasses"])
    assert judge.for_labels(requested).sha256 == judge.sha256


def test_images_of_another_shape_are_rejected(judge):
    with pytest.raises(DataError, match="needs images of 3 x 32 x 32, got 3 x 64 x 64"):
        judge.log_probabilities(torch.zeros(1, 3, 64, 64))


def test_the_digest_depends_on_weights_temperatures_and_labels(judge, tmp_path):
    path = tmp_path / "other.safetensors"
    for change in ("temperature", "weight", "label"):
        tensors, metadata = dict(judge.tensors), json.loads(json.dumps(judge.metadata()))
        if change == "temperature":
            metadata["temperatures"][0] *= 1.5
        elif change == "weight":
            tensors["heads.bias"] = tensors["heads.bias"] + 1
        else:
            metadata["labels"][0]["name"] = "Spectacles"
        write_bundle(path, tensors, metadata)
        assert Judge.open(path).sha256 != judge.sha256


def test_the_record_gives_origin_and_accuracy(judge, squares):
    plain = json.loads(json.dumps(judge.as_plain()))
    assert plain["sha256"] == judge.sha256
    assert plain["trained_on"] == squares.spec
    assert plain["accuracy"] == judge.record.balanced_accuracy
    assert set(plain["blurred_accuracy"]) == {"Glasses", "Smile", "Hair"}


def _without(key):
    return lambda metadata, tensors: metadata.pop(key)


HOSTILE = {
    "no kind": _without("kind"),
    "no record": _without("record"),
    "another kind": lambda metadata, tensors: metadata.update(kind="model"),
    "missing weight": lambda metadata, tensors: tensors.pop("heads.bias"),
    "superfluous weight": lambda metadata, tensors: tensors.update(more=torch.zeros(1)),
    "weights of another shape": lambda metadata, tensors: tensors.update({"heads.bias": torch.zeros(3)}),
    "weights with NaN": lambda metadata, tensors: tensors.update({"heads.bias": torch.full((7,), torch.nan)}),
    "images of a billion pixels": lambda metadata, tensors: metadata.update(input_shape=[3, 2**15 + 1, 2**15]),
    "negative shape": lambda metadata, tensors: metadata.update(input_shape=[3, -4, 4]),
    "shape of text": lambda metadata, tensors: metadata.update(input_shape="abc"),
    "temperature of zero": lambda metadata, tensors: metadata.update(temperatures=[0.0, 1.0, 1.0]),
    "too few temperatures": lambda metadata, tensors: metadata.update(temperatures=[1.0]),
    "unknown kind of label": lambda metadata, tensors: metadata.update(
        labels=[{"name": "x", "kind": "odd", "classes": []}]
    ),
    "record of text": lambda metadata, tensors: metadata.update(record="good"),
    "accuracy of text": lambda metadata, tensors: metadata["record"].update(accuracy={"Glasses": "high"}),
}


def test_a_malformed_record_names_the_place(judge, tmp_path):
    metadata = json.loads(json.dumps(judge.metadata()))
    metadata["record"]["accuracy"]["Hair"] = "high"
    write_bundle(tmp_path / "x.safetensors", dict(judge.tensors), metadata)
    with pytest.raises(CheckpointError, match=r"record\.accuracy\.Hair must be a number, got 'high'"):
        Judge.open(tmp_path / "x.safetensors")


@pytest.mark.parametrize("damage", HOSTILE.values(), ids=HOSTILE.keys())
def test_malformed_judge_files_are_rejected(judge, tmp_path, damage):
    metadata, tensors = json.loads(json.dumps(judge.metadata())), dict(judge.tensors)
    damage(metadata, tensors)
    path = tmp_path / "broken.safetensors"
    write_bundle(path, tensors, metadata)
    with pytest.raises(CheckpointError, match=r"broken\.safetensors: the file is not a judge"):
        Judge.open(path)
