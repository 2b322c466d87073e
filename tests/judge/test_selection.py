import numpy as np
import pytest

from ccvae_eval.core.errors import CheckpointError, DataError, LabelMismatchError
from ccvae_eval.judge import judge_for, train_judge
from ccvae_eval.judge import selection as choosing
from ccvae_eval.model.interface import Label, LabelSchema
from tests.support.fakes import Squares


@pytest.fixture
def squares():
    return Squares(count=300)


@pytest.fixture
def trainings(monkeypatch):
    """Counts trainings, which are made short."""
    made = []

    def short(data, *, seed, progress):
        made.append(data)
        return train_judge(data, seed=seed, steps=2, progress=progress)

    monkeypatch.setattr(choosing, "train_judge", short)
    return made


def test_the_second_evaluation_finds_the_judge_of_the_first(squares, trainings, tmp_path):
    said = []
    one = judge_for(squares, cache_dir=tmp_path, notice=said.append)
    two = judge_for(squares, cache_dir=tmp_path, notice=said.append)
    assert one.sha256 == two.sha256
    assert len(trainings) == 1
    assert len(said) == 1
    assert "Training a judge" in said[0]
    assert len(list(tmp_path.iterdir())) == 1


def test_where_nobody_needs_one_none_is_trained_but_a_kept_one_is_taken(squares, trainings, tmp_path):
    assert judge_for(squares, cache_dir=tmp_path, train=False) is None
    assert not trainings
    one = judge_for(squares, cache_dir=tmp_path)
    assert judge_for(squares, cache_dir=tmp_path, train=False).sha256 == one.sha256
    assert len(trainings) == 1


def test_other_data_or_another_seed_have_another_judge(squares, trainings, tmp_path):
    judge_for(squares, cache_dir=tmp_path)
    judge_for(squares, cache_dir=tmp_path, seed=1)
    judge_for(Squares(count=330), cache_dir=tmp_path)
    assert len(trainings) == 3


def test_a_damaged_cache_is_made_anew_and_said(squares, trainings, tmp_path):
    one = judge_for(squares, cache_dir=tmp_path)
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:-9])
    said = []
    assert judge_for(squares, cache_dir=tmp_path, notice=said.append).sha256 == one.sha256
    assert "made anew" in said[0]
    assert judge_for(squares, cache_dir=tmp_path, notice=pytest.fail).sha256 == one.sha256


def test_where_nothing_can_be_kept_it_works_all_the_same(squares, trainings, tmp_path):
    (tmp_path / "file").write_text("in the way")
    said = []
    assert judge_for(squares, cache_dir=tmp_path / "file" / "folder", notice=said.append) is not None
    assert "Nothing is cached" in said[-1]


def test_a_homeless_machine_is_told_so(squares, trainings, monkeypatch):
    monkeypatch.setattr(choosing, "cache_folder", lambda given: None)
    said = []
    assert judge_for(squares, notice=said.append) is not None
    assert "no home" in said[-1]


def test_none_asked_and_points_have_no_judge(squares):
    class Points(Squares):
        @property
        def input_shape(self):
            return (2,)

    assert judge_for(squares, choice="none") is None
    assert judge_for(Points(count=300)) is None


def test_data_without_enough_labels_go_without_and_say_so(tmp_path):
    said = []
    assert judge_for(Squares(count=45), cache_dir=tmp_path, notice=said.append) is None
    assert "no label that a judge can learn" in said[-1]


def test_a_file_is_used_as_it_is(squares, trainings, tmp_path):
    path = tmp_path / "mine.safetensors"
    train_judge(squares, steps=2).save(path)
    judge = judge_for(squares, choice=str(path))
    assert judge.sha256 == judge_for(squares, choice=path).sha256
    assert trainings == []


def test_a_file_that_does_not_fit_the_data_is_refused(squares, tmp_path):
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
    assert judge_for(Others(count=300), choice=path) is not None
    with pytest.raises(LabelMismatchError, match="Hair"):
        judge_for(Renamed(count=300), choice=path)
    with pytest.raises(DataError):
        judge_for(Squares(count=300, size=64), choice=path)
    train_judge(squares, steps=2, labels=["Smile"]).save(path)
    with pytest.raises(LabelMismatchError, match="no label"):
        judge_for(Others(count=300), choice=path)
    with pytest.raises(CheckpointError):
        judge_for(squares, choice=tmp_path / "absent.safetensors")


def test_it_answers_for_the_models_labels(squares, trainings, tmp_path):
    asked = LabelSchema((Label("Hair", "categorical", ("Brown", "Black", "Blond")),))
    told = judge_for(squares, schema=asked, cache_dir=tmp_path).log_probabilities(squares.batch(np.arange(3)).images)
    assert list(told) == ["Hair"]
