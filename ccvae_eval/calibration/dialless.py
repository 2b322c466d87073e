"""Why some values have no dial: every value is either calibrated or named here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ccvae_eval.measure import ValueSpec

DESCRIPTIVE = "descriptive: it has no better"
CONTINUOUS = "of continuous labels: the oracle has none"
NO_DIAL = "it declares none"

REASONS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("accuracy", "majority"): "a yardstick: it knows the labels alone",
        ("accuracy", "r2"): CONTINUOUS,
        ("accuracy", "absolute_error"): CONTINUOUS,
        ("density", "components"): "the matrix behind components_d and components_c, which are judged",
        ("disentanglement", "dci_size"): "it counts columns: no dial makes more of them",
        ("disentanglement", "information"): "the matrix behind the scores, which are judged",
        ("disentanglement", "factor_correlation"): "a property of the labels, not of the codes",
        ("drift", "displacement"): "of what is found again alone: the worse it gets, the less is found (see lost)",
        ("drift", "correct_matches"): "the matcher grid has none: its matches are correct by construction",
        ("reconstruction", "bound"): "the model's own: the oracle has none",
        ("reconstruction", "gap"): "of what a training saw: the oracle had none",
    }
)
"""By (metric, value); all others without a dial have no direction."""


def why_without(metric: str, value: str, spec: ValueSpec) -> str:
    """Why a value declares no dial.

    >>> why_without("mine", "size", ValueSpec("how large")), why_without("mine", "good", ValueSpec("x", "", True))
    ('descriptive: it has no better', 'it declares none')
    """
    usual = DESCRIPTIVE if spec.higher_is_better is None else NO_DIAL
    return REASONS.get((metric, value), usual)
