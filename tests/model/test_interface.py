"""Capabilities of models and data sets, and proxies that keep those of the object inside."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ccvae_eval.calibration.code_faults import LinearlyMixed, Shifted
from ccvae_eval.core.types import Gaussian
from ccvae_eval.data.interface import DataSet, HasCounterfactuals, HasRegions, Renders
from ccvae_eval.data.sets.faces.dataset import Faces
from ccvae_eval.model.checks import networks_of
from ccvae_eval.model.interface import (
    GivenLabels,
    HasBound,
    HasConditionalPrior,
    Intervenes,
    LabelledVAE,
    NeedsAllLabels,
    Predicts,
    Proxy,
    Rebuildable,
    StatesLikelihood,
    TakesShape,
    Trainable,
    supports,
    type_name,
    unwrapped,
)
from ccvae_eval.model.pixel_range import PixelRange
from ccvae_eval.model.wrap import PixelRangeModel
from ccvae_eval.testing.metric_fixtures import PermutedLabels, Rescaled
from tests.support.fakes import SquaresVAE

CAPABILITIES = (
    LabelledVAE, Predicts, HasConditionalPrior, Intervenes, GivenLabels, StatesLikelihood, HasBound, TakesShape,
    NeedsAllLabels,
)  # fmt: skip


class Plain(nn.Module):
    """A model without any optional capability."""

    def __init__(self) -> None:
        super().__init__()
        own = SquaresVAE()
        self.layout, self.labels, self._own = own.layout, own.labels, own
        self.net = nn.Linear(2, 2)

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Gaussian:
        return self._own.encode(images, labels)

    def decode(self, codes: Tensor) -> Tensor:
        return self._own.decode(codes)


class Full(Plain):
    """A model with every capability; its methods return their arguments."""

    input_shape, given, needs_all_labels, likelihood_name = (3, 32, 32), ("bright",), True, "laplace"
    settings = context = None

    def predict(self, images: Tensor, codes: Tensor) -> dict[str, Tensor]:
        return {"images": images, "codes": codes}

    def conditional_prior(self, labels: Tensor) -> Gaussian:
        return Gaussian(labels, torch.ones_like(labels))

    def intervene(self, images: Tensor, codes: Tensor, assignment: Any, noise: Tensor) -> Tensor:
        return codes + noise

    def log_likelihood(self, images: Tensor, codes: Tensor) -> Tensor:
        return images.flatten(1).sum(1) + codes.sum(1)

    def bound(self, images: Tensor, labels: Tensor, generator: Any) -> Tensor:
        return images.flatten(1).sum(1)

    def objectives(self, batch: Any, generator: Any) -> Any:
        return iter(())

    @classmethod
    def from_settings(cls, settings: Any, context: Any, seed: int = 0) -> Full:
        return cls()


def proxies(model: Any) -> list[Any]:
    identity = torch.eye(model.layout.dim, dtype=torch.float64)
    mixed = LinearlyMixed(model, identity, identity)
    return [
        Proxy(model), PixelRangeModel(model, PixelRange(-1, 1)), Shifted(model, 1.0), mixed, Rescaled(model),
        Proxy(mixed),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [Plain, Full])
def test_a_proxy_has_exactly_the_capabilities_of_the_model_inside(kind: Any) -> None:
    model = kind()
    own = [supports(model, capability) for capability in CAPABILITIES]
    assert own == [capability is LabelledVAE or kind is Full for capability in CAPABILITIES]
    for proxy in proxies(model):
        assert [supports(proxy, capability) for capability in CAPABILITIES] == own, type(proxy)
        assert unwrapped(proxy) is model
        assert type_name(proxy) == kind.__name__
        assert networks_of(proxy) in ([model], [proxy])


def test_a_proxy_is_neither_trained_nor_rebuilt() -> None:
    model = Full()
    for capability in (Trainable, Rebuildable):
        assert supports(model, capability)
        assert not any(supports(proxy, capability) for proxy in proxies(model))


def test_every_method_of_a_recoded_model_translates_codes() -> None:
    model: Any = Full()
    images, codes = torch.rand(2, 3, 32, 32), torch.randn(2, model.layout.dim)
    recoded: Any = Rescaled(model)
    assert torch.equal(recoded.predict(images, 4 * codes)["codes"], codes)
    assert torch.equal(recoded.log_likelihood(images, 4 * codes), model.log_likelihood(images, codes))
    assert torch.equal(recoded.intervene(images, 4 * codes, {}, codes), 8 * codes)


def test_every_method_of_another_pixel_range_converts_images() -> None:
    model: Any = Full()
    images, codes, ranged = torch.zeros(2, 3, 32, 32), torch.randn(2, model.layout.dim), PixelRange(-1, 1)
    converted: Any = PixelRangeModel(model, ranged)
    assert bool((converted.predict(images, codes)["images"] == -1).all())
    assert torch.equal(converted.log_likelihood(images, codes), model.log_likelihood(images - 1, codes))
    assert torch.equal(converted.bound(images, codes, None), model.bound(images - 1, codes, None))
    assert torch.equal(converted.intervene(images, codes, {}, codes), 2 * codes)


def test_proxies_can_be_copied_and_pickled() -> None:
    for proxy in proxies(Full()):
        for copied in (copy.deepcopy(proxy), pickle.loads(pickle.dumps(proxy))):
            assert type_name(copied) == "Full"
            assert torch.equal(copied.net.weight, proxy.net.weight)


def test_an_unknown_member_of_a_proxy_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_member"):
        Proxy(Plain()).no_such_member  # noqa: B018


def test_a_proxy_of_a_data_set_may_lose_capabilities() -> None:
    data = Faces(size=32, n=20)
    permuted = PermutedLabels(data)
    assert supports(data, Renders)
    assert supports(permuted, DataSet)
    assert supports(permuted, HasRegions)
    assert not supports(permuted, HasCounterfactuals)
    ids = np.arange(5)
    assert np.array_equal(permuted.region(ids, "Eyeglasses"), data.region(ids, "Eyeglasses"))
