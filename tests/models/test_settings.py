"""Model settings from plain data."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest
from ccvae_models.settings import read_settings

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Plain


@dataclasses.dataclass(frozen=True)
class AllKinds:
    count: int = 1
    share: float = 0.5
    adversary: bool = True
    name: str = "x"
    estimator: Literal["exact", "reference"] = "exact"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", 3, 3),
        ("count", "3", 3),
        ("count", 3.0, 3),
        ("share", "1e-3", 1e-3),
        ("share", 2, 2.0),
        ("adversary", "off", False),
        ("adversary", True, True),
        ("name", "y", "y"),
        ("estimator", "reference", "reference"),
    ],
)
def test_values_are_converted_to_the_type_of_their_field(name: str, value: Plain, expected: Plain) -> None:
    found = getattr(read_settings(AllKinds, {name: value}, "model"), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", 2.5),
        ("count", "many"),
        ("count", True),
        ("count", None),
        ("share", [1]),
        ("adversary", "perhaps"),
        ("estimator", "exactly"),
    ],
)
def test_invalid_values_are_refused_by_name(name: str, value: Plain) -> None:
    with pytest.raises(UsageError, match=name):
        read_settings(AllKinds, {name: value}, "model")


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="Did you mean 'estimator'"):
        read_settings(AllKinds, {"estimater": "exact"}, "model")
