import json
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import pytest

from ccvae_eval.core.errors import CheckpointError, DataError, LabelMismatchError
from ccvae_eval.judge import judge_source, selection, train_judge
from ccvae_eval.judge.artifact import FIXED, VERSION
from ccvae_eval.judge.selection import Wanted
from ccvae_eval.judge.training import STEPS
from ccvae_eval.model.interface import Label, LabelSchema
from tests.support.fakes import GRADED, GradedSquares, Squares


@pytest.fixture
def squares():
    return Squares(count=300)


@pytest.fixture
def trainings(monkeypatch):
    """Replaces training by a short one and lists the data sets trained on."""
    made = []

    def short(data, **given):
        made.append(data)
        return train_judge(data, **given, steps=5)

    monkeypatch.setattr(selection, "train_judge", short)
    return made


def test_a_second_evaluation_uses_the_cached_judge(squares, trainings, tmp_path):
    notices = []
    one = judge_source(squares, cache_dir=tmp_path, notice=notices.append).require()
    two = judge_source(squares, cache_dir=tmp_path, notice=notices.append).require()
    assert one.sha256 == two.sha256
    assert len(trainings) == 1
    assert len(notices) == 1
    assert notices[0].startswith("training a judge for Glasses, Smile, Hair: at most about ")
    assert "--judge none" in notices[0]
    assert "--judge FILE" in notices[0]
    assert len(list(tmp_path.iterdir())) == 1


def test_without_training_only_a_cached_judge_is_used(squares, trainings, tmp_path):
    assert judge_source(squares, cache_dir=tmp_path).judge is None
    assert not trainings
    one = judge_source(squares, cache_dir=tmp_path).require()
    assert judge_source(squares, cache_dir=tmp_path).judge.sha256 == one.sha256
    assert len(trainings) == 1


def test_other_data_or_another_seed_need_another_judge(squares, trainings, tmp_path):
    judge_source(squares, cache_dir=tmp_path).require()
    judge_source(squares, cache_dir=tmp_path, seed=1).require()
    judge_source(Squares(count=330), cache_dir=tmp_path).require()
    assert len(trainings) == 3


def test_a_damaged_cached_judge_is_trained_again_with_a_notice(squares, trainings, tmp_path):
    one = judge_source(squares, cache_dir=tmp_path).require()
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:-9])
    notices = []
    assert judge_source(squares, cache_dir=tmp_path, notice=notices.append).require().sha256 == one.sha256
    assert "cannot be read and is trained again" in notices[0]
    assert judge_source(squares, cache_dir=tmp_path, notice=pytest.fail).require().sha256 == one.sha256


def test_an_unwritable_cache_gives_a_notice(squares, trainings, tmp_path):
    (tmp_path / "file").write_text("in the way")
    notices = []
    assert judge_source(squares, cache_dir=tmp_path / "file" / "folder", notice=notices.append).require() is not None
    assert "Nothing is cached" in notices[-1]


def test_a_missing_home_folder_gives_a_notice(squares, trainings, monkeypatch):
    monkeypatch.setattr(selection, "cache_folder", lambda given: None)
    notices = []
    assert judge_source(squares, notice=notices.append).require() is not None
    assert "no home" in notices[-1]


def test_the_choice_none_and_points_have_no_judge(squares):
    class Points(Squares):
        @property
        def input_shape(self):
            return (2,)

    assert judge_source(squares, choice="none").require() is None
    assert judge_source(Points(count=300)).require() is None


def test_data_without_learnable_labels_have_no_judge(tmp_path):
    notices = []
    assert judge_source(Squares(count=45), cache_dir=tmp_path, notice=notices.append).require() is None
    assert "a judge can learn no label" in notices[-1]


def test_a_judge_from_a_file_is_used_unchanged(squares, trainings, tmp_path):
    path = tmp_path / "mine.safetensors"
    train_judge(squares, steps=2).save(path)
    judge = judge_source(squares, choice=str(path)).require()
    assert judge.sha256 == judge_source(squares, choice=path).require().sha256
    assert trainings == []


def test_a_judge_that_does_not_fit_the_data_is_rejected(squares, tmp_path):
    class Others(Squares):
        names = ("Hat", "Tie")

        @property
        def schema(self):
            return LabelSchema((*map(Label, self.names), super().schema["Hair"]))

    class Renamed(Others):
        @property
        def schema(self):
            return LabelSchema((Label("Hat"), Label("Tie"), Label("Hair", "categorical", ("Red", "Grey", "White"))))

    path = tmp_path / "mine.safetensors"
    train_judge(squares, steps=2, labels=["Smile", "Hair"]).save(path)
    assert judge_source(Others(count=300), choice=path).require() is not None
    with pytest.raises(LabelMismatchError, match="Hair"):
        judge_source(Renamed(count=300), choice=path).require()
    with pytest.raises(DataError):
        judge_source(Squares(count=300, size=64), choice=path).require()
    train_judge(squares, steps=2, labels=["Smile"]).save(path)
    with pytest.raises(LabelMismatchError, match="shares no label with the data"):
        judge_source(Others(count=300), choice=path).require()
    with pytest.raises(CheckpointError):
        judge_source(squares, choice=tmp_path / "absent.safetensors").require()


def test_the_judge_is_restricted_to_the_labels_of_the_model(squares, trainings, tmp_path):
    schema = LabelSchema((Label("Hair", "categorical", ("Brown", "Black", "Blond")),))
    judge = judge_source(squares, schema=schema, cache_dir=tmp_path).require()
    assert list(judge.log_probabilities(squares.batch(np.arange(3)).images)) == ["Hair"]


def test_only_the_labels_of_the_model_are_learned(squares, trainings, tmp_path):
    judge = judge_source(squares, schema=LabelSchema((Label("Smile"), Label("Glasses"))), cache_dir=tmp_path).require()
    assert judge.labels.names == ("Glasses", "Smile")
    assert judge.record.recipe == "settled"
    chosen = judge_source(squares, labels=["Hair"], cache_dir=tmp_path).require()
    assert chosen.labels.names == ("Hair",)


def test_a_cached_judge_of_more_labels_is_used(squares, trainings, tmp_path):
    every = judge_source(squares, cache_dir=tmp_path).require()
    one = judge_source(squares, schema=LabelSchema((Label("Smile"),)), cache_dir=tmp_path, notice=pytest.fail).judge
    assert one.sha256 == every.sha256
    assert len(trainings) == 1


def test_a_cached_judge_that_left_continuous_labels_out_is_not_used(trainings, tmp_path):
    """Earlier versions did not predict continuous labels."""
    data = GradedSquares(count=300)
    old = train_judge(data, labels=["Glasses"], recipe="settled", steps=2)
    old = replace(old, record=replace(old.record, left_out={"Smile": "a continuous label"}))
    old.save(tmp_path / "judge-old.safetensors")
    assert judge_source(data, labels=["Glasses"], cache_dir=tmp_path).judge.sha256 == old.sha256
    source = judge_source(data, cache_dir=tmp_path)
    assert source.judge is None
    assert source.require().labels == GRADED


@pytest.mark.parametrize(("labels", "same"), [(("Glasses",), True), (("Glasses", "Smile"), False)])
def test_cached_judges_of_earlier_versions_are_found_by_name_for_labels_with_classes_only(labels, same):
    data = GradedSquares(count=40)
    asked = [VERSION, STEPS, 0, data.digest, list(data.input_shape), data.schema.select(labels).as_plain()]
    earlier = f"judge-{blake2b(json.dumps(asked).encode(), digest_size=12).hexdigest()}.safetensors"
    assert (Wanted(data, labels, FIXED, 0, None).file_name == earlier) == same


def test_a_new_judge_starts_from_a_cached_one_of_the_same_data(squares, trainings, tmp_path):
    first = judge_source(squares, labels=["Smile"], cache_dir=tmp_path).require()
    assert first.record.started_from == ""
    second = judge_source(squares, labels=["Hair"], cache_dir=tmp_path).require()
    assert second.record.started_from == first.sha256
    larger = judge_source(Squares(count=300, size=64), labels=["Smile"], cache_dir=tmp_path).require()
    assert larger.record.started_from in (first.sha256, second.sha256)
    other = judge_source(Squares(count=330), labels=["Smile"], cache_dir=tmp_path).require()
    assert other.record.started_from == ""


def test_a_full_judge_learns_every_label_and_does_not_depend_on_the_cache(squares, trainings, tmp_path):
    judge_source(squares, labels=["Smile"], cache_dir=tmp_path).require()
    schema = LabelSchema((Label("Smile"),))
    full = judge_source(squares, choice="full", schema=schema, cache_dir=tmp_path).require()
    assert full.labels == squares.schema
    assert (full.record.recipe, full.record.started_from) == ("fixed", "")
    again = judge_source(squares, choice="full", cache_dir=tmp_path, notice=pytest.fail).require()
    assert again.sha256 == full.sha256
    assert judge_source(squares, labels=["Hair"], cache_dir=tmp_path).judge.sha256 == full.sha256
