"""CSVAE's two objectives, compared with SciPy in float64, and the parameters that each updates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ccvae_models.csvae import CSVAE
from scipy import integrate, special, stats

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.model.interface import Label, LabelSchema, ModelContext
from ccvae_eval.training.state import Optimisers
from tests.support.small_models import COMPLETE, EVERY, NAN, PRIOR, SCHEMA, batch_of, moved, points, small, stepped

pytestmark = pytest.mark.oracle

WEIGHTS = {"beta1": 20, "beta2": 1.5, "beta3": 0.2, "beta4": 10, "beta5": 0.5}


def one_hot(y: torch.Tensor) -> torch.Tensor:
    return torch.tensor([[g, *(float(h == k) for k in range(3)), s] for g, h, s in y.tolist()], dtype=torch.float64)


def divergence(m: float, s: float, loc: float, scale: float) -> float:
    """KL between two Gaussians by numerical integration."""
    q, p = stats.norm(m, s), stats.norm(loc, scale)
    return float(integrate.quad(lambda t: q.pdf(t) * (q.logpdf(t) - p.logpdf(t)), m - 12 * s, m + 12 * s)[0])


def test_every_term_equals_scipy() -> None:
    model, x = small(CSVAE, style=3, **WEIGHTS), points(2)
    objective, adversary = stepped(model, batch_of(x, COMPLETE))
    with torch.no_grad():
        features = model.encoder.trunk(x)
        w = model.encoder.w(features, one_hot(COMPLETE))
        z_loc = model.encoder.loc(features)
        z_scale = torch.nn.functional.softplus(model.encoder.scale(features)).clamp_min(1e-3)
        loc, scale = torch.cat([w.loc, z_loc], 1), torch.cat([w.scale, z_scale], 1)
        noise = torch.randn(2, 9, generator=torch_stream(0, "objectives"), dtype=torch.float64)
        codes = loc + scale * noise
        mean = model.decode(codes).numpy()
        hidden = model.adversary.layers(codes[:, 6:])
        logits = model.adversary.logits(hidden).numpy().reshape(2, 3, 3)
        priors_loc = model.priors.loc.numpy()
        priors_scale = np.maximum(np.logaddexp(0, model.priors.raw_scale.numpy()), 1e-3)
    reconstruction = stats.laplace.logpdf(x.numpy(), mean, 1).sum(1)
    kl_w, kl_z, confusion, log_p, log_q = np.zeros(2), np.zeros(2), np.zeros(2), np.zeros(2), np.zeros(2)
    for row, y in enumerate(COMPLETE.long().tolist()):
        for i, k in enumerate(y):
            log_q_y = special.log_softmax(logits[row, i, : SCHEMA.labels[i].cardinality])
            confusion[row] -= (np.exp(log_q_y) * log_q_y).sum()
            log_q[row] += log_q_y[k]
            log_p[row] += math.log(PRIOR[i][k])
            for j in range(2):
                own = loc[row, 2 * i + j].item(), scale[row, 2 * i + j].item()
                kl_w[row] += divergence(*own, priors_loc[i, k, j], priors_scale[i, k, j])
        kl_z[row] = sum(divergence(loc[row, c].item(), scale[row, c].item(), 0, 1) for c in range(6, 9))
    expected = {
        "reconstruction": reconstruction, "kl_w": kl_w, "kl_style": kl_z, "confusion": confusion, "log_p_y": log_p,
    }  # fmt: skip
    for name, values in expected.items():
        assert objective.terms[f"supervised.{name}"] == pytest.approx(values.mean(), abs=1e-6), name
    m1 = -20 * reconstruction + 1.5 * kl_w + 0.2 * kl_z - 10 * confusion - log_p
    assert objective.loss.item() == pytest.approx(m1.mean(), abs=1e-5)
    assert adversary.terms["supervised.log_q_y_z"] == pytest.approx(log_q.mean(), abs=1e-9)
    assert adversary.loss.item() == pytest.approx(-0.5 * log_q.mean(), abs=1e-9)


def test_m1_updates_all_but_the_adversary_and_m2_only_the_adversary() -> None:
    model = small(CSVAE, style=3)
    objective, adversary = stepped(model, batch_of(points(40), COMPLETE.repeat(20, 1)))
    names = {name for name, _ in model.named_parameters()}
    adversary_names = {name for name in names if name.startswith("adversary.")}
    assert adversary_names
    # binary labels have an unused third class in the parameter tables
    assert moved(objective, model) == names - adversary_names
    assert moved(adversary, model) == adversary_names
    through = torch.autograd.grad(
        adversary.loss, [p for n, p in model.named_parameters() if n not in adversary_names], allow_unused=True
    )
    assert all(gradient is None for gradient in through), "M2 has no gradient in the encoder: z is detached"


def test_each_optimiser_step_changes_only_its_own_parameters() -> None:
    model, optimisers = small(CSVAE, style=3), Optimisers(1e-2, 0.0, {})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for objective in model.objectives(batch_of(points(2), COMPLETE), torch_stream(0, "step")):
        optimisers.step(objective)
        changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        expected = {n for n in before if n.startswith("adversary.") == (objective.name == "adversary")}
        assert changed == expected
        before = {name: p.detach().clone() for name, p in model.named_parameters()}


def test_the_encoder_increases_the_adversarys_entropy() -> None:
    """With beta4 alone, steps on M1 make the adversary less certain."""
    only = {"beta1": 0, "beta2": 0, "beta3": 0, "beta4": 1, "beta5": 0}
    model, optimisers = small(CSVAE, style=2, **only), Optimisers(1e-2, 0.0, {})
    batch, entropies = batch_of(points(40), COMPLETE.repeat(20, 1)), []
    for step in range(30):
        for objective in model.objectives(batch, torch_stream(step, "step")):
            optimisers.step(objective)
            entropies.append(objective.terms.get("supervised.confusion", math.nan))
    assert entropies[-2] > entropies[0] + 0.05


def test_without_the_adversary_m1_has_no_confusion_term() -> None:
    model = small(CSVAE, style=3)
    batch = batch_of(points(2), COMPLETE)
    with_adversary, _ = stepped(model, batch)
    other = small(CSVAE, style=3, adversary=False)
    other.load_state_dict(model.state_dict())
    (without,) = stepped(other, batch)
    assert "supervised.confusion" not in without.terms
    expected = with_adversary.loss.item() + 10 * with_adversary.terms["supervised.confusion"]
    assert without.loss.item() == pytest.approx(expected, abs=1e-9)


def test_confusion_prior_is_the_expected_log_probability_under_p_y() -> None:
    """Unlike the entropy, E_p(y)[log q(y|z)] keeps its gradient where the adversary is certain."""
    model, x = small(CSVAE, style=3, confusion="prior"), points(2)
    objective, adversary = stepped(model, batch_of(x, COMPLETE))
    with torch.no_grad():
        noise = torch.randn(2, 9, generator=torch_stream(0, "objectives"), dtype=torch.float64)
        z = model.encode(x, COMPLETE.double()).at(noise)[:, 6:]
        logits = model.adversary.logits(model.adversary.layers(z)).numpy().reshape(2, 3, 3)
    expected = 0.0
    for i, p in enumerate(PRIOR):
        expected += (special.log_softmax(logits[:, i, : len(p)], 1) * p).sum(1).mean()
    assert objective.terms["supervised.confusion"] == pytest.approx(expected, abs=1e-6)
    plain = small(CSVAE, style=3)
    by_entropy, same = stepped(plain, batch_of(x, COMPLETE))
    assert adversary.loss.item() == same.loss.item()
    difference = 10 * (by_entropy.terms["supervised.confusion"] - expected)
    assert objective.loss.item() - by_entropy.loss.item() == pytest.approx(difference, abs=1e-5)
    certain = torch.tensor([[[0.0, 30.0, -1e9]]], dtype=torch.float64, requires_grad=True)  # logits
    for each, vanishes in ((model, False), (plain, True)):
        confusion = each._confusion(certain.log_softmax(-1).expand(1, 3, 3)).sum()
        (gradient,) = torch.autograd.grad(confusion, certain)
        assert bool(gradient[0, 0, :2].abs().max() < 1e-9) == vanishes


def test_images_with_a_missing_label_are_not_used() -> None:
    model, x = small(CSVAE, style=3), points(5)
    some = stepped(model, batch_of(x, EVERY))
    alone = stepped(model, batch_of(x[:2], COMPLETE))
    for found, expected in zip(some, alone, strict=True):
        assert found.terms["supervised.rows"] == 2
        assert found.loss.item() == pytest.approx(expected.loss.item() * 2 / 5, abs=1e-12)
    for objective in stepped(model, batch_of(x[2:], EVERY[2:])):
        assert objective.terms["supervised.rows"] == 0
        assert objective.loss.item() == 0
        assert torch.autograd.grad(objective.loss, objective.parameters, allow_unused=True)


def test_w_has_one_block_per_label_and_depends_on_all_labels() -> None:
    model, x = small(CSVAE, style=3), points(1)
    assert dict(model.layout.characteristics) == {"Glasses": (0, 1), "Hair": (2, 3), "Smile": (4, 5)}
    assert model.given == SCHEMA.names
    first, other = (model.encode(x, torch.tensor([[g, 1.0, 0.0]]).double()) for g in (0, 1))
    assert not torch.equal(first.loc[:, :6], other.loc[:, :6])
    assert torch.equal(first.loc[:, 6:], other.loc[:, 6:]), "q(z|x) does not depend on the labels"
    without_y, missing = model.encode(x), model.encode(x, torch.full((1, 3), NAN).double())
    assert torch.equal(without_y.loc, missing.loc)
    prior = model.conditional_prior(torch.tensor([[1.0, NAN, 0.0]]))
    torch.testing.assert_close(prior.loc[0, :2], model.priors.loc[0, 1])
    assert prior.loc[0].isnan().tolist() == [False, False, True, True, False, False]


def test_a_single_label_owns_all_of_w() -> None:
    model = small(CSVAE, LabelSchema((Label("a"),)), ((0.5, 0.5),), style=2, block=2)
    assert model.layout["a"] == (0, 1)
    assert model.layout.style == (2, 3)


@pytest.mark.parametrize("options", [{"style": 0}, {"block": 0}, {"beta4": -1}, {"adversary": "maybe"}])
def test_invalid_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        CSVAE.from_settings(options, ModelContext(SCHEMA, (4,), PRIOR))
