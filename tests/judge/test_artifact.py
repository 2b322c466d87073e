import json

import numpy as np
import pytest
import torch

from ccvae_eval.checkpoint import read_bundle, write_bundle
from ccvae_eval.core.errors import CheckpointError, DataError
from ccvae_eval.judge import Judge, train_judge
from ccvae_eval.model.interface import Label, LabelSchema
from tests.support.fakes import Squares


@pytest.fixture(scope="module")
def squares():
    return Squares(count=300)


@pytest.fixture(scope="module")
def judge(squares):
    return train_judge(squares, steps=10)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_saved_and_opened_it_is_the_same_judge_in_every_bit(judge, squares, tmp_path, suffix):
    path = tmp_path / f"judge{suffix}"
    judge.save(path)
    again = Judge.open(path)
    images = squares.batch(np.arange(50)).images
    told, told_again = judge.log_probabilities(images), again.log_probabilities(images)
    assert all(torch.equal(told[name], told_again[name]) for name in told)
    assert again.sha256 == judge.sha256
    assert again.record == judge.record
    assert again.temperatures == judge.temperatures
    assert all(t.dtype == torch.float16 for t in read_bundle(path).tensors.values())


def test_answers_are_log_probabilities_of_every_class(judge, squares):
    told = judge.log_probabilities(squares.batch(np.arange(7)).images)
    assert {name: tuple(t.shape) for name, t in told.items()} == {"Glasses": (7, 2), "Smile": (7, 2), "Hair": (7, 3)}
    assert all(torch.allclose(t.exp().sum(1), torch.ones(7)) for t in told.values())
    assert all(not t.requires_grad for t in told.values())


def test_a_row_does_not_depend_on_the_rows_beside_it(judge, squares):
    images = squares.batch(np.arange(70)).images
    whole = judge.log_probabilities(images)["Hair"]
    for rows in (slice(0, 1), slice(3, 10), slice(32, 70)):
        assert torch.equal(judge.log_probabilities(images[rows])["Hair"], whole[rows])


def test_it_answers_in_the_order_of_a_models_labels_and_classes(judge, squares):
    images = squares.batch(np.arange(40)).images
    own = judge.log_probabilities(images)
    asked = LabelSchema(
        (
            Label("Hair", "categorical", ("Brown", "Black", "Blond")),
            Label("Glasses"),
            Label("Beard"),
            Label("Smile", "categorical", ("no", "yes")),
        )
    )
    told = judge.answering(asked).log_probabilities(images)
    assert list(told) == ["Hair", "Glasses"]
    assert torch.equal(told["Hair"], own["Hair"][:, [2, 0, 1]])
    assert torch.equal(told["Glasses"], own["Glasses"])
    assert judge.answering(asked).sha256 == judge.sha256


def test_images_of_another_shape_are_refused(judge):
    with pytest.raises(DataError, match="3 x 32 x 32"):
        judge.log_probabilities(torch.zeros(1, 3, 64, 64))


def test_the_digest_follows_weights_temperatures_and_labels(judge, tmp_path):
    path = tmp_path / "other.safetensors"
    metadata = json.loads(json.dumps(judge.metadata()))
    for change in ("temperature", "weight", "label"):
        tensors, told = dict(judge.tensors), json.loads(json.dumps(metadata))
        if change == "temperature":
            told["temperatures"][0] *= 1.5
        elif change == "weight":
            tensors["heads.bias"] = tensors["heads.bias"] + 1
        else:
            told["labels"][0]["name"] = "Spectacles"
        write_bundle(path, tensors, told)
        assert Judge.open(path).sha256 != judge.sha256


def test_the_record_says_how_good_it_is_and_from_where(judge, squares):
    plain = json.loads(json.dumps(judge.as_plain()))
    assert plain["sha256"] == judge.sha256
    assert plain["trained_on"] == squares.spec
    assert plain["accuracy"] == judge.record.balanced_accuracy
    assert set(plain["blurred_accuracy"]) == {"Glasses", "Smile", "Hair"}


def _without(key):
    return lambda told, tensors: told.pop(key)


HOSTILE = {
    "no kind": _without("kind"),
    "no record": _without("record"),
    "another kind": lambda told, tensors: told.update(kind="model"),
    "a weight is missing": lambda told, tensors: tensors.pop("heads.bias"),
    "a weight too many": lambda told, tensors: tensors.update(more=torch.zeros(1)),
    "weights of another shape": lambda told, tensors: tensors.update({"heads.bias": torch.zeros(3)}),
    "weights that are not finite": lambda told, tensors: tensors.update({"heads.bias": torch.full((7,), torch.nan)}),
    "an image of a billion pixels": lambda told, tensors: told.update(input_shape=[3, 2**15 + 1, 2**15]),
    "a shape that is none": lambda told, tensors: told.update(input_shape=[3, -4, 4]),
    "a shape of text": lambda told, tensors: told.update(input_shape="abc"),
    "a temperature of zero": lambda told, tensors: told.update(temperatures=[0.0, 1.0, 1.0]),
    "too few temperatures": lambda told, tensors: told.update(temperatures=[1.0]),
    "labels that are none": lambda told, tensors: told.update(labels=[{"name": "x", "kind": "odd", "classes": []}]),
    "a record of text": lambda told, tensors: told.update(record="good"),
    "shares of text": lambda told, tensors: told["record"].update(accuracy={"Glasses": "high"}),
}


@pytest.mark.parametrize("damage", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_that_is_no_judge_is_refused_by_name(judge, tmp_path, damage):
    told, tensors = json.loads(json.dumps(judge.metadata())), dict(judge.tensors)
    damage(told, tensors)
    path = tmp_path / "broken.safetensors"
    write_bundle(path, tensors, told)
    with pytest.raises(CheckpointError, match="is no judge"):
        Judge.open(path)
