"""CCVAE's bound, compared with SciPy's integrals in float64, enumeration, and plain sampling."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from ccvae_models.ccvae import CCVAE, CCVAEBound
from ccvae_models.characteristics import Characteristics
from ccvae_models.quadrature import condition_on_label, trapezoid
from ccvae_models.vae import VAE
from scipy import integrate, special, stats
from torch import Tensor

from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.core.types import Gaussian, Plain
from ccvae_eval.model.interface import Batch, Label, LabelSchema, ModelContext, binary_schema
from tests.support.small_models import NAN, PRIOR, SCHEMA, agree, batch_of, moved, points

pytestmark = pytest.mark.oracle


def tiny_ccvae(schema: LabelSchema = SCHEMA, prior: Any = PRIOR, **options: Plain) -> CCVAE:
    """A CCVAE of points in float64, with posteriors that differ and a perturbed classifier and prior."""
    model = CCVAE.from_settings(
        {"style": 2, "hidden": 6, "blank": False, **options}, ModelContext(schema, (4,), prior)
    ).double()
    generator = torch_stream(3, "tiny")
    with torch.no_grad():
        for group in model.groups:
            for parameter in group.parameters():
                parameter += 0.7 * torch.randn(parameter.shape, generator=generator)
            group.weight *= 1.5
    return model


class CCVAEDensities:
    """The densities of one image as NumPy functions, independent of the model's own code."""

    def __init__(self, model: CCVAE, posterior: Gaussian, row: int) -> None:
        self.model = model
        self.m, self.s = (p[row].detach().numpy() for p in (posterior.loc, posterior.scale))

    def label(self, name: str) -> dict[str, Any]:
        index = self.model.labels.index(name)
        group = next(g for g in self.model.groups if index in g.indices)
        place = group.indices.index(index)
        raw = group.raw_scale[place].detach().numpy()
        return {
            "block": list(self.model.layout[name]),
            "weight": group.weight[place].detach().numpy(),
            "bias": group.bias[place].detach().numpy(),
            "loc": group.loc[place].detach().numpy(),
            "scale": np.maximum(np.logaddexp(0, raw), 1e-3),
            "p": np.array(self.model.context.label_prior[index]),
        }

    def log_q_y_z(self, name: str, z: np.ndarray) -> np.ndarray:
        """log q(y|z) of each class at points of the label's block, (P, d) -> (P, K)."""
        at = self.label(name)
        logits = z @ at["weight"].T + at["bias"]
        if logits.shape[1] == 1:
            logits = np.concatenate([np.zeros_like(logits), logits], 1)
        return np.asarray(special.log_softmax(logits, 1))

    def expectation(self, name: str, f: Any) -> float:
        """E_q(z^i|x) f(z) by Simpson's rule on a fine grid of +-9 standard deviations."""
        block = self.label(name)["block"]
        line = np.linspace(-9, 9, 4001 if len(block) == 1 else 401)
        grid = np.stack(np.meshgrid(*[line] * len(block), indexing="ij"), -1)
        e = grid.reshape(-1, len(block))
        values = (f(self.m[block] + self.s[block] * e) * stats.norm.pdf(e).prod(1)).reshape(grid.shape[:-1])
        for _ in block:
            values = integrate.simpson(values, x=line)
        return float(values)

    def log_q_y_x(self, name: str, y: int) -> float:
        return math.log(self.expectation(name, lambda z: np.exp(self.log_q_y_z(name, z)[:, y])))

    def kl(self, name: str, y: int) -> float:
        """KL(q(z^i|x,y) || p(z^i|y)) with q(z|x,y) = q(y|z) q(z|x) / q(y|x)."""
        at, log_q_y_x = self.label(name), self.log_q_y_x(name, y)
        block = at["block"]

        def f(z: np.ndarray) -> np.ndarray:
            log_w = self.log_q_y_z(name, z)[:, y] - log_q_y_x
            log_q = stats.norm.logpdf(z, self.m[block], self.s[block]).sum(1)
            log_p = stats.norm.logpdf(z, at["loc"][y], at["scale"][y]).sum(1)
            return np.asarray(np.exp(log_w) * (log_w + log_q - log_p))

        return self.expectation(name, f)

    def missing_bracket(self, name: str) -> float:
        """E_q(z^i|x)[-log q(z^i|x) + sum_y q(y|z)(log p(z^i|y) + log p(y) - log q(y|z))], Eq. 5 for one label."""
        at = self.label(name)
        block = at["block"]

        def f(z: np.ndarray) -> np.ndarray:
            log_y = self.log_q_y_z(name, z)
            log_p = stats.norm.logpdf(z[:, None], at["loc"], at["scale"]).sum(2)
            log_q = stats.norm.logpdf(z, self.m[block], self.s[block]).sum(1)
            return np.asarray(-log_q + (np.exp(log_y) * (log_p + np.log(at["p"]) - log_y)).sum(1))

        return self.expectation(name, f)

    def kl_style(self) -> float:
        """KL(q(z_s|x) || N(0, I)) by numerical integration."""
        total = 0.0
        for j in self.model.layout.style:
            q = stats.norm(self.m[j], self.s[j])
            total += integrate.quad(
                lambda z, q=q: q.pdf(z) * (q.logpdf(z) - stats.norm.logpdf(z)), *q.ppf([1e-15, 1 - 1e-15])
            )[0]
        return total


def bound_of(model: CCVAE, x: Tensor, y: Tensor, seed: int = 0) -> CCVAEBound:
    return model.exact(x, y, torch_stream(seed, "bound"))


LABELS = torch.tensor(
    [[1.0, 2.0, 0.0], [0.0, 0.0, 1.0], [NAN, NAN, NAN], [1.0, NAN, 0.0], [NAN, 1.0, NAN]], dtype=torch.float64
)
MODELS: Mapping[str, Mapping[str, Plain]] = {
    "one latent dimension": {"class_block": 1},
    "two for three classes": {"class_block": 2, "points": 257},
    "blocks": {"block": 2, "class_block": 1},
}


@pytest.mark.parametrize("case", MODELS)
def test_each_term_equals_its_integral(case: str) -> None:
    model = tiny_ccvae(estimator="weighted", **MODELS[case])
    x = points(len(LABELS))
    bound, q = bound_of(model, x, LABELS), model.encode(x)
    z = q.at(torch.randn(q.loc.shape, generator=torch_stream(0, "bound"), dtype=torch.float64)).detach()
    log_p_x_z, b = model.log_likelihood(x, z).detach(), model.log_likelihood(x, q.loc).detach()
    for n in range(len(x)):
        row = CCVAEDensities(model, q, n)
        characteristics = log_q = log_p = log_w = 0.0
        for i, name in enumerate(SCHEMA.names):
            if math.isnan(LABELS[n, i]):
                characteristics += row.missing_bracket(name)
                continue
            y = int(LABELS[n, i])
            log_q += row.log_q_y_x(name, y)
            log_p += math.log(PRIOR[i][y])
            log_w += row.log_q_y_z(name, z[n : n + 1, list(model.layout[name])].numpy())[0, y]
            characteristics += math.log(PRIOR[i][y]) - row.kl(name, y)
        w = math.exp(log_w - log_q)
        assert bound.characteristics[n].item() == pytest.approx(characteristics, abs=2e-6)
        assert bound.log_q_y_x[n].item() == pytest.approx(log_q, abs=1e-6)
        assert bound.log_p_y[n].item() == pytest.approx(log_p, abs=1e-9)
        assert bound.kl_style[n].item() == pytest.approx(row.kl_style(), abs=1e-8)
        expected = w * (log_p_x_z[n] - b[n]) + b[n]
        assert bound.reconstruction[n].item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("deviation", [0.1, 1, 4, 10])
@pytest.mark.parametrize("centre", [-6.0, 0.0, 3.0])
@pytest.mark.parametrize("nodes", [129, 257])
def test_log_q_y_x_is_exact_for_wide_posteriors(deviation: float, centre: float, nodes: int) -> None:
    q = Gaussian(torch.full((1, 1, 1), centre, dtype=torch.float64), torch.full((1, 1, 1), deviation).double())
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    found = condition_on_label(q, one, torch.zeros(1, 1, dtype=torch.float64), trapezoid(nodes, 1)).log_q_y_x[0, 0]
    line = np.linspace(-12, 12, 400_001)
    density = stats.norm.pdf(line)
    for y, sign in enumerate((-1, 1)):
        expected = integrate.trapezoid(density * special.expit(sign * (centre + deviation * line)), line)
        assert found[y].item() == pytest.approx(math.log(expected), abs=1e-6)


def test_two_dimensional_quadrature_improves_when_refined() -> None:
    """33 x 33 nodes in training are accurate to 1e-3 nats, 65 x 65 nodes in evaluation to 1e-6."""
    model = tiny_ccvae(class_block=2)
    x = points(3)
    row = CCVAEDensities(model, model.encode(x), 1)
    group = model.groups[1]
    q = group.posterior(model.encode(x))
    for refined, error in ((False, 1e-3), (True, 1e-6)):
        rule = group.rule(None, refined).like(q.loc)
        found = condition_on_label(q, group.weight, group.bias, rule).log_q_y_x[1, 0]
        assert [row.log_q_y_x("Hair", y) for y in range(3)] == pytest.approx(found.tolist(), abs=error)


def test_unlabelled_bound_equals_enumeration_over_joint_labels() -> None:
    """Eq. 5 as a sum over all joint labels, on a grid over the joint z_c."""
    model = tiny_ccvae(binary_schema("a", "b"), ((0.7, 0.3), (0.45, 0.55)))
    x = points(1)
    bound, q = bound_of(model, x, torch.full((1, 2), NAN, dtype=torch.float64)), model.encode(x)
    row = CCVAEDensities(model, q, 0)
    line = np.linspace(-8, 8, 201)
    grid = np.array(list(itertools.product(line, line)))
    weight = stats.norm.pdf(grid).prod(1)
    weight /= weight.sum()
    z = row.m[:2] + row.s[:2] * grid
    log_q_z = stats.norm.logpdf(z, row.m[:2], row.s[:2]).sum(1)
    each = {}
    for place, name in enumerate("ab"):
        at = row.label(name)
        logit = at["weight"][0, 0] * z[:, place] + at["bias"][0]
        each[name] = (np.stack([special.log_expit(-logit), special.log_expit(logit)], 1), at, z[:, place])
    total = np.zeros(len(grid))
    for y in itertools.product((0, 1), repeat=2):
        log_q_y = sum(each[name][0][:, value] for name, value in zip("ab", y, strict=True))
        log_p = np.zeros(len(grid))
        for name, value in zip("ab", y, strict=True):
            _, at, z_i = each[name]
            log_p += stats.norm.logpdf(z_i, at["loc"][value, 0], at["scale"][value, 0]) + math.log(at["p"][value])
        total += np.exp(log_q_y) * (log_p - log_q_y - log_q_z)
    assert bound.characteristics.item() == pytest.approx((weight * total).sum(), abs=1e-6)
    assert bound.log_w.item() == 0
    assert not bound.labelled.item()


def test_each_bracket_depends_on_its_own_label_only() -> None:
    """With some labels missing, each label contributes the bracket of L or of U."""
    model, x = tiny_ccvae(class_block=1), points(1)
    full = torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float64)
    brackets = {}
    for observed in itertools.product((False, True), repeat=3):
        y = full.masked_fill(~torch.tensor(observed), NAN)
        brackets[observed] = bound_of(model, x, y).characteristics.item()
    none = brackets[False, False, False]
    steps = [brackets[tuple(i == j for i in range(3))] - none for j in range(3)]
    for observed, value in brackets.items():
        expected = none + sum(step for step, is_observed in zip(steps, observed, strict=True) if is_observed)
        assert value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("options", [{"class_block": 1}, {"class_block": 2}, {"block": 2}])
def test_weights_average_to_one(options: Mapping[str, Plain]) -> None:
    model, rows = tiny_ccvae(estimator="weighted", **options), 3000
    x, y = points(1).expand(rows, -1), LABELS[:1].expand(rows, -1)
    w = bound_of(model, x, y).log_w.exp()
    assert abs(w.mean() - 1).item() < 4 * (w.std() / math.sqrt(rows)).item()
    assert w.std().item() > 0.05


def test_weights_average_to_one_exactly_over_quasi_random_draws() -> None:
    schema = LabelSchema((Label("Hair", "categorical", tuple("abcde")),))
    model = tiny_ccvae(schema, ((0.2,) * 5,), class_block=4)
    (group,) = model.groups
    rule = group.rule(torch_stream(1, "shift"))
    q = model.encode(points(1))
    posterior = group.posterior(q)
    log_q_y_x = condition_on_label(posterior, group.weight, group.bias, rule.like(q.loc)).log_q_y_x[0, 0]
    z = q.loc.repeat(len(rule.nodes), 1)
    z[:, list(model.layout["Hair"])] = posterior.at(rule.nodes.unsqueeze(1))[:, 0]
    mean = (group.log_q_y_z(z)[:, 0] - log_q_y_x).exp().mean(0)
    assert mean.tolist() == pytest.approx([1.0] * 5, abs=1e-12)


def sampled(model: CCVAE, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """Eq. 4 by one joint sample, with all gradients and q(y|x) on a separate grid. Binary labels, all observed."""
    q = model.encode(x)
    z = q.sample(generator)
    (group,) = model.groups
    count = len(group.indices)
    weight, bias = group.weight[:, 0, 0], group.bias[:, 0]
    sign = 2 * y - 1
    line = torch.linspace(-9, 9, 301, dtype=torch.float64)
    density = torch.exp(-0.5 * line.square())
    density = density / density.sum()
    logits = weight.unsqueeze(1) * (q.loc[:, :count, None] + q.scale[:, :count, None] * line) + bias.unsqueeze(1)
    log_q_y_x = (torch.sigmoid(sign.unsqueeze(2) * logits) @ density).log().sum(1)
    log_q_y_z = torch.nn.functional.logsigmoid(sign * (weight * z[:, :count] + bias)).sum(1)
    own = y.long()
    rows = torch.arange(count)
    scale = torch.nn.functional.softplus(group.raw_scale[rows, own, 0])
    log_p_z_y = torch.distributions.Normal(group.loc[rows, own, 0], scale).log_prob(z[:, :count]).sum(1)
    log_p_z_y = log_p_z_y + torch.distributions.Normal(0.0, 1.0).log_prob(z[:, count:]).sum(1)
    log_q_z_x = torch.distributions.Normal(q.loc, q.scale).log_prob(z).sum(1)
    log_p_y = group.label_prior.log()[rows, own].sum(1)
    inside = model.log_likelihood(x, z) + log_p_z_y - log_q_y_z - log_q_z_x
    return (log_q_y_z - log_q_y_x).exp() * inside + log_q_y_x + log_p_y


@pytest.mark.parametrize("estimator", ["exact", "weighted"])
def test_plain_sampling_of_eq_4_agrees_in_value_and_gradient(estimator: str) -> None:
    model = tiny_ccvae(binary_schema("a", "b"), ((0.7, 0.3), (0.45, 0.55)), estimator=estimator)
    y = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    rounds, rows = 40, 400
    x, y = points(2).repeat(rows, 1), y.repeat(rows, 1)
    parameters = [p for p in model.parameters() if p.requires_grad]
    found: dict[str, list[Tensor]] = {"sampled": [], "exact": []}
    for round_ in range(rounds):
        for name in found:
            generator = torch_stream(round_, name)
            each = sampled(model, x, y, generator) if name == "sampled" else model.exact(x, y, generator).value
            value = each.mean()
            gradients = torch.autograd.grad(value, parameters)
            found[name].append(torch.cat([value.detach().reshape(1), *(g.flatten() for g in gradients)]))
    exact, plain = (torch.stack(found[name]) for name in ("exact", "sampled"))
    assert agree(exact, plain)
    spread = exact[:, 1:].var(0).sum().sqrt() / plain[:, 1:].var(0).sum().sqrt()
    assert spread.item() < 0.5, "quadrature and the baseline reduce the variance"


@pytest.mark.parametrize("options", [{"class_block": 1}, {"class_block": 2}, {"block": 2, "class_block": 1}])
def test_samples_of_q_z_given_x_y_agree_with_weighted_samples(options: Mapping[str, Plain]) -> None:
    """Value and gradient of the reconstruction agree, also for three classes and missing labels, with less variance."""
    rounds, copies = 24, 24 if options["class_block"] == 2 else 80
    x, y = points(len(LABELS)).repeat(copies, 1), LABELS.repeat(copies, 1)
    found: dict[str, list[Tensor]] = {"exact": [], "weighted": []}
    for estimator, values in found.items():
        model = tiny_ccvae(estimator=estimator, **options)
        parameters = [p for p in model.parameters() if p.requires_grad]
        for round_ in range(rounds):
            value = model.exact(x, y, torch_stream(round_, estimator)).reconstruction.mean()
            gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
            values.append(torch.cat([value.detach().reshape(1), *(g.flatten() for g in gradients)]))
    unweighted, weighted = (torch.stack(values) for values in found.values())
    assert agree(unweighted, weighted, 4.5)
    assert unweighted.var(0).sum() < weighted.var(0).sum()


BATCHES = {"labelled": LABELS[[0, 1]], "mixed": LABELS, "unlabelled": LABELS[[2, 2]]}


@pytest.mark.parametrize("estimator", ["exact", "weighted", "reference"])
@pytest.mark.parametrize("rows", ["labelled", "mixed", "unlabelled"])
def test_every_parameter_gets_a_gradient(estimator: str, rows: str) -> None:
    model = tiny_ccvae(estimator=estimator)
    y = BATCHES[rows].repeat(30, 1)
    (objective,) = model.objectives(batch_of(points(len(y)), y), torch_stream(0, "bound"))
    assert moved(objective, model) == {name for name, _ in model.named_parameters()}


def test_the_reference_log_q_y_x_is_biased_low_and_converges_to_the_exact_one() -> None:
    exact = bound_of(tiny_ccvae(class_block=1), points(1), LABELS[:1]).log_q_y_x.item()
    means = {}
    for samples, rows in ((2, 10_000), (400, 200)):
        model = tiny_ccvae(class_block=1, estimator="reference", posterior_samples=samples)
        x, y = points(1).expand(rows, -1), LABELS[:1].expand(rows, -1)
        log_q = model.reference(x, y, torch_stream(0, "reference")).log_q_y_x
        means[samples] = (log_q.mean().item(), (log_q.std() / math.sqrt(rows)).item())
    assert means[2][0] < exact - 4 * means[2][1]
    assert abs(means[400][0] - exact) < 4 * means[400][1] + (exact - means[2][0]) / 100


def test_the_reference_objective_on_unlabelled_images_is_not_the_bound() -> None:
    """Its analytic KL(q(z|x) || p(z|y)) ignores that y was sampled at z; this is its mean instead of U."""
    model, rows = tiny_ccvae(class_block=1), 20_000
    x, y = points(1), LABELS[2:3]
    bound = model.reference(x.expand(rows, -1), y.expand(rows, -1), torch_stream(0, "reference")).characteristics
    row = CCVAEDensities(model, model.encode(x), 0)
    expected = 0.0
    for name in SCHEMA.names:
        at = row.label(name)
        (j,) = at["block"]
        m, s = row.m[j], row.s[j]
        for k, p in enumerate(at["p"]):
            loc, scale = at["loc"][k, 0], at["scale"][k, 0]
            kl = math.log(scale / s) + 0.5 * ((s**2 + (m - loc) ** 2) / scale**2 - 1)
            expected += math.exp(row.log_q_y_x(name, k)) * (math.log(p) - kl)
        expected -= row.expectation(name, lambda z, n=name: (lambda v: (np.exp(v) * v).sum(1))(row.log_q_y_z(n, z)))
    assert abs(bound.mean().item() - expected) < 4 * bound.std().item() / math.sqrt(rows)


def test_vae_bound_equals_scipy() -> None:
    model = VAE.from_settings({"latent": 3, "hidden": 6}, ModelContext(LabelSchema(()), (4,), ())).double()
    x = points(5)
    (objective,) = model.objectives(Batch(x, torch.empty(5, 0), np.arange(5)), torch_stream(0, "vae"))
    q = model.encode(x)
    noise = torch.randn(q.loc.shape, generator=torch_stream(0, "vae"), dtype=torch.float64)
    mean = model.decode(q.at(noise)).detach().numpy()
    reconstruction = stats.laplace.logpdf(x.numpy(), mean, 1).sum(1).mean()
    m, s = q.loc.detach().numpy(), q.scale.detach().numpy()
    kl = (0.5 * (m**2 + s**2 - 1) - np.log(s)).sum(1).mean()
    assert objective.terms["reconstruction"] == pytest.approx(reconstruction, abs=1e-9)
    assert objective.terms["kl"] == pytest.approx(kl, abs=1e-9)
    assert objective.loss.item() == pytest.approx(kl - reconstruction, abs=1e-9)


def test_groups_contain_every_label_once() -> None:
    assert sorted(i for group in tiny_ccvae().groups for i in group.indices) == [0, 1, 2]
    assert all(isinstance(group, Characteristics) for group in tiny_ccvae().groups)
