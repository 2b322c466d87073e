"""Every registered model keeps the contract, and a model that does not is told what it broke."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from ccvae_eval.core.types import Gaussian
from ccvae_eval.model.interface import LabelSchema, LatentLayout, ModelContext
from ccvae_eval.plugins.registry import HOME, models
from ccvae_eval.testing import ContractBroken, check_model
from tests.support.fakes import SCHEMA, Squares, SquaresVAE

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "adapted-diva": {"style": 3},
    "beta-ccvae": {"style": 3},
    "ccvae": {"style": 3, "points": 17},
    "condvae": {"style": 3},
    "condvae-info": {"style": 3, "injection": "add"},
    "csvae": {"style": 3},
    "diva": {"domain": "Hair", "style": 3, "block": 2},
    "m2": {"style": 3},
    "mccvae": {"style": 3, "points": 17},
    "mvae": {"latent": 6},
    "vae": {},
}
"""Every model of ours, with what makes it small. A model that is registered and not here fails the suite."""

CONTEXT = ModelContext(SCHEMA, (3, 32, 32), ((0.5, 0.5), (0.4, 0.6), (0.2, 0.3, 0.5)))
IMAGES = Squares(40).batch(np.arange(40)).images
LABELS = torch.from_numpy(Squares(40).labels_of(np.arange(40)))


def test_every_model_is_listed():
    ours = {r.name for r in models.registrations() if r.distribution == HOME}
    assert ours == set(SETTINGS)


@pytest.mark.parametrize("name", list(models))
def test_model(name):
    model = models[name].from_settings(SETTINGS.get(name, {}), CONTEXT)
    rows = [CONTEXT.labels.index(label) for label in model.labels.names]
    check_model(model, IMAGES, LABELS[:, rows])


@pytest.mark.parametrize("name", list(models))
def test_a_model_of_points(name):
    context = ModelContext(SCHEMA.select(["Glasses", "Hair"]), (3,), ((0.5, 0.5), (0.25, 0.25, 0.5)))
    model = models[name].from_settings(SETTINGS.get(name, {}), context)
    check_model(model, torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), LABELS[:, [0, 2]])


def test_the_fake_keeps_it_too():
    check_model(SquaresVAE(), IMAGES, LABELS)


def replaced(**methods: Callable[..., Any]) -> SquaresVAE:
    model = SquaresVAE()
    for name, method in methods.items():
        setattr(model, name, method)
    return model


HONEST = SquaresVAE()


def encoding(change: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]) -> Any:
    def encode(images: torch.Tensor, labels: Any = None) -> Gaussian:
        q = HONEST.encode(images, labels)
        return Gaussian(*change(q.loc, q.scale))

    return encode


FAULTS: Mapping[str, Callable[[], SquaresVAE]] = {
    "is one of the labels": lambda: replaced(labels=LabelSchema(())),
    "returns a Gaussian": lambda: replaced(encode=lambda x, y=None: (HONEST.encode(x).loc, None)),
    "loc has shape": lambda: replaced(encode=encoding(lambda m, s: (m[:, 1:], s))),
    "scale is float32": lambda: replaced(encode=encoding(lambda m, s: (m, s.double()))),
    "loc is finite": lambda: replaced(encode=encoding(lambda m, s: (m / 0, s))),
    "scale is not negative": lambda: replaced(encode=encoding(lambda m, s: (m, -s))),
    "it draws": lambda: replaced(encode=encoding(lambda m, s: (m + torch.rand_like(m), s))),
    "each image alone": lambda: replaced(encode=encoding(lambda m, s: (m - m[:1], s))),
    "decode gives": lambda: replaced(decode=lambda z: HONEST.decode(z)[:, :1]),
    r"in \[0, 1\]": lambda: replaced(decode=lambda z: HONEST.decode(z) * 2 - 1),
    "each code alone": lambda: replaced(decode=lambda z: (HONEST.decode(z) + HONEST.decode(z)[:1]) / 2),
    "predict names labels": lambda: replaced(predict=lambda x, z: {"Gloves": z[:, :2]}),
    "add up to 1": lambda: replaced(predict=lambda x, z: {"Smile": z[:, :2]}),
    "predict gives": lambda: replaced(predict=lambda x, z: {"Hair": z[:, :2].log_softmax(1)}),
    "where the label is missing": lambda: replaced(
        conditional_prior=lambda y: HONEST.conditional_prior(y.nan_to_num(0))
    ),
    "conditional_prior gives": lambda: replaced(conditional_prior=lambda y: Gaussian(y[:, :1], y[:, :1])),
}


INTERVENTIONS: Mapping[str, Callable[..., torch.Tensor]] = {
    "intervene gives": lambda x, z, a, e: z[:, 1:],
    "finite codes": lambda x, z, a, e: z / 0,
    r"same noise \(it draws\)": lambda x, z, a, e: z + torch.rand(z.shape, generator=DRAWS),
    "intervene treats each image alone": lambda x, z, a, e: z - z[:1],
}
DRAWS = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("what", INTERVENTIONS)
def test_a_broken_intervention_is_told_what_it_broke(what):
    with pytest.raises(ContractBroken, match=what):
        check_model(replaced(intervene=INTERVENTIONS[what]), IMAGES, LABELS)


@pytest.mark.parametrize("what", FAULTS)
def test_a_broken_model_is_told_what_it_broke(what):
    with pytest.raises(ContractBroken, match=what):
        check_model(FAULTS[what](), IMAGES, LABELS)


def test_labels_given_must_be_characteristics():
    model = SquaresVAE()
    model.given = ("Gloves",)
    with pytest.raises(ContractBroken, match="given names characteristics"):
        check_model(model, IMAGES, LABELS)


def test_a_layout_of_too_few_columns_is_broken():
    model = SquaresVAE()
    model.layout = LatentLayout(3, {"Smile": (2,)})
    with pytest.raises(ContractBroken, match="has shape"):
        check_model(model, IMAGES, LABELS)
