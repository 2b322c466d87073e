"""CCVAE: capabilities, layout, predictions, validation of settings, and terms of the objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from ccvae_models.ccvae import CCVAE
from ccvae_models.vae import VAE

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.core.types import Gaussian, Plain
from ccvae_eval.model.interface import (
    Batch,
    HasConditionalPrior,
    Label,
    LabelledVAE,
    LabelSchema,
    ModelContext,
    Predicts,
    Rebuildable,
    Trainable,
    binary_schema,
    supports,
    uniform_prior,
)
from ccvae_eval.plugins.registry import models

HAIR = Label("Hair", "categorical", ("Bald", "Black", "Blond", "Brown", "Gray"))
SCHEMA = LabelSchema((Label("Glasses"), HAIR, Label("Smile")))
PRIOR = ((0.75, 0.25), (0.1, 0.2, 0.3, 0.2, 0.2), (0.5, 0.5))
CONTEXT = ModelContext(SCHEMA, (3, 32, 32), PRIOR)


def built(**options: Plain) -> CCVAE:
    return CCVAE.from_settings({"style": 4, **options}, CONTEXT)


def test_capabilities_of_ccvae_and_vae() -> None:
    ccvae, vae = built(), VAE.from_settings({}, CONTEXT)
    for model in (ccvae, vae):
        assert supports(model, LabelledVAE)
        assert supports(model, Trainable)
        assert supports(model, Rebuildable)
    assert supports(ccvae, Predicts)
    assert supports(ccvae, HasConditionalPrior)
    assert not supports(vae, Predicts)
    assert not vae.layout.characteristics
    assert models["ccvae"] is CCVAE
    assert models["vae"] is VAE


def test_the_layout_has_one_block_per_label_then_style() -> None:
    assert dict(built().layout.characteristics) == {"Glasses": (0,), "Hair": (1, 2), "Smile": (3,)}
    assert built().layout.style == (4, 5, 6, 7)
    assert built(block=2, class_block=4).layout["Hair"] == (2, 3, 4, 5)


@pytest.mark.parametrize("options", [{}, {"block": 3}, {"class_block": 4}, {"class_block": 1}])
def test_predictions_are_normalised_and_depend_on_the_labels_own_block(options: Mapping[str, Plain]) -> None:
    model = built(**options)
    codes = torch.randn(6, model.layout.dim, generator=torch_stream(0, "codes"))
    images = torch.rand(6, 3, 32, 32)
    for predictions in (model.predict(images, codes), model.label_posterior(images)):
        for label in SCHEMA:
            log_q = predictions[label.name]
            assert isinstance(log_q, torch.Tensor)
            assert log_q.shape == (6, label.cardinality)
            torch.testing.assert_close(log_q.logsumexp(1), torch.zeros(6), atol=1e-5, rtol=0)
    moved = codes.clone()
    moved[:, list(model.layout["Glasses"])] += 10
    before, after = model.predict(images, codes), model.predict(images, moved)
    assert bool((after["Glasses"][:, 1] > before["Glasses"][:, 1]).all())  # type: ignore[index]
    for name in ("Hair", "Smile"):
        assert torch.equal(before[name], after[name])  # type: ignore[arg-type]


def test_label_posterior_of_a_narrow_posterior_is_the_prediction_at_its_mean() -> None:
    model, images = built(), torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        model.encoder.scale.weight.zero_()
        model.encoder.scale.bias.fill_(-20.0)
    at_mean, integrated = model.predict(images, model.encode(images).loc), model.label_posterior(images)
    for name in SCHEMA.names:
        torch.testing.assert_close(integrated[name], at_mean[name], atol=1e-5, rtol=0)


def test_the_conditional_prior_is_the_gaussian_of_the_class_and_nan_if_missing() -> None:
    model = built(prior_mean=2)
    labels = torch.tensor([[1.0, 4.0, 0.0], [0.0, math.nan, 1.0]])
    prior = model.conditional_prior(labels)
    assert prior.loc.shape == prior.scale.shape == (2, 4)
    group = model.groups[1]
    torch.testing.assert_close(prior.loc[0, 1:3], group.loc[0, 4])
    assert prior.loc[:, 0].tolist() == [2, -2]
    assert prior.loc[1].isnan().tolist() == [False, True, True, False]
    assert prior.scale[1].isnan().tolist() == [False, True, True, False]
    torch.testing.assert_close(prior.scale[0], torch.full((4,), math.log1p(math.e)))


def test_a_rebuilt_model_is_the_same_model() -> None:
    model = built(estimator="reference", class_block=3)
    plain = {name: getattr(model.settings, name) for name in model.settings.__dataclass_fields__}
    again = CCVAE.from_settings(plain, ModelContext.from_plain(model.context.as_plain()), seed=9)
    again.load_state_dict(model.state_dict())
    assert again.settings == model.settings
    codes = torch.randn(2, model.layout.dim)
    assert torch.equal(again.decode(codes), model.decode(codes))
    assert torch.equal(again.characteristics["classes5"].label_prior, torch.tensor([PRIOR[1]]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "context", "message"),
    [
        ({}, ModelContext(LabelSchema(()), (3, 32, 32), ()), "vae"),
        ({}, ModelContext(LabelSchema((Label("age", "continuous"),)), (3, 32, 32), ((),)), "age"),
        ({"style": -1}, CONTEXT, "style"),
        ({"alpha": -0.1}, CONTEXT, "alpha"),
        ({"alpha": "inf"}, CONTEXT, "alpha"),
        ({"block": 0}, CONTEXT, "block"),
        ({"points": 3}, CONTEXT, "points"),
        ({"likelihood_scale": -1}, CONTEXT, "likelihood_scale"),
        ({"estimator": "exakt"}, CONTEXT, "estimator"),
        ({"latent": 3}, CONTEXT, "latent"),
        ({}, ModelContext(SCHEMA, (3, 32, 32), PRIOR[:2]), "2 of 3"),
        ({}, ModelContext(SCHEMA, (3, 32, 32), (PRIOR[0], PRIOR[0], PRIOR[2])), "Hair"),
        ({}, ModelContext(SCHEMA, (3, 30, 30), PRIOR), "30"),
    ],
)
def test_invalid_settings_and_labels_are_refused(
    settings: Mapping[str, Plain], context: ModelContext, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        CCVAE.from_settings(settings, context)


def test_a_class_absent_from_training_keeps_the_bound_finite() -> None:
    context = ModelContext(SCHEMA, (3, 32, 32), (PRIOR[0], (0.0, 0.5, 0.5, 0.0, 0.0), PRIOR[2]))
    model = CCVAE.from_settings({}, context)
    bound = model.exact(torch.rand(2, 3, 32, 32), torch.full((2, 3), math.nan), torch_stream(0, "bound"))
    assert bool(bound.value.isfinite().all())


def batch_of(labels: Any) -> Batch:
    y = torch.tensor(labels)
    return Batch(torch.rand(len(y), 3, 32, 32, generator=torch_stream(0, "images")), y, np.arange(len(y)))


@pytest.mark.parametrize("estimator", ["exact", "reference"])
def test_terms_add_up_to_the_loss(estimator: str) -> None:
    model = built(estimator=estimator, alpha=0.01)
    nan = math.nan
    batch = batch_of([[1.0, 2.0, 0.0], [nan, nan, nan], [nan, 3.0, nan], [0.0, 0.0, 1.0]])
    (objective,) = model.objectives(batch, torch_stream(0, "bound"))
    terms, total = objective.terms, 0.0
    assert terms["supervised.rows"] == 3
    assert terms["unsupervised.rows"] == 1
    for kind in ("supervised", "unsupervised"):
        parts = {name: terms[f"{kind}.{name}"] for name in ("reconstruction", "kl_style", "characteristics")}
        value = parts["reconstruction"] - parts["kl_style"] + parts["characteristics"]
        assert terms[f"{kind}.value"] == pytest.approx(value, rel=1e-5)
        total += terms[f"{kind}.rows"] * value
    if estimator == "exact":  # the reference estimator ignores alpha
        total += 0.01 * 3 * 32 * 32 * terms["supervised.rows"] * terms["supervised.log_q_y_x"]
    assert objective.loss.item() == pytest.approx(-total / 4, rel=1e-5)
    assert 0 < terms["supervised.weight_share"] <= 1


def test_alpha_adds_the_weighted_gradient_of_log_q_y_x() -> None:
    batch = batch_of([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
    found = {}
    for alpha in (0.0, 0.5):
        model = built(alpha=alpha, blank=False)
        (objective,) = model.objectives(batch, torch_stream(0, "bound"))
        bound = model.exact(batch.images, batch.labels, torch_stream(0, "bound"))
        weight = alpha * 3 * 32 * 32
        assert objective.loss.item() == pytest.approx(-(bound.value + weight * bound.log_q_y_x).mean().item())
        found[alpha] = torch.autograd.grad(objective.loss, tuple(model.encoder.parameters()))
        gradients = torch.autograd.grad(bound.log_q_y_x.mean(), tuple(model.encoder.parameters()))
    for with_alpha, without, gradient in zip(found[0.5], found[0.0], gradients, strict=True):
        torch.testing.assert_close(without - with_alpha, 0.5 * 3 * 32 * 32 * gradient, rtol=1e-3, atol=1e-3)


def test_terms_without_rows_are_nan() -> None:
    (objective,) = built().objectives(batch_of([[1.0, 2.0, 0.0]] * 2), torch_stream(0, "bound"))
    assert math.isnan(objective.terms["unsupervised.value"])
    (objective,) = built().objectives(batch_of([[math.nan] * 3] * 2), torch_stream(0, "bound"))
    assert math.isnan(objective.terms["supervised.weight_share"])
    assert objective.loss.isfinite().item()


def test_the_same_generator_gives_the_same_objective() -> None:
    model, batch = built(class_block=4), batch_of([[1.0, 2.0, 0.0]] * 3)
    losses = [next(iter(model.objectives(batch, torch_stream(7, "step")))).loss.item() for _ in range(2)]
    assert losses[0] == losses[1]


def test_extreme_logits_give_finite_gradients() -> None:
    """Classifiers become sharp and posteriors wide in training."""
    model = built()
    with torch.no_grad():
        for group in model.groups:
            group.weight *= 60
            group.bias += 40
    (objective,) = model.objectives(batch_of([[0.0, 0.0, 0.0], [math.nan] * 3]), torch_stream(0, "bound"))
    gradients = torch.autograd.grad(objective.loss, objective.parameters)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_a_second_latent_dimension_without_weight_changes_nothing() -> None:
    schema = binary_schema("a")
    context = ModelContext(schema, (3,), uniform_prior(schema))
    one, two = (CCVAE.from_settings({"style": 0, "block": block}, context) for block in (1, 2))
    with torch.no_grad():
        two.groups[0].weight[0, 0] = torch.tensor([1.0, 0.0])
    q = Gaussian(torch.tensor([[0.3]]), torch.tensor([[1.7]]))
    wide = Gaussian(torch.tensor([[0.3, -2.0]]), torch.tensor([[1.7, 0.4]]))
    (expected,) = one.condition_on_labels(q, [one.groups[0].rule(None)])
    (found,) = two.condition_on_labels(wide, [two.groups[0].rule(None)])
    torch.testing.assert_close(found.log_q_y_x, expected.log_q_y_x)
    torch.testing.assert_close(found.square[..., :1], expected.square)
    torch.testing.assert_close(found.square[..., 1], torch.ones(1, 1, 2))
