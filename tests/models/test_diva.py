"""DIVA's bound with and without domains, compared with integrals and sums in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from ccvae_models.diva import DIVA, AdaptedDIVA
from scipy import special, stats
from torch import Tensor

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.model.interface import LabelSchema, ModelContext
from tests.support.small_models import (
    EVERY,
    HAIR,
    NAN,
    PRIOR,
    SCHEMA,
    batch_of,
    moved,
    points,
    small,
    stepped,
)

pytestmark = pytest.mark.oracle

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "diva": (DIVA, {"domain": "Hair", "block": 2, "style": 2, "beta": 0.7, "alpha_y": 5, "alpha_d": 3}),
    "shared": (DIVA, {"domain": "Hair", "block": 2, "style": 2, "encoders": "shared", "alpha_y": 5, "alpha_d": 3}),
    "adapted": (AdaptedDIVA, {"style": 2, "beta": 0.7, "alpha_y": 5}),
    "imputed": (AdaptedDIVA, {"style": 2, "alpha_y": 5, "auxiliary": "unsupervised"}),
}


def built(name: str) -> Any:
    kind, options = KINDS[name]
    return small(kind, **options)


class DIVADensities:
    """The densities of a model by SciPy, from its raw parameters."""

    def __init__(self, model: Any, x: Tensor) -> None:
        self.model = model
        q = model.encode(x)
        self.m, self.s = q.loc.numpy(force=True), q.scale.numpy(force=True)
        self.loc = model.priors.loc.numpy(force=True)
        self.scale = np.maximum(np.logaddexp(0, model.priors.raw_scale.numpy(force=True)), 1e-3)
        self.weight, self.bias = (p.numpy(force=True) for p in (model.classifier.weight, model.classifier.bias))

    def block(self, i: int) -> list[int]:
        return list(self.model.layout[SCHEMA.names[i]])

    def log_q_y(self, i: int, z: np.ndarray) -> np.ndarray:
        """log q(y|z^i) at points of the label's block, (P, d) -> (P, K)."""
        size, d = SCHEMA.labels[i].cardinality, len(self.block(i))
        return np.asarray(special.log_softmax(z @ self.weight[i, :size, :d].T + self.bias[i, :size], 1))

    def log_p_z(self, i: int, k: int, z: np.ndarray) -> np.ndarray:
        d = len(self.block(i))
        return np.asarray(stats.norm.logpdf(z, self.loc[i, k, :d], self.scale[i, k, :d]).sum(1))

    def kl(self, row: int, i: int, k: int) -> float:
        """KL(q(z^i|x) || p(z^i|y)) by torch.distributions."""
        c, d = self.block(i), len(self.block(i))
        normal = torch.distributions.Normal
        q = normal(torch.tensor(self.m[row, c]), torch.tensor(self.s[row, c]))
        p = normal(torch.tensor(self.loc[i, k, :d]), torch.tensor(self.scale[i, k, :d]))
        return float(torch.distributions.kl_divergence(q, p).sum())

    def bracket(self, row: int, i: int, z: np.ndarray, beta: float) -> np.ndarray:
        """Integrand of E_q(z^i|x) in L_u, at points (P, d)."""
        c, log_q_y = self.block(i), self.log_q_y(i, z)
        log_q = stats.norm.logpdf(z, self.m[row, c], self.s[row, c]).sum(1)
        terms = [
            beta * (self.log_p_z(i, k, z) - log_q) + math.log(PRIOR[i][k]) - log_q_y[:, k]
            for k in range(SCHEMA.labels[i].cardinality)
        ]
        return np.asarray((np.exp(log_q_y) * np.stack(terms, 1)).sum(1))


@pytest.mark.parametrize("name", KINDS)
def test_every_term_equals_scipy(name: str) -> None:
    model, x = built(name), points(len(EVERY))
    bound = model.bound_terms(x, EVERY.double(), model.settings.beta, torch_stream(0, "diva"))
    density, beta = DIVADensities(model, x), model.settings.beta
    noise = torch.randn(
        bound.reconstruction.shape[0], model.layout.dim, generator=torch_stream(0, "diva"), dtype=x.dtype
    )
    z = density.m + density.s * noise.numpy()
    mean = model.decode(torch.from_numpy(z)).numpy(force=True)
    value = stats.laplace.logpdf(x.numpy(), mean, 1).sum(1)
    np.testing.assert_allclose(bound.reconstruction.numpy(force=True), value, atol=1e-9)
    style = list(model.layout.style)
    kl = (0.5 * (density.m[:, style] ** 2 + density.s[:, style] ** 2 - 1) - np.log(density.s[:, style])).sum(1)
    value = value - beta * kl
    for row, y in enumerate(EVERY.tolist()):
        for i, v in enumerate(y):
            own = z[row : row + 1, density.block(i)]
            log_q = density.log_q_y(i, own)[0]
            if math.isnan(v):
                expected = density.bracket(row, i, own, beta)[0]
                assert bound.bracket[row, i].item() == pytest.approx(expected, abs=1e-6)
                assert bound.entropy[row, i].item() == pytest.approx(-(np.exp(log_q) * log_q).sum(), abs=1e-9)
                assert [bound.kl_labelled[row, i], bound.log_p_y[row, i], bound.log_q_y_z[row, i]] == [0, 0, 0]
                value[row] += expected
            else:
                k = int(v)
                assert bound.kl_labelled[row, i].item() == pytest.approx(density.kl(row, i, k), abs=1e-9)
                assert bound.log_p_y[row, i].item() == pytest.approx(math.log(PRIOR[i][k]), abs=1e-6)
                assert bound.log_q_y_z[row, i].item() == pytest.approx(log_q[k], abs=1e-9)
                assert [bound.bracket[row, i], bound.entropy[row, i]] == [0, 0]
                value[row] += math.log(PRIOR[i][k]) - beta * density.kl(row, i, k)
    np.testing.assert_allclose(bound.value.numpy(force=True), value, atol=1e-6)


def test_the_bracket_averages_to_its_integral() -> None:
    model, rows = built("adapted"), 20_000
    x, y = points(1), torch.full((1, 3), NAN, dtype=torch.float64)
    bracket = model.bound_terms(x.expand(rows, -1), y.expand(rows, -1), 0.7, torch_stream(0, "diva")).bracket
    density = DIVADensities(model, x)
    for i in (0, 2):
        (dimension,) = density.block(i)
        line = np.linspace(-9, 9, 4001)
        values = density.bracket(
            0, i, density.m[0, dimension] + density.s[0, dimension] * line[:, None], 0.7
        ) * stats.norm.pdf(line)
        expected = np.trapezoid(values, line)
        error = bracket[:, i].std().item() / math.sqrt(rows)
        assert abs(bracket[:, i].mean().item() - expected) < 4 * error


@pytest.mark.parametrize("name", KINDS)
def test_the_auxiliary_terms_have_separate_weights_for_labels_and_domain(name: str) -> None:
    model, x = built(name), points(len(EVERY))
    (objective,) = stepped(model, batch_of(x, EVERY))
    bound = model.bound_terms(x, EVERY.double(), model.settings.beta, torch_stream(0, "objectives"))
    weight = torch.tensor([5.0, 3.0 if model.settings.domain == "Hair" else 5.0, 5.0])
    auxiliary = -bound.entropy if name == "imputed" else bound.log_q_y_z
    expected = -(bound.value + (weight * auxiliary).sum(1)).mean()
    assert objective.loss.item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("rows", [[0, 1], [3, 3], [2, 4]])
def test_every_parameter_gets_a_gradient(name: str, rows: list[int]) -> None:
    model = built(name)
    y = EVERY[rows].repeat(20, 1)
    (objective,) = stepped(model, batch_of(points(len(y)), y))
    names = {n for n, _ in model.named_parameters()}
    if name == "imputed" and rows == [0, 1]:  # all labels observed: the classifier enters no term
        names = {n for n in names if not n.startswith("classifier")}
    assert moved(objective, model) == names


def test_labels_domain_and_style_have_separate_encoders() -> None:
    model = built("diva")
    y, domain, style = model.encoder.parts
    x = points(3)
    q, layout = model.encode(x), model.layout
    assert torch.equal(q.loc[:, list(layout["Hair"])], domain(x).loc)
    assert torch.equal(q.loc[:, [*layout["Glasses"], *layout["Smile"]]], y(x).loc)
    assert torch.equal(q.scale[:, list(layout.style)], style(x).scale)


def test_block_widths_follow_the_settings() -> None:
    assert dict(built("adapted").layout.characteristics) == {"Glasses": (0,), "Hair": (1, 2), "Smile": (3,)}
    assert dict(built("diva").layout.characteristics) == {"Glasses": (0, 1), "Hair": (2, 3), "Smile": (4, 5)}
    prior = built("adapted").conditional_prior(torch.tensor([[1.0, NAN, 0.0]]))
    assert prior.loc.shape == (1, 4)
    assert prior.loc[0].isnan().tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("kind", "options", "labels", "message"),
    [
        (DIVA, {}, SCHEMA, "no label 'domain'"),
        (DIVA, {"domain": "Hair"}, LabelSchema((HAIR,)), "label besides the domain"),
        (DIVA, {"domain": "Hair", "auxiliary": "unsupervised"}, SCHEMA, "adapted-diva"),
        (DIVA, {"domain": "Hair", "block": 0}, SCHEMA, "diva: block"),
        (AdaptedDIVA, {"style": 0}, SCHEMA, "style must be at least 1, got 0"),
        (AdaptedDIVA, {"alpha_y": -1}, SCHEMA, "alpha_y must be at least 0, got -1"),
        (AdaptedDIVA, {}, LabelSchema(()), "vae"),
    ],
)
def test_invalid_settings_and_labels_are_refused(
    kind: Any, options: dict[str, Any], labels: LabelSchema, message: str
) -> None:
    prior = tuple((1 / label.cardinality,) * label.cardinality for label in labels)
    with pytest.raises(UsageError, match=message):
        kind.from_settings(options, ModelContext(labels, (4,), prior))


def test_the_kl_weight_rises_over_the_first_steps() -> None:
    model = small(AdaptedDIVA, style=2, beta=0.8, warm_up=4)
    batch, losses = batch_of(points(len(EVERY)), EVERY), []
    for _ in range(6):
        (objective,) = stepped(model, batch)
        losses.append(objective.loss.item())
    changes = np.diff(losses)
    np.testing.assert_allclose(changes[:4], changes[0])
    assert changes[0] > 0
    assert changes[4] == 0
    model.eval()
    assert stepped(model, batch)[0].loss.item() == losses[-1]
    again = small(AdaptedDIVA, style=2, beta=0.8, warm_up=4)
    again.load_state_dict(model.state_dict())
    assert stepped(again, batch)[0].loss.item() == losses[-1], "the step count is part of the state_dict"
