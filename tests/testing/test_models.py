"""Every registered model conforms, and the suite names each defect of a model that does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from ccvae_eval.core.types import Gaussian
from ccvae_eval.model.interface import LabelSchema, LatentLayout, ModelContext
from ccvae_eval.plugins.registry import BUILTIN_DISTRIBUTION, models
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
"""Settings that make each built-in model small. A built-in model that is missing here fails the suite."""

CONTEXT = ModelContext(SCHEMA, (3, 32, 32), ((0.5, 0.5), (0.4, 0.6), (0.2, 0.3, 0.5)))
IMAGES = Squares(40).batch(np.arange(40)).images
LABELS = torch.from_numpy(Squares(40).labels_of(np.arange(40)))


def test_every_built_in_model_is_listed():
    builtin = {r.name for r in models.registrations() if r.distribution == BUILTIN_DISTRIBUTION}
    assert builtin == set(SETTINGS)


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


def test_the_fake_conforms():
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


DEFECTS: Mapping[str, Callable[[], SquaresVAE]] = {
    "must be one of the labels": lambda: replaced(labels=LabelSchema(())),
    "must return a Gaussian": lambda: replaced(encode=lambda x, y=None: (HONEST.encode(x).loc, None)),
    "loc must have shape": lambda: replaced(encode=encoding(lambda m, s: (m[:, 1:], s))),
    "scale must be float32": lambda: replaced(encode=encoding(lambda m, s: (m, s.double()))),
    "loc must be finite": lambda: replaced(encode=encoding(lambda m, s: (m / 0, s))),
    "scale must not be negative": lambda: replaced(encode=encoding(lambda m, s: (m, -s))),
    "encode must be deterministic": lambda: replaced(encode=encoding(lambda m, s: (m + torch.rand_like(m), s))),
    "the other images of the batch": lambda: replaced(encode=encoding(lambda m, s: (m - m[:1], s))),
    "result of decode must have shape": lambda: replaced(decode=lambda z: HONEST.decode(z)[:, :1]),
    r"in \[0, 1\]": lambda: replaced(decode=lambda z: HONEST.decode(z) * 2 - 1),
    "the other codes of the batch": lambda: replaced(decode=lambda z: (HONEST.decode(z) + HONEST.decode(z)[:1]) / 2),
    "predict must return labels of the model": lambda: replaced(predict=lambda x, z: {"Gloves": z[:, :2]}),
    "must sum to 1": lambda: replaced(predict=lambda x, z: {"Smile": z[:, :2]}),
    "prediction of 'Hair' must have shape": lambda: replaced(predict=lambda x, z: {"Hair": z[:, :2].log_softmax(1)}),
    "where the label is missing": lambda: replaced(
        conditional_prior=lambda y: HONEST.conditional_prior(y.nan_to_num(0))
    ),
    "result of conditional_prior must have": lambda: replaced(conditional_prior=lambda y: Gaussian(y[:, :1], y[:, :1])),
}


INTERVENTIONS: Mapping[str, Callable[..., torch.Tensor]] = {
    "result of intervene must have shape": lambda x, z, a, e: z[:, 1:],
    "finite codes": lambda x, z, a, e: z / 0,
    "deterministic given the noise": lambda x, z, a, e: z + torch.rand(z.shape, generator=DRAWS),
    "intervene must not depend on the other images": lambda x, z, a, e: z - z[:1],
}
DRAWS = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("what", INTERVENTIONS)
def test_each_defect_of_an_intervention_is_named(what):
    with pytest.raises(ContractBroken, match=what):
        check_model(replaced(intervene=INTERVENTIONS[what]), IMAGES, LABELS)


@pytest.mark.parametrize("what", DEFECTS)
def test_each_defect_of_a_model_is_named(what):
    with pytest.raises(ContractBroken, match=what):
        check_model(DEFECTS[what](), IMAGES, LABELS)


def test_given_labels_must_be_characteristics():
    model = SquaresVAE()
    model.given = ("Gloves",)
    with pytest.raises(ContractBroken, match="given must contain only characteristics"):
        check_model(model, IMAGES, LABELS)


def test_a_layout_with_too_few_dimensions_is_refused():
    model = SquaresVAE()
    model.layout = LatentLayout(3, {"Smile": (2,)})
    with pytest.raises(ContractBroken, match="must have shape"):
        check_model(model, IMAGES, LABELS)
