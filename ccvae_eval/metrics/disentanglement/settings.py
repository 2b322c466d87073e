"""What the panel may be asked to do otherwise."""

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
    """The fields are documented where they are options: :class:`ccvae_eval.metrics.disentanglement.Disentanglement`."""

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
        hints = get_type_hints(PanelSettings)
        for name, hint in hints.items():
            value: Any = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise UsageError(
                    f"{name} cannot be {value!r}", where="disentanglement", hint=f"One of {', '.join(get_args(hint))}."
                )
        least = {"fits": 1, "bins": 2, "shuffles": 2, "draws": 50, "votes": 10, "group": 2, "leaves": 2}
        for name, low in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < low:
                raise UsageError(f"{name} must be a whole number of at least {low}", where="disentanglement")
        for name, top in (("quantile", 1.0), ("correlated", 1.0)):
            if not 0 < float(getattr(self, name)) <= top:
                raise UsageError(f"{name} lies above 0 and up to {top:g}", where="disentanglement")

        if not self.robust and (self.predictor, self.importance) != ("forest", "permutation"):
            raise UsageError(
                "the reference profile has the published predictor: gradient boosting, by gain",
                where="disentanglement",
                hint="--profile robust takes --predictor and --importance.",
            )

    @property
    def robust(self) -> bool:
        return self.profile == "robust"
