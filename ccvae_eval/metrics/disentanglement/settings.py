"""Settings of the disentanglement panel and their ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ccvae_eval.core.errors import UsageError

Profile = Literal["robust", "reference"]
Predictor = Literal["forest", "boosting", "gradient_boosting", "linear"]
Importance = Literal["permutation", "gain"]
Pruning = Literal["information", "range"]


@dataclass(frozen=True, slots=True)
class PanelSettings:
    """Settings of the panel; :class:`ccvae_eval.metrics.disentanglement.Disentanglement` documents each field."""

    profile: Profile = "robust"
    score: tuple[str, ...] = ()
    every: bool = False
    point: Literal["mean", "sample"] = "mean"
    against: Literal["labels", "all"] = "labels"
    predictor: Predictor = "forest"
    importance: Importance = "permutation"
    fits: int = 3
    bins: int = 20
    pruning: Pruning = "information"
    shuffles: int = 20
    draws: int = 500
    votes: int = 10_000
    group: int = 64
    quantile: float = 0.99
    leaves: int = 512
    correlated: float = 0.2

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(PanelSettings).items():
            value: Any = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise UsageError(
                    f"{name} must be one of {', '.join(get_args(hint))}, got {value!r}", where="disentanglement"
                )
        minimums = {"fits": 1, "bins": 2, "shuffles": 2, "draws": 50, "votes": 10, "group": 2, "leaves": 2}
        for name, minimum in minimums.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < minimum:
                raise UsageError(
                    f"{name} must be an integer of at least {minimum}, got {value}", where="disentanglement"
                )
        for name in ("quantile", "correlated"):
            value = float(getattr(self, name))
            if not 0 < value <= 1:
                raise UsageError(f"{name} must be above 0 and at most 1, got {value:g}", where="disentanglement")
        if not self.robust and (self.predictor, self.importance) != ("forest", "permutation"):
            raise UsageError(
                "the reference profile always uses gradient boosting with gain importance",
                where="disentanglement",
                hint="--predictor and --importance need --profile robust.",
            )

    @property
    def robust(self) -> bool:
        """True for the robust profile, False for the reference profile."""
        return self.profile == "robust"
