"""The disentanglement panel: published scores of codes against factors, as functions of arrays and as a metric.

:func:`panel` scores arrays, :func:`score` returns one number, :class:`Disentanglement` is the metric of a model, and
:func:`udr` compares models. The formulas (:func:`mig`, :func:`infom`, :func:`disentanglement`, ...) take an information
or importance matrix. Definitions: docs/metrics.md, section 8.

>>> import numpy as np
>>> from ccvae_eval.metrics.disentanglement import PanelSettings, panel
>>> rows = np.arange(1200)
>>> factors = np.stack([rows % 4, rows // 4 % 3], axis=1)
>>> found = panel(factors + 0.0, factors, PanelSettings(score=("mig", "infom")))
>>> [round(v.estimate.value, 3) for v in found.values if v.name in ("mig", "infom") and not v.at][:2]
[1.0, 1.0]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ccvae_eval.metrics.disentanglement.settings import VALUES, Disentanglement, PanelSettings

if TYPE_CHECKING:
    from ccvae_eval.metrics.disentanglement.arrays import Stability, panel, udr
    from ccvae_eval.metrics.disentanglement.dci import completeness, disentanglement
    from ccvae_eval.metrics.disentanglement.information_scores import (
        Information,
        ScoreParts,
        dcimig,
        dmig,
        infoc,
        infom,
        jemmig,
        mig,
        mig_sup,
        modularity,
    )
    from ccvae_eval.metrics.disentanglement.scores import DEFAULT, SCORES, score
    from ccvae_eval.metrics.disentanglement.table import PanelTable, cramers_v, factor_correlations, table_of

__all__ = [
    "DEFAULT", "SCORES", "VALUES", "Disentanglement", "Information", "PanelSettings", "PanelTable", "ScoreParts",
    "Stability", "completeness", "cramers_v", "dcimig", "disentanglement", "dmig", "factor_correlations", "infoc",
    "infom", "jemmig", "mig", "mig_sup", "modularity", "panel", "score", "table_of", "udr",
]  # fmt: skip

_NAMES_IN = {
    "arrays": ("Stability", "panel", "udr"),
    "dci": ("completeness", "disentanglement"),
    "information_scores": (
        "Information", "ScoreParts", "dcimig", "dmig", "infoc", "infom", "jemmig", "mig", "mig_sup", "modularity",
    ),
    "scores": ("DEFAULT", "SCORES", "score"),
    "table": ("PanelTable", "cramers_v", "factor_correlations", "table_of"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    # imports on demand, because the settings are also used where no score is computed
    for module, names in _NAMES_IN.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
