"""``wrap``: a model from two functions."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from ccvae_eval import wrap
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Gaussian
from ccvae_eval.model.interface import HasConditionalPrior, LabelledVAE, Predicts, supports


def _decode(codes: torch.Tensor) -> torch.Tensor:
    return codes[..., None, None]


def test_images_are_converted_in_both_directions() -> None:
    seen = []

    def encode(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return images.mean((2, 3))

    model = wrap(encode=encode, decode=_decode, dim=3, image_range=(-1, 1))
    model.encode(torch.zeros(1, 3, 2, 2))
    assert bool((seen[0] == -1).all())
    assert model.decode(torch.tensor([[-1.0, 0.0, 1.0]])).flatten().tolist() == [0, 0.5, 1]


def test_a_wrapped_model_prints_its_latent_dimensions() -> None:
    model = wrap(encode=lambda x: x, decode=_decode, dim=5, characteristics={"A": [0, 1], "B": [4]})
    assert repr(model) == "<wrapped model, z = 5 = 2 style + A + B>"


@pytest.mark.parametrize(
    "out",
    [
        (torch.zeros(2, 3), torch.ones(2, 3)),
        torch.distributions.Normal(torch.zeros(2, 3), torch.ones(2, 3)),
        Gaussian(torch.zeros(2, 3), torch.ones(2, 3)),
    ],
)
def test_every_form_of_posterior_is_accepted(out: object) -> None:
    posterior = wrap(encode=lambda x: out, decode=_decode, dim=3).encode(torch.zeros(2, 3, 1, 1))
    assert bool((posterior.scale == 1).all())
    assert bool((posterior.loc == 0).all())


def test_codes_alone_are_a_point_mass() -> None:
    posterior = wrap(encode=lambda x: x.mean((2, 3)), decode=_decode, dim=3).encode(torch.ones(2, 3, 1, 1))
    assert bool((posterior.scale == 0).all())


def test_another_return_type_is_an_error_that_says_what_to_return() -> None:
    with pytest.raises(UsageError, match="Return \\(mean"):
        wrap(encode=lambda x: "codes", decode=_decode, dim=3).encode(torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize("predict", [None, lambda z: {"Red": torch.zeros(len(z), 2)}])
@pytest.mark.parametrize("prior", [None, lambda y: (y, torch.ones_like(y))])
def test_capabilities_follow_the_given_functions(predict: object, prior: object) -> None:
    model = wrap(
        encode=lambda x: x.mean((2, 3)),
        decode=_decode,
        dim=3,
        characteristics={"Red": [0]},
        predict=predict,  # type: ignore[arg-type]
        prior=prior,  # type: ignore[arg-type]
    )
    assert supports(model, LabelledVAE)
    assert supports(model, Predicts) == (predict is not None)
    assert supports(model, HasConditionalPrior) == (prior is not None)


class Averages(torch.nn.Module):
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


def _certain(codes: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"Red": torch.zeros(len(codes), 2)}


def _standard(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return labels, torch.ones_like(labels)


def test_a_model_of_picklable_functions_is_picklable() -> None:
    model = wrap(
        encode=Averages().encode, decode=_decode, dim=3, characteristics={"Red": [0]}, predict=_certain, prior=_standard
    )
    copied = pickle.loads(pickle.dumps(model))
    images, labels = torch.rand(2, 3, 4, 4), torch.ones(2, 1)
    codes = model.encode(images).loc
    assert torch.equal(copied.encode(images).loc, codes)
    assert torch.equal(copied.predict(images, codes)["Red"], model.predict(images, codes)["Red"])
    assert torch.equal(copied.conditional_prior(labels).loc, labels)
    assert supports(copied, Predicts)


def test_labels_of_every_kind_are_accepted_and_invalid_ones_refused() -> None:
    model = wrap(
        encode=lambda x: x,
        decode=_decode,
        dim=3,
        labels={"Red": "binary", "Age": "continuous", "Hair": ["a", "b", "c"]},
    )
    assert [label.kind for label in model.labels] == ["binary", "continuous", "categorical"]
    with pytest.raises(UsageError, match="unknown"):
        wrap(encode=lambda x: x, decode=_decode, dim=3, labels={"Red": "colour"})
    with pytest.raises(UsageError, match="must be finite and ascending"):
        wrap(encode=lambda x: x, decode=_decode, dim=3, image_range=(1, 1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"characteristics": {"digit": 0}}, r"characteristics\['digit'\] must be a list of latent .*, got 0\n.*\[0\]"),
        ({"characteristics": {"digit": [0.5]}}, r"must be a list of latent dimensions, got \[0.5\]"),
        ({"characteristics": {"a": [0], "digit": [3]}}, r"dimensions of 'digit' must lie in 0 to 2, got 3"),
        ({"characteristics": {"a": [0], "digit": [1, 0]}}, r"dimension 0 belongs to 'a' and to 'digit'"),
        ({"characteristics": {"a": [0], "digit": []}}, r"'digit' must have at least one latent dimension"),
        ({"characteristics": ["digit"]}, r"characteristics must be a dictionary by label, got \['digit'\]"),
        ({"labels": {"digit": 10}}, r"labels\['digit'\] must be a kind or a list of class names, got 10"),
        ({"labels": ["digit"]}, r"labels must be a dictionary by label, got \['digit'\]"),
    ],
)
def test_a_wrong_description_of_labels_is_refused_in_words(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        wrap(encode=lambda x: x, decode=_decode, dim=3, **given)


def test_class_names_may_be_numbers_and_other_characteristics_are_binary() -> None:
    owned = {"digit": [0], "Red": [1]}
    model = wrap(encode=lambda x: x, decode=_decode, dim=3, labels={"digit": range(3)}, characteristics=owned)
    assert [(label.name, label.classes) for label in model.labels] == [("digit", ("0", "1", "2")), ("Red", ())]
