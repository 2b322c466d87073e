"""The built-in feature extractor conforms, and the suite names each defect of one that does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ccvae_eval.metrics.shared.features import HogFeatures
from ccvae_eval.testing import ContractBroken, check_features


class Extractor:
    def __init__(self, call: Callable[[Tensor], object]) -> None:
        self.call = call

    def features(self, images: Tensor) -> Tensor:
        return self.call(images)  # type: ignore[return-value]


def pixels(images: Tensor) -> Tensor:
    return images.flatten(1)


def test_the_built_in_extractor_conforms() -> None:
    check_features(HogFeatures())


DEFECTS: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "an array": (lambda x: pixels(x).numpy(), "must return a tensor, got ndarray"),
    "maps": (lambda x: x, r"must have shape \(32, F\), got"),
    "a vector for all": (lambda x: pixels(x).mean(0, keepdim=True), r"must have shape \(32, F\), got"),
    "whole numbers": (lambda x: (pixels(x) * 255).long(), "floating-point"),
    "infinite": (lambda x: pixels(x) / 0, "must be finite"),
    "own random numbers": (lambda x: pixels(x) + torch.rand(1, generator=OWN), "must be the same for the same images"),
    "global random numbers": (lambda x: (torch.rand(1), pixels(x))[1], "global random generator"),
    "in place": (lambda x: pixels(x.clamp_(0.2, 1)), "must not be modified"),
    "batch statistics": (lambda x: pixels(x) - pixels(x)[:1], "other images of its batch"),
    "constant": (lambda x: torch.ones(len(x), 3), "different images must"),
}
OWN = torch.Generator()


@pytest.mark.parametrize("case", DEFECTS)
def test_each_defect_is_named(case: str) -> None:
    call, message = DEFECTS[case]
    with pytest.raises(ContractBroken, match=message):
        check_features(Extractor(call))


def test_an_object_without_features_is_refused() -> None:
    with pytest.raises(ContractBroken, match="must have a method features"):
        check_features(object())  # type: ignore[arg-type]
