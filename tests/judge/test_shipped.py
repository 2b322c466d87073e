import pytest

from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.judge import balanced_accuracies, judge_for
from ccvae_eval.judge import selection as choosing
from ccvae_eval.judge.selection import shipped_judge
from ccvae_eval.judge.training import rescaled, softened


@pytest.fixture(scope="module")
def faces():
    return Faces()


def test_it_is_used_for_faces_of_its_size_whatever_their_seed_and_number(faces, monkeypatch, tmp_path):
    monkeypatch.setattr(choosing, "train_judge", pytest.fail)
    for data in (faces, Faces(seed=5, n=100, correlation=0.5)):
        judge = judge_for(data, cache_dir=tmp_path, notice=pytest.fail)
        assert judge.sha256 == shipped_judge().sha256
    assert list(tmp_path.iterdir()) == []


def test_another_size_or_another_drawing_gets_a_judge_of_its_own(monkeypatch, tmp_path):
    class Redrawn(Faces):
        renderer = "faces 0, 64 px"

    class TrainingError(Exception):
        pass

    def refuse(*args, **kwargs):
        raise TrainingError

    monkeypatch.setattr(choosing, "train_judge", refuse)
    for data in (Faces(size=32, n=100), Redrawn(n=100)):
        with pytest.raises(TrainingError):
            judge_for(data, cache_dir=tmp_path)


def test_it_knows_every_label_also_on_worse_images(faces):
    batch = faces.batch(faces.split("test")[:600])
    for images in (batch.images, softened(batch.images), rescaled(batch.images, 3.0)):
        shares = balanced_accuracies(shipped_judge().log_probabilities(images), batch.labels, faces.schema)
        assert min(shares.values()) > 0.97


def test_it_was_trained_on_images_of_another_seed_than_anybody_evaluates():
    assert "seed=64" in shipped_judge().record.trained_on
    assert min(shipped_judge().record.balanced_accuracy.values()) > 0.97
