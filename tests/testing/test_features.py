"""Our extractor keeps the contract of features, and each promise can be broken."""

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


def test_ours_keeps_it() -> None:
    check_features(HogFeatures())


BROKEN: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "no tensor": (lambda x: pixels(x).numpy(), "a tensor, not ndarray"),
    "maps": (lambda x: x, r"shape \(N, F\), not"),
    "a vector for all": (lambda x: pixels(x).mean(0, keepdim=True), r"shape \(N, F\), not"),
    "whole numbers": (lambda x: (pixels(x) * 255).long(), "floating-point"),
    "infinite": (lambda x: pixels(x) / 0, "finite"),
    "draws of its own": (lambda x: pixels(x) + torch.rand(1, generator=OWN), "the same numbers"),
    "global draws": (lambda x: (torch.rand(1), pixels(x))[1], "global random generator"),
    "in place": (lambda x: pixels(x.clamp_(0.2, 1)), "left as they are"),
    "batch": (lambda x: pixels(x) - pixels(x)[:1], "others of its batch"),
    "constant": (lambda x: torch.ones(len(x), 3), "different images"),
}
OWN = torch.Generator()


@pytest.mark.parametrize("case", BROKEN)
def test_what_breaks_it_is_named(case: str) -> None:
    call, message = BROKEN[case]
    with pytest.raises(ContractBroken, match=message):
        check_features(Extractor(call))


def test_what_has_no_features_is_told_so() -> None:
    with pytest.raises(ContractBroken, match="has a method features"):
        check_features(object())  # type: ignore[arg-type]
