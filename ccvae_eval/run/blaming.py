"""Errors of strangers' models and metrics: who it was, where it is written, in which call, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any

from ccvae_eval import registry
from ccvae_eval.blame import name_and_home
from ccvae_eval.data.contract import DataSet
from ccvae_eval.errors import CcvaeEvalError, LabelMismatchError, PluginError
from ccvae_eval.metrics.contract import Metric
from ccvae_eval.model import LabelSchema, LatentLayout, TakesShape

METRIC_HINT = "`ccvae-eval new metric NAME` writes one to start from; `ccvae-eval check NAME` tries it."
METRIC_MEMBERS = ("name", "version", "values", "headline", "laws", "default_sample", "needs", "start")
MODEL_MEMBERS = {"layout": LatentLayout, "labels": LabelSchema, "encode": Callable, "decode": Callable}


def require_model(network: Any, who: str) -> None:
    """Refuses what is no model, and says what it lacks.

    Raises:
        PluginError: a member of ``LabelledVAE`` is missing, or layout and labels are of other types.
    """
    members: Mapping[str, Any] = MODEL_MEMBERS
    lacking = [name for name, kind in members.items() if not isinstance(getattr(network, name, None), kind)]
    if lacking:
        raise PluginError(
            f"model {who!r} cannot be evaluated",
            where=name_and_home(network)[1],
            why=f"{type(network).__name__} has no {', '.join(lacking)}",
            hint="A model has layout (LatentLayout), labels (LabelSchema), encode(images) -> Gaussian and "
            "decode(codes) -> images in [0, 1]. `ccvae-eval new model NAME` writes one to start from.",
        )


def require_shape(network: object, images: DataSet) -> None:
    """Refuses data of another shape than the model says it takes, before anything is run.

    Raises:
        LabelMismatchError: naming both shapes.
    """
    if isinstance(network, TakesShape) and tuple(network.input_shape) != tuple(images.input_shape):
        raise LabelMismatchError(
            f"{type(network).__name__} takes inputs of shape {tuple(network.input_shape)}, the data's are "
            f"{tuple(images.input_shape)}",
            where=images.spec,
            hint="Several data sets take another size: --data NAME:PATH,size=64.",
        )


def metric_class(name: str) -> Any:
    """The registered class of a metric.

    Raises:
        UsageError: it is unknown.
        PluginError: it cannot be imported, or is no dataclass.
    """
    entry = registry.metrics.find(name)
    kind: Any = entry.load()
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise PluginError(
            f"{name!r} is no metric", where=_where(entry), why="it is no dataclass of settings", hint=METRIC_HINT
        )
    return kind


def made_metric(name: str, settings: Mapping[str, Any]) -> Metric:
    """A registered metric with these settings.

    Raises:
        PluginError: it cannot be made, or lacks what a metric has.
    """
    kind, where = metric_class(name), _where(registry.metrics.find(name))
    try:
        metric: Any = kind(**settings)
    except CcvaeEvalError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise PluginError(f"metric {name!r} cannot be made", where=where, why=why, hint=METRIC_HINT) from error
    if not isinstance(metric, Metric):
        lacking = [member for member in METRIC_MEMBERS if not hasattr(metric, member)]
        raise PluginError(f"{name!r} is no metric", where=where, why=f"no {', '.join(lacking)}", hint=METRIC_HINT)
    return metric


def _where(entry: registry.Registration) -> str:
    return f"{entry.distribution} {entry.version}".strip()
