"""The conditional VAE's objectives with and without the adversary, compared with SciPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ccvae_models.condvae import CondVAE, CondVAEInfo
from scipy import special, stats

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.model.interface import ModelContext
from tests.support.small_models import COMPLETE, EVERY, NAN, PRIOR, SCHEMA, batch_of, moved, points, small, stepped

pytestmark = pytest.mark.oracle

ONE_HOT = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 0, 1]], dtype=torch.float64)
"""One-hot encoding of COMPLETE: one column for Glasses, three for Hair, one for Smile."""


def posterior(model: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """q(z|x,y), or q(z|x) with the adversary, from the network's layers."""
    encoder, relu, softplus = model.encoder, torch.relu, torch.nn.functional.softplus
    features = encoder.trunk(x)
    if isinstance(model, CondVAEInfo):
        return encoder.loc(features), softplus(encoder.scale(features)).clamp_min(1e-3)
    joined = relu(encoder.join(torch.cat([features, ONE_HOT], 1)))
    return encoder.loc(joined), softplus(encoder.scale(joined)).clamp_min(1e-3)


@pytest.mark.parametrize("injection", ["concatenate", "add"])
@pytest.mark.parametrize("kind", [CondVAE, CondVAEInfo])
@pytest.mark.parametrize("adversary", ["entropy", "likelihood"])
@torch.no_grad()
def test_every_term_equals_scipy(kind: Any, injection: str, adversary: str) -> None:
    options = {"adversary": adversary, "strength": 3} if kind is CondVAEInfo else {}
    model, x = small(kind, style=3, injection=injection, **options), points(2)
    objectives = stepped(model, batch_of(x, COMPLETE))
    loc, scale = posterior(model, x)
    noise = torch.randn(2, 8, generator=torch_stream(0, "objectives"), dtype=torch.float64)
    z = loc + scale * noise[:, 5:]
    if injection == "add":
        decoder = model.decoder
        mean = decoder.trunk(z + decoder.embed(torch.relu(decoder.widen(ONE_HOT))))
    else:
        mean = model.decoder.trunk(torch.cat([ONE_HOT, z], 1))
    reconstruction = stats.laplace.logpdf(x.numpy(), mean.numpy(), 1).sum(1)
    q = torch.distributions.Normal(loc, scale)
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1).numpy()
    assert objectives[0].terms["supervised.reconstruction"] == pytest.approx(reconstruction.mean(), abs=1e-9)
    assert objectives[0].terms["supervised.kl_style"] == pytest.approx(kl.mean(), abs=1e-9)
    if kind is CondVAE:
        assert len(objectives) == 1
        assert objectives[0].loss.item() == pytest.approx((kl - reconstruction).mean(), abs=1e-9)
        return
    logits = model.adversary.logits(model.adversary.layers(z)).numpy().reshape(2, 3, 3)
    log_r_y = [special.log_softmax(logits[:, i, : label.cardinality], 1) for i, label in enumerate(SCHEMA)]
    entropy = sum(-(np.exp(each) * each).sum(1) for each in log_r_y)
    log_r = sum(each[np.arange(2), COMPLETE[:, i].long()] for i, each in enumerate(log_r_y))
    confusion = entropy if adversary == "entropy" else -log_r
    assert objectives[0].loss.item() == pytest.approx((kl - reconstruction - 3 * confusion).mean(), abs=1e-9)
    assert objectives[1].loss.item() == pytest.approx(-log_r.mean(), abs=1e-9)


@pytest.mark.parametrize("injection", ["concatenate", "add"])
@pytest.mark.parametrize("kind", [CondVAE, CondVAEInfo])
def test_each_objective_updates_its_own_parameters(kind: Any, injection: str) -> None:
    model = small(kind, style=3, injection=injection)
    objectives = stepped(model, batch_of(points(40), COMPLETE.repeat(20, 1)))
    names = {name for name, _ in model.named_parameters()}
    adversary_names = {name for name in names if name.startswith("adversary.")}
    assert bool(adversary_names) == (kind is CondVAEInfo)
    assert moved(objectives[0], model) == names - adversary_names
    for adversary in objectives[1:]:
        assert moved(adversary, model) == adversary_names
        others = [p for n, p in model.named_parameters() if n not in adversary_names]
        assert all(g is None for g in torch.autograd.grad(adversary.loss, others, allow_unused=True))


def test_z_depends_on_y_only_without_the_adversary() -> None:
    x = points(1)
    for kind, depends in ((CondVAE, True), (CondVAEInfo, False)):
        model = small(kind, style=3)
        first, other = (model.encode(x, torch.tensor([[g, 1.0, 0.0]]).double()) for g in (0, 1))
        assert [first.loc[0, 0].item(), other.loc[0, 0].item()] == [0, 1]
        assert torch.equal(first.loc[:, 5:], other.loc[:, 5:]) != depends
        without_y = model.encode(x).loc[0, :5]
        np.testing.assert_allclose(without_y.numpy(force=True), [0.25, *PRIOR[1], 0.625], atol=1e-6)
        partly = model.encode(x, torch.tensor([[1.0, NAN, NAN]]).double()).loc[0, :5]
        np.testing.assert_allclose(partly.numpy(force=True), [1, *PRIOR[1], 0.625], atol=1e-6)


def test_images_with_a_missing_label_are_not_used() -> None:
    model, x = small(CondVAEInfo, style=3), points(5)
    some = stepped(model, batch_of(x, EVERY))
    alone = stepped(model, batch_of(x[:2], COMPLETE))
    for found, expected in zip(some, alone, strict=True):
        assert found.loss.item() == pytest.approx(expected.loss.item() * 2 / 5, abs=1e-12)


@pytest.mark.parametrize("kind", [CondVAE, CondVAEInfo])
@pytest.mark.parametrize("options", [{"style": 0}, {"strength": -1}, {"injection": "multiply"}, {"adversary": "x"}])
def test_invalid_settings_are_refused(kind: Any, options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"{kind.__name__.lower()}: {next(iter(options))}"):
        kind.from_settings(options, ModelContext(SCHEMA, (4,), PRIOR))
