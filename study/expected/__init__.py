"""The answer key of the calibration study: the expected value of each metric along each perturbation.

``ccvae-eval calibrate`` finds this package in a checkout of the repository; it is not part of the distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ccvae_eval.calibration.perturbations import Perturbation, PerturbationContext
from ccvae_eval.calibration.study import OBEYED_RANK, STABILITY
from ccvae_eval.calibration.study_cells import Case
from ccvae_eval.calibration.verdict import Curve
from ccvae_eval.core.types import Floats
from study.expected.columns import COLUMNS
from study.expected.correspondence import CORRESPONDENCE
from study.expected.edited import EDITED
from study.expected.group_votes import VOTED
from study.expected.known import CODES, TOGETHER
from study.expected.laws import PANEL
from study.expected.positions import rank_curve
from study.expected.rebuilt import REBUILT
from study.expected.rendered import RENDERED
from study.expected.stability import stability_curve

WITHOUT_CHARACTERISTICS = (EDITED, CORRESPONDENCE, REBUILT, PANEL, VOTED, TOGETHER)
"""Tables whose values may be defined for no single characteristic."""
BY_CHARACTERISTIC = (CODES, COLUMNS, RENDERED)
"""Tables of means over the characteristics of the case."""


def expected(case: Case) -> Floats | None:
    """Expected values of a case, shape (positions,), NaN where unknown; None without an entry for the case."""
    key = (case.metric.name, case.value, case.cells[0].perturbation.name)
    for table in WITHOUT_CHARACTERISTICS:
        if key in table:
            return table[key](case)
    if not case.names:
        return case.ends(math.nan, math.nan)
    return next((table[key](case) for table in BY_CHARACTERISTIC if key in table), None)


def curve_without_oracle(
    value: tuple[str, str], context: PerturbationContext, perturbation: Perturbation, positions: Sequence[float],
    higher_is_better: bool | None,
) -> Curve:  # fmt: skip
    """The curve of a value that the oracle lacks, on other models."""
    curve = {STABILITY: stability_curve, OBEYED_RANK: rank_curve}[value]
    return curve(context, perturbation, positions, higher_is_better)


__all__ = ["Curve", "curve_without_oracle", "expected"]
