"""MVAE's products of experts and its three ELBOs, compared with NumPy and SciPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ccvae_models.mvae import MVAE, product
from scipy import special, stats

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.core.types import Gaussian
from ccvae_eval.model.interface import Intervenes, ModelContext, supports
from tests.support.small_models import EVERY, NAN, PARTLY, PRIOR, SCHEMA, batch_of, moved, points, small, stepped

pytestmark = pytest.mark.oracle


def test_the_product_of_experts_is_the_normalised_product_of_densities() -> None:
    one, two = (torch.tensor([[m]], dtype=torch.float64) for m in (1.5, -0.5))
    s, t = (torch.tensor([[v]], dtype=torch.float64) for v in (0.7, 2.0))
    found = product([Gaussian(one, s), Gaussian(two, t)])
    line = np.linspace(-12, 12, 200_001)
    density = stats.norm.pdf(line) * stats.norm.pdf(line, 1.5, 0.7) * stats.norm.pdf(line, -0.5, 2.0)
    mass = np.trapezoid(density, line)
    mean = np.trapezoid(line * density, line) / mass
    variance = np.trapezoid((line - mean) ** 2 * density, line) / mass
    assert found.loc.item() == pytest.approx(mean, abs=1e-7)
    assert found.scale.item() == pytest.approx(math.sqrt(variance), abs=1e-7)


def experts(model: MVAE, y: list[float], image: Gaussian | None, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the product of the given experts, one at a time."""
    precision, weighted = np.ones(3), np.zeros(3)
    if image is not None:
        own = 1 / (image.scale[row].numpy(force=True) ** 2 + 1e-8)
        precision, weighted = precision + own, weighted + own * image.loc[row].numpy(force=True)
    for i, v in enumerate(y):
        if not math.isnan(v):
            scale = np.maximum(np.logaddexp(0, model.experts.raw_scale[i, int(v)].numpy(force=True)), 1e-3)
            own = 1 / (scale**2 + 1e-8)
            precision = precision + own
            weighted = weighted + own * model.experts.loc[i, int(v)].numpy(force=True)
    return weighted / precision, 1 / np.sqrt(precision)


def test_every_term_equals_scipy() -> None:
    model, x = small(MVAE, latent=3, lambda_image=0.5, beta=0.7, warm_up=0), points(len(EVERY))
    (objective,) = stepped(model, batch_of(x, EVERY))
    generator, image = torch_stream(0, "objectives"), model.encoder(x)
    labelled = [0, 1, 2, 4]
    total = 0.0
    for name, rows, with_x, with_y in (
        ("unsupervised", range(5), True, False), ("supervised", labelled, True, True), ("labels", labelled, False, True)
    ):  # fmt: skip
        found = [experts(model, EVERY[r].tolist() if with_y else [NAN] * 3, image if with_x else None, r) for r in rows]
        m, s = (np.stack(each) for each in zip(*found, strict=True))
        z = m + s * torch.randn(m.shape, generator=generator, dtype=torch.float64).numpy()
        kl = (0.5 * (m**2 + s**2 - 1) - np.log(s)).sum(1)
        value = -0.7 * kl
        assert objective.terms[f"{name}.kl"] == pytest.approx(kl.mean(), abs=1e-9)
        if with_x:
            mean = model.decode(torch.from_numpy(z)).numpy(force=True)
            reconstruction = stats.laplace.logpdf(x.numpy()[list(rows)], mean, 1).sum(1)
            value = value + 0.5 * reconstruction
            assert objective.terms[f"{name}.reconstruction"] == pytest.approx(reconstruction.mean(), abs=1e-9)
        if with_y:
            logits = model.classifier.logits(model.classifier.layers(torch.from_numpy(z))).numpy(force=True)
            log_p = np.zeros(len(m))
            for place, r in enumerate(rows):
                for i, v in enumerate(EVERY[r].tolist()):
                    if not math.isnan(v):
                        own = logits[place].reshape(3, 3)[i, : SCHEMA.labels[i].cardinality]
                        log_p[place] += special.log_softmax(own)[int(v)]
            value = value + 10 * log_p
            assert objective.terms[f"{name}.log_p_y_z"] == pytest.approx(log_p.mean(), abs=1e-9)
        assert objective.terms[f"{name}.rows"] == len(m)
        total += value.sum()
    assert objective.loss.item() == pytest.approx(-total / 5, abs=1e-9)


def test_every_parameter_gets_a_gradient_and_unlabelled_images_update_no_expert() -> None:
    model = small(MVAE, latent=3)
    names = {name for name, _ in model.named_parameters()}
    (objective,) = stepped(model, batch_of(points(100), EVERY.repeat(20, 1)))
    assert moved(objective, model) == names
    (objective,) = stepped(model, batch_of(points(2), PARTLY[[1, 1]]))
    assert moved(objective, model) == {n for n in names if n.startswith(("encoder", "decoder"))}


def test_do_replaces_one_labels_expert() -> None:
    model, x = small(MVAE, latent=3), points(4)
    assert supports(model, Intervenes)
    assert not model.layout.characteristics
    codes, zero = model.encode(x).loc, torch.zeros(4, 3, dtype=torch.float64)
    own = model.classifier(codes).argmax(-1).double()
    found = {v: model.intervene(x, codes, {"Hair": float(v)}, zero) for v in range(3)}
    for v, moved_to in found.items():
        y = own.clone()
        y[:, 1] = v
        expected = [experts(model, y[r].tolist(), model.encoder(x), r)[0] for r in range(4)]
        np.testing.assert_allclose(moved_to.numpy(force=True), np.stack(expected), atol=1e-12)
    assert bool((found[0] != found[1]).all()), "every latent dimension changes"
    noisy = model.intervene(x, codes, {"Hair": 1.0}, torch.ones_like(zero))
    labels = own.clone()
    labels[:, 1] = 1
    torch.testing.assert_close(noisy - found[1], model.posterior(x, labels).scale)
    both = model.intervene(x, codes, {"Glasses": 1.0, "Smile": 0.0}, zero)
    labels = own.clone()
    labels[:, 0], labels[:, 2] = 1, 0
    torch.testing.assert_close(both, model.posterior(x, labels).loc)
    with pytest.raises(UsageError, match="Hair"):
        model.intervene(x, codes, {"Hare": 1.0}, zero)


def test_a_missing_label_has_no_expert() -> None:
    model, x = small(MVAE, latent=3), points(1)
    none = model.posterior(x, torch.full((1, 3), NAN, dtype=torch.float64))
    torch.testing.assert_close(none.loc, model.encode(x).loc)
    torch.testing.assert_close(none.scale, model.encode(x).scale)


@pytest.mark.parametrize("options", [{"latent": 0}, {"lambda_labels": -1}, {"label_width": 0}, {"style": 3}])
def test_invalid_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        MVAE.from_settings(options, ModelContext(SCHEMA, (4,), PRIOR))
