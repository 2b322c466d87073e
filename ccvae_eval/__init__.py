"""Disentanglement evaluation for VAEs that learn from labels.

>>> import ccvae_eval
>>> [name for name in ccvae_eval.__all__ if name.islower()]
['binary_schema', 'calibrate', 'evaluate', 'load', 'read', 'wrap']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ccvae_eval.calibration.calibrating import calibrate
    from ccvae_eval.evaluation import evaluate, load
    from ccvae_eval.model import Label, LabelSchema, LatentLayout, binary_schema
    from ccvae_eval.run import Run, read
    from ccvae_eval.types import Gaussian
    from ccvae_eval.wrapping import wrap

__version__ = "0.1.0"
__all__ = [
    "Gaussian",
    "Label",
    "LabelSchema",
    "LatentLayout",
    "Run",
    "binary_schema",
    "calibrate",
    "evaluate",
    "load",
    "read",
    "wrap",
]

_HOMES = {
    "calibrate": "ccvae_eval.calibration.calibrating",
    "evaluate": "ccvae_eval.evaluation",
    "load": "ccvae_eval.evaluation",
    "Run": "ccvae_eval.run",
    "read": "ccvae_eval.run",
    "wrap": "ccvae_eval.wrapping",
    "Gaussian": "ccvae_eval.types",
    "Label": "ccvae_eval.model",
    "LabelSchema": "ccvae_eval.model",
    "LatentLayout": "ccvae_eval.model",
    "binary_schema": "ccvae_eval.model",
}


def __getattr__(name: str) -> Any:
    # torch takes a second to import: `import ccvae_eval` and `ccvae-eval --help` do without
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
