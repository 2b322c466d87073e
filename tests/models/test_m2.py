"""M2's bound, compared with sums over all joint classes, closed forms and its own enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from ccvae_models.m2 import M2
from scipy import special, stats
from torch import Tensor

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.model.interface import Label, LabelSchema, ModelContext, binary_schema, uniform_prior
from tests.support.small_models import (
    COMPLETE,
    EVERY,
    NAN,
    PRIOR,
    SCHEMA,
    agree,
    batch_of,
    moved,
    narrow,
    points,
    small,
    stepped,
)

pytestmark = pytest.mark.oracle

FIVE = binary_schema(*"abcde")


def log_q(model: M2, x: Tensor) -> list[np.ndarray]:
    """log q(y|x) of each label, by SciPy from the network's features."""
    with torch.no_grad():
        logits = model.classifier.logits(model.encoder.trunk(x)).numpy().reshape(len(x), len(SCHEMA), 3)
    return [special.log_softmax(logits[:, i, : label.cardinality], 1) for i, label in enumerate(SCHEMA)]


def columns_of(y: tuple[int, ...]) -> list[float]:
    """One-hot encoding: one column for Glasses, three for Hair, one for Smile."""
    return [float(y[0]), *(float(y[1] == k) for k in range(3)), float(y[2])]


def at_classes(model: M2, x: Tensor, y: tuple[int, ...]) -> tuple[float, float]:
    """log p(x|y,z) at the mean of q(z|x,y), and the KL of z, for one image."""
    given = torch.tensor([columns_of(y)], dtype=torch.float64)
    with torch.no_grad():
        q = model.encoder(model.encoder.trunk(x), given)
        mean = model.decode(torch.cat([given, q.loc], 1))
    m, s = q.loc.numpy(), q.scale.numpy()
    kl = (0.5 * (m**2 + s**2 - 1) - np.log(s)).sum()
    return float(stats.laplace.logpdf(x.numpy(), mean.numpy(), 1).sum()), float(kl)


def test_every_term_equals_the_sum_over_all_joint_classes() -> None:
    model, x = small(M2, style=2), points(len(EVERY))
    narrow(model, model.encoder.scale)
    bound = model.bound_terms(x, EVERY.double(), torch_stream(0, "m2"))
    log_q_y = log_q(model, x)
    for row, y in enumerate(EVERY):
        observed = [i for i in range(3) if not math.isnan(y[i])]
        missing = [i for i in range(3) if i not in observed]
        expected, kl, total = 0.0, 0.0, 0.0
        for classes in itertools.product(*(range(label.cardinality) for label in SCHEMA)):
            if any(classes[i] != y[i] for i in observed):
                continue
            q = math.exp(sum(log_q_y[i][row, classes[i]] for i in missing))
            r, k = at_classes(model, x[row : row + 1], classes)
            log_p = sum(math.log(PRIOR[i][classes[i]]) for i in range(3))
            expected, kl = expected + q * r, kl + q * k
            total += q * (r - k + log_p - (math.log(q) if missing else 0.0))
        divergence = sum((np.exp(log_q_y[i][row]) * (log_q_y[i][row] - np.log(PRIOR[i]))).sum() for i in missing)
        # tolerance: the posterior's standard deviation of 1e-3 shifts the sample and the reconstruction
        assert bound.reconstruction[row].item() == pytest.approx(expected, abs=0.05)
        assert bound.kl_style[row].item() == pytest.approx(kl, abs=1e-9)
        assert bound.kl_labels[row].item() == pytest.approx(divergence, abs=1e-6)
        assert bound.log_p_y[row].item() == pytest.approx(
            sum(math.log(PRIOR[i][int(y[i])]) for i in observed), abs=1e-6
        )
        assert bound.log_q_y_x[row].item() == pytest.approx(sum(log_q_y[i][row, int(y[i])] for i in observed), abs=1e-9)
        assert bound.value[row].item() == pytest.approx(total, abs=0.05)


def test_the_reconstruction_uses_one_sample_of_q_z_given_x_and_y() -> None:
    model, x = small(M2, style=2), points(2)
    bound = model.bound_terms(x, COMPLETE.double(), torch_stream(0, "m2"))
    noise = torch.randn(2, 2, generator=torch_stream(0, "m2"), dtype=torch.float64)
    given = torch.tensor([columns_of((1, 2, 0)), columns_of((0, 1, 1))], dtype=torch.float64)
    q = model.encoder(model.encoder.trunk(x), given)
    mean = model.decode(torch.cat([given, q.loc + q.scale * noise], 1)).detach().numpy()
    expected = stats.laplace.logpdf(x.numpy(), mean, 1).sum(1)
    np.testing.assert_allclose(bound.reconstruction.detach().numpy(), expected, atol=1e-9)


def test_the_loss_is_the_bound_plus_alpha_times_the_classifier_term() -> None:
    model, x = small(M2, style=2, alpha=7), points(len(EVERY))
    (objective,) = stepped(model, batch_of(x, EVERY))
    bound = model.bound_terms(x, EVERY.double(), torch_stream(0, "objectives"))
    expected = -(bound.value.sum() + 7 * 4 * bound.log_q_y_x.sum()) / len(EVERY)  # each point has four values
    assert objective.loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert objective.terms["supervised.rows"] == 4
    assert objective.terms["unsupervised.rows"] == 1


def test_sampling_y_agrees_with_enumeration_in_value_and_gradient() -> None:
    """Five binary labels, 100,000 samples: means agree within 4.5 standard errors."""
    model = small(M2, FIVE, uniform_prior(FIVE), style=1)
    x = points(2).repeat(125, 1)
    y = torch.tensor([[NAN] * 5, [1.0, NAN, NAN, 0.0, NAN]], dtype=torch.float64).repeat(125, 1)
    parameters = list(model.parameters())
    found: dict[bool, list[Tensor]] = {True: [], False: []}
    for enumerates, values in found.items():
        model.enumerates = enumerates
        for round_ in range(100):
            value = model.bound_terms(x, y, torch_stream(round_, str(enumerates))).value.mean()
            gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
            values.append(torch.cat([value.detach().reshape(1), *(g.flatten() for g in gradients)]))
    exact, sampled = (torch.stack(values) for values in found.values())
    assert agree(sampled, exact, 4.5)
    # the score-function term contributes: the classifier's gradient is far from 0
    start = 1 + sum(p.numel() for n, p in model.named_parameters() if not n.startswith("classifier"))
    assert sampled[:, start:].mean(0).abs().max() > 10 * (sampled[:, start:].var(0) / 100).sqrt().max()


def test_more_than_32_joint_classes_are_sampled() -> None:
    six = binary_schema(*"abcdef")
    assert small(M2, FIVE, uniform_prior(FIVE), style=1).enumerates
    model = small(M2, six, uniform_prior(six), style=1)
    assert not model.enumerates
    decoded: list[int] = []
    model.decoder.register_forward_hook(lambda _, codes, __: decoded.append(len(codes[0])))
    y = torch.full((3, 6), NAN, dtype=torch.float64)
    y[0] = 1
    model.bound_terms(points(3), y, torch_stream(0, "m2"))
    assert decoded == [1 + 4 + 4], "a fully labelled row is decoded once"


@pytest.mark.parametrize("rows", [[0, 1], [3, 3], [2, 4]])
def test_every_parameter_gets_a_gradient(rows: list[int]) -> None:
    model = small(M2, style=2)
    (objective,) = stepped(model, batch_of(points(2), EVERY[rows]))
    assert moved(objective, model) == {name for name, _ in model.named_parameters()}


def test_a_code_contains_the_label_or_else_the_classifiers_prediction() -> None:
    model, x = small(M2, style=2), points(2)
    assert dict(model.layout.characteristics) == {"Glasses": (0,), "Hair": (1, 2, 3), "Smile": (4,)}
    p = [np.exp(each) for each in log_q(model, x)]
    without_y, given = model.encode(x), model.encode(x, torch.tensor([[1.0, NAN, 0.0], [NAN, 2.0, NAN]]).double())
    np.testing.assert_allclose(without_y.loc[:, 0].detach(), p[0][:, 1])
    np.testing.assert_allclose(without_y.loc[:, 1:4].detach(), p[1])
    assert given.loc[0, [0, 4]].tolist() == [1, 0]
    np.testing.assert_allclose(given.loc[0, 1:4].detach(), p[1][0])
    assert given.loc[1, 1:4].tolist() == [0, 0, 1]
    assert not bool(given.scale[:, :5].any())
    assert not torch.equal(without_y.loc[:, 5:], given.loc[:, 5:]), "q(z|x,y) sees y"
    prior = model.conditional_prior(torch.tensor([[1.0, 2.0, NAN]]))
    assert prior.loc[0, :4].tolist() == [1, 0, 0, 1]
    assert math.isnan(prior.loc[0, 4])
    assert prior.scale[0, :4].tolist() == [0] * 4


@pytest.mark.parametrize(
    ("options", "labels", "message"),
    [
        ({"style": 0}, SCHEMA, "style"),
        ({"draws": 1}, SCHEMA, "draws"),
        ({"alpha": -1}, SCHEMA, "alpha"),
        ({"latent": 3}, SCHEMA, "latent"),
        ({}, LabelSchema(()), "vae"),
        ({}, LabelSchema((Label("age", "continuous"),)), "age"),
    ],
)
def test_invalid_settings_and_labels_are_refused(options: dict[str, float], labels: LabelSchema, message: str) -> None:
    prior = tuple((1 / label.cardinality,) * label.cardinality if label.cardinality else () for label in labels)
    with pytest.raises(UsageError, match=message):
        M2.from_settings(options, ModelContext(labels, (4,), prior))
