"""Generation against SciPy, closed forms and brute force, and a model whose prior is the distribution of its images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from torch import Tensor

from ccvae_eval.core.errors import UsageError
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.metrics.generation.metric import Generation
from ccvae_eval.metrics.shared.likelihood import Generate
from ccvae_eval.statistics.distances import frechet_distance, kernel_and_manifolds
from tests.support.fakes import PlainSquaresVAE, Squares, SquaresJudge, SquaresVAE

pytestmark = pytest.mark.oracle


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


COUNT = 256


def subject_of(model: Any = None, judge: Any = None) -> Subject:
    return prepare(model or SquaresVAE(), Squares(3 * COUNT), np.arange(2 * COUNT, 3 * COUNT), judge=judge)


def measured(model: Any = None, judge: Any = None, **settings: Any) -> Run:
    return measure(subject_of(model, judge), [Generation(**settings)])


def test_frechet_distance_matches_the_matrix_square_root(random: np.random.Generator) -> None:
    x, y = random.normal(size=(80, 5)), random.normal(size=(60, 5)) @ random.normal(size=(5, 5)) + 1
    a, b = np.cov(x.T), np.cov(y.T)
    root = np.real(sqrtm(a @ b))
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a + b - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_kernel_distance_is_unbiased_and_its_interval_covers(random: np.random.Generator) -> None:
    x, y = random.normal(size=(40, 3)), random.normal(size=(50, 3)) + 0.3
    k = lambda u, v: (u @ v.T / 3 + 1) ** 3  # noqa: E731
    xx, yy = k(x, x), k(y, y)
    expected = (xx.sum() - np.trace(xx)) / (40 * 39) + (yy.sum() - np.trace(yy)) / (50 * 49) - 2 * k(x, y).mean()
    assert kernel_and_manifolds(x, y)[0].value == pytest.approx(expected)
    same = [kernel_and_manifolds(*np.split(random.normal(size=(120, 3)), 2))[0].value for _ in range(300)]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(300)

    def shifted() -> tuple[np.ndarray, np.ndarray]:
        return random.normal(size=(200, 3)), 1 + random.normal(size=(200, 3))

    found = [kernel_and_manifolds(*shifted())[0] for _ in range(1000)]
    truth = np.mean([one.value for one in found])
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.92 <= covered <= 0.96


def test_prdc_matches_brute_force(random: np.random.Generator) -> None:
    real, drawn = random.normal(size=(60, 4)), 1.5 * random.normal(size=(50, 4))
    _, found = kernel_and_manifolds(real, drawn, 3)
    radius = np.sort(cdist(real, real), 1)[:, 3]
    drawn_radius = np.sort(cdist(drawn, drawn), 1)[:, 3]
    distances = cdist(drawn, real)
    np.testing.assert_array_equal(found.precision, (distances <= radius).any(1))
    np.testing.assert_allclose(found.density, (distances <= radius).sum(1) / 3)
    np.testing.assert_array_equal(found.coverage, (distances <= radius).any(0))
    np.testing.assert_array_equal(found.recall, (distances <= drawn_radius[:, None]).any(0))


def test_sampled_codes_follow_the_prior() -> None:
    data = Squares(4000)
    subject = prepare(SquaresVAE(), data, np.arange(4000))
    drawn = torch.cat([Generate().codes(subject, chunk) for chunk in subject.chunks()])
    style = drawn[:, list(subject.layout.style)]
    assert float(style.mean()) == pytest.approx(0, abs=0.02)
    assert float(style.std()) == pytest.approx(1, abs=0.02)
    classes = torch.cat([Generate().classes("Hair", subject, chunk) for chunk in subject.chunks()])
    share = torch.bincount(classes, minlength=3) / 4000
    known = torch.bincount(subject.classes("Hair"), minlength=3) / 4000
    assert torch.allclose(share, known, atol=0.03)
    for k, mean in enumerate((-3.0, 0.0, 3.0)):
        own = drawn[classes == k, 4]
        assert float(own.mean()) == pytest.approx(mean, abs=0.06)
        assert float(own.std()) == pytest.approx(0.5, abs=0.03)
    asked = torch.cat([Generate((("Hair", 2),)).codes(subject, chunk) for chunk in subject.chunks()])
    assert torch.equal(asked[:, :4], drawn[:, :4]), "all other dimensions have the same noise"


def test_a_perfect_prior_scores_like_other_real_images() -> None:
    run = measured(judge=SquaresJudge())
    frechet = run.find("generation.frechet")
    assert frechet.at == {"features": "pixels", "N": COUNT}
    assert frechet.reference is not None
    assert 0.5 < frechet.estimate.value / frechet.reference < 2
    kernel = run.find("generation.kernel").estimate
    assert kernel.low < 0.01
    for name in ("precision", "recall", "coverage"):
        assert run[f"generation.prdc_{name}"] == pytest.approx(run.find(f"generation.prdc_{name}").reference, abs=0.15)
    assert run["generation.obeyed"] > 0.97
    assert run.find("generation.obeyed@Hair").chance == pytest.approx(1 / 3, abs=0.05)
    assert run.find("generation.obeyed@Glasses").reference == pytest.approx(1, abs=0.02)


def test_dark_samples_have_larger_distances() -> None:
    class Dark(SquaresVAE):
        def decode(self, codes: Tensor) -> Tensor:
            return 0.7 * super().decode(codes)

    dark, right = measured(Dark()), measured()
    assert dark["generation.frechet"] > 5 * right["generation.frechet"]
    assert dark["generation.kernel"] > dark.find("generation.kernel").estimate.low > 0
    assert dark["generation.prdc_precision"] < right["generation.prdc_precision"]


def test_an_assignment_is_requested_jointly() -> None:
    run = measured(judge=SquaresJudge(), assign="Glasses=1,Hair=Black")
    rows = [v for v in run.measurement("generation").values if v.at.get("do") == "Glasses=1,Hair=Black"]
    together = next(v for v in rows if v.characteristic is None)
    assert {v.characteristic for v in rows} == {None, "Glasses", "Hair"}
    assert together.estimate.value > 0.95
    assert together.chance == pytest.approx(1 / 6, abs=0.08)
    assert together.reference == pytest.approx(1, abs=0.05)


def test_a_vae_without_conditional_prior_has_distances_but_no_obeyed() -> None:
    run = measured(PlainSquaresVAE(), judge=SquaresJudge())
    rows = {v.name: v for v in run.measurement("generation").values}
    assert rows["obeyed"].note == "PlainSquaresVAE has no p(z_c|y)"
    assert rows["frechet"].estimate.n == COUNT, "all images, not the half without dimension assignment"
    assert rows["frechet"].estimate.value > 0


def test_distances_are_undefined_for_too_few_images() -> None:
    subject = prepare(SquaresVAE(), Squares(90), np.arange(4))
    rows = measure(subject, [Generation()]).measurement("generation")
    assert rows.status == "undefined"
    assert "needs more than 5 images, got 4" in next(v.note for v in rows.values if v.name == "frechet")


@pytest.mark.parametrize("settings", [{"neighbour": 0}, {"features": "inception"}, {"neighbour_images": 1}])
def test_invalid_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"generation\."):
        Generation(**settings)


def test_a_decoder_that_returns_nan_for_a_requested_label_only_fails() -> None:
    """Requested images are checked together, after all are decoded."""

    class Unrequestable(SquaresVAE):
        def decode(self, codes: Tensor) -> Tensor:
            images = super().decode(codes)
            requested = bool((codes[:, self.layout["Glasses"][0]] > 0).all())
            return torch.full_like(images, torch.nan) if requested else images

    found = measured(Unrequestable(), SquaresJudge()).measurement("generation")
    assert found.status == "failed"
    assert found.reason is not None
    assert "the decoder returned NaN or infinity" in found.reason.text
