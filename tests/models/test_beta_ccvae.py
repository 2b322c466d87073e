"""beta-CCVAE's terms, compared with SciPy in float64, and MCCVAE as CCVAE with blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ccvae_models.beta_ccvae import BetaCCVAE
from ccvae_models.ccvae import CCVAE
from ccvae_models.mccvae import MCCVAE
from scipy import special, stats

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.model.interface import ModelContext
from tests.support.small_models import EVERY, PRIOR, SCHEMA, batch_of, moved, points, small, stepped

pytestmark = pytest.mark.oracle


def test_every_term_equals_scipy() -> None:
    model, x = small(BetaCCVAE, style=2, block=2, beta=0.3), points(len(EVERY))
    (objective,) = stepped(model, batch_of(x, EVERY))
    q = model.encode(x)
    m, s = q.loc.numpy(force=True), q.scale.numpy(force=True)
    z = m + s * torch.randn(m.shape, generator=torch_stream(0, "objectives"), dtype=torch.float64).numpy()
    mean = model.decode(torch.from_numpy(z)).numpy(force=True)
    loss = -stats.laplace.logpdf(x.numpy(), mean, 1).sum(1)
    style = list(model.layout.style)
    loss += 0.3 * (0.5 * (m[:, style] ** 2 + s[:, style] ** 2 - 1) - np.log(s[:, style])).sum(1)
    terms = {"kl_labelled": np.zeros(5), "log_q_y_z": np.zeros(5), "kl_mixture": np.zeros(5), "entropy": np.zeros(5)}
    for i, label in enumerate(SCHEMA):
        group = next(g for g in model.groups if i in g.indices)
        place, c = group.indices.index(i), list(model.layout[label.name])
        loc, scale = group.loc[place].numpy(force=True), np.logaddexp(0, group.raw_scale[place].numpy(force=True))
        logits = z[:, c] @ group.weight[place].numpy(force=True).T + group.bias[place].numpy(force=True)
        if logits.shape[1] == 1:
            logits = np.concatenate([np.zeros_like(logits), logits], 1)
        log_q = special.log_softmax(logits, 1)
        for row, v in enumerate(EVERY[:, i].tolist()):
            if not math.isnan(v):
                k = int(v)
                ratio, offset = s[row, c] / scale[k], (m[row, c] - loc[k]) / scale[k]
                terms["kl_labelled"][row] += (0.5 * (ratio**2 + offset**2 - 1) - np.log(ratio)).sum()
                terms["log_q_y_z"][row] += log_q[row, k]
            else:
                own = stats.norm.logpdf(z[row, c], m[row, c], s[row, c]).sum()
                log_p = stats.norm.logpdf(z[row, c], loc, scale).sum(1)
                terms["kl_mixture"][row] += own - special.logsumexp(log_p) + math.log(label.cardinality)
                terms["entropy"][row] -= (np.exp(log_q[row]) * log_q[row]).sum()
    loss += 0.3 * (terms["kl_labelled"] + terms["kl_mixture"]) - terms["log_q_y_z"] + terms["entropy"]
    assert objective.loss.item() == pytest.approx(loss.mean(), abs=1e-8)
    labelled = [0, 1, 2, 4]
    assert objective.terms["supervised.kl_labelled"] == pytest.approx(terms["kl_labelled"][labelled].mean(), abs=1e-8)
    assert objective.terms["unsupervised.kl_mixture"] == pytest.approx(terms["kl_mixture"][3], abs=1e-8)
    assert objective.terms["unsupervised.entropy"] == pytest.approx(terms["entropy"][3], abs=1e-8)


def test_every_parameter_gets_a_gradient() -> None:
    model = small(BetaCCVAE, style=2)
    names = {name for name, _ in model.named_parameters()}
    for rows in ([0, 1], [3, 3]):
        y = EVERY[rows].repeat(20, 1)
        (objective,) = stepped(model, batch_of(points(len(y)), y))
        assert moved(objective, model) == names


def test_mccvae_is_ccvae_with_blocks() -> None:
    model, plain = small(MCCVAE, style=2, block=3), small(CCVAE, style=2, block=3)
    assert dict(model.layout.characteristics) == {"Glasses": (0, 1, 2), "Hair": (3, 4), "Smile": (5, 6, 7)}
    plain.load_state_dict(model.state_dict())
    batch = batch_of(points(len(EVERY)), EVERY)
    (found,), (expected,) = stepped(model, batch), stepped(plain, batch)
    assert found.loss.item() == expected.loss.item()
    assert small(MCCVAE).layout["Glasses"] == (0, 1)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (MCCVAE, {"block": 1}, "ccvae"),
        (MCCVAE, {"style": -1}, "style"),
        (BetaCCVAE, {"beta": -1}, "beta"),
        (BetaCCVAE, {"points": 17}, "points"),
    ],
)
def test_invalid_settings_are_refused(kind: type, options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind.from_settings(options, ModelContext(SCHEMA, (4,), PRIOR))  # type: ignore[attr-defined]
