"""Settings of the disentanglement panel and their ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.typed import Range, check

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
    fits: Annotated[int, Range(least=1)] = 3
    bins: Annotated[int, Range(least=2)] = 20
    pruning: Pruning = "information"
    shuffles: Annotated[int, Range(least=2)] = 20
    draws: Annotated[int, Range(least=50)] = 500
    votes: Annotated[int, Range(least=10)] = 10_000
    group: Annotated[int, Range(least=2)] = 64
    quantile: Annotated[float, Range(above=0, most=1)] = 0.99
    leaves: Annotated[int, Range(least=2)] = 512
    correlated: Annotated[float, Range(above=0, most=1)] = 0.2

    def __post_init__(self) -> None:
        check(self, "disentanglement")
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
