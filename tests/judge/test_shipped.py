import pytest

from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.judge import balanced_accuracies, judge_source, selection
from ccvae_eval.judge.selection import shipped_judge
from ccvae_eval.judge.training import reference_blur, rescaled


@pytest.fixture(scope="module")
def faces():
    return Faces()


def test_it_is_used_for_faces_of_its_size_with_any_seed_and_number(faces, monkeypatch, tmp_path):
    monkeypatch.setattr(selection, "train_judge", pytest.fail)
    for data in (faces, Faces(seed=5, n=100, correlation=0.5)):
        judge = judge_source(data, cache_dir=tmp_path, notice=pytest.fail).require()
        assert judge.sha256 == shipped_judge().sha256
    assert list(tmp_path.iterdir()) == []


def test_another_size_or_renderer_needs_another_judge(monkeypatch, tmp_path):
    class Redrawn(Faces):
        renderer = "faces 0, 64 px"

    class TrainingError(Exception):
        pass

    def refuse(*args, **kwargs):
        raise TrainingError

    monkeypatch.setattr(selection, "train_judge", refuse)
    for data in (Faces(size=32, n=100), Redrawn(n=100)):
        with pytest.raises(TrainingError):
            judge_source(data, cache_dir=tmp_path).require()


def test_it_classifies_every_label_also_on_degraded_images(faces):
    batch = faces.batch(faces.split("test")[:600])
    for images in (batch.images, reference_blur(batch.images), rescaled(batch.images, 3.0)):
        shares = balanced_accuracies(shipped_judge().log_probabilities(images), batch.labels, faces.schema)
        assert min(shares.values()) > 0.97


def test_it_was_trained_with_a_reserved_seed():
    assert "seed=64" in shipped_judge().record.trained_on
    assert min(shipped_judge().record.balanced_accuracy.values()) > 0.97
