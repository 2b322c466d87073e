"""Disentanglement evaluation for VAEs that learn from labels.

>>> import ccvae_eval
>>> ", ".join(name for name in ccvae_eval.__all__ if name.islower())
'binary_schema, calibrate, compare, evaluate, flat, load, read, score, score_arrays, wrap'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ccvae_eval import _moved
from ccvae_eval.core import VERSION, names_on_demand

if TYPE_CHECKING:
    from ccvae_eval.api import evaluate, load
    from ccvae_eval.calibration.study import calibrate
    from ccvae_eval.comparison.compare import compare
    from ccvae_eval.core.types import Gaussian
    from ccvae_eval.evaluation.run import Run
    from ccvae_eval.evaluation.storage import read
    from ccvae_eval.metrics.disentanglement.arrays import score_arrays
    from ccvae_eval.metrics.disentanglement.scores import score
    from ccvae_eval.model.interface import Label, LabelSchema, LatentLayout, binary_schema
    from ccvae_eval.model.wrap import wrap
    from ccvae_eval.report.paper import flat

_moved.install()

__version__ = VERSION
__all__ = [
    "Gaussian",
    "Label",
    "LabelSchema",
    "LatentLayout",
    "Run",
    "binary_schema",
    "calibrate",
    "compare",
    "evaluate",
    "flat",
    "load",
    "read",
    "score",
    "score_arrays",
    "wrap",
]

_NAMES_IN = {
    "api": ("evaluate", "load"),
    "calibration.study": ("calibrate",),
    "comparison.compare": ("compare",),
    "core.types": ("Gaussian",),
    "evaluation.run": ("Run",),
    "evaluation.storage": ("read",),
    "metrics.disentanglement.arrays": ("score_arrays",),
    "metrics.disentanglement.scores": ("score",),
    "model.interface": ("Label", "LabelSchema", "LatentLayout", "binary_schema"),
    "model.wrap": ("wrap",),
    "report.paper": ("flat",),
}


if not TYPE_CHECKING:
    __getattr__ = names_on_demand(__name__, _NAMES_IN)


def __dir__() -> list[str]:
    return ["__version__", *__all__]
