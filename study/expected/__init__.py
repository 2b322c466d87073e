"""The answer key of the calibration study: the known value of each metric along each perturbation.

``ccvae-eval calibrate`` finds this package in a checkout of the repository; it is not part of the installed one.
"""

from __future__ import annotations

import math

from ccvae_eval.calibration.curves import Curve
from ccvae_eval.calibration.study_cells import Case
from ccvae_eval.core.types import Floats
from study.expected.columns import COLUMNS
from study.expected.correspondence import CORRESPONDENCE
from study.expected.edited import EDITED
from study.expected.group_votes import VOTED
from study.expected.known import CODES
from study.expected.laws import PANEL
from study.expected.rebuilt import REBUILT
from study.expected.rendered import RENDERED
from study.expected.stability import stability_curve

COMPUTED_FOR_ANY_LABELS = (EDITED, CORRESPONDENCE, REBUILT, PANEL, VOTED)
COMPUTED_BY_LABEL = (CODES, COLUMNS, RENDERED)


def expected(case: Case) -> Floats | None:
    """The known values of a case, shape (positions,), NaN where unknown; None if the key has no such entry."""
    key = (case.metric.name, case.value, case.cells[0].dial.name)
    for table in COMPUTED_FOR_ANY_LABELS:
        if key in table:
            return table[key](case)
    if not case.names:
        return case.ends(math.nan, math.nan)
    return next((table[key](case) for table in COMPUTED_BY_LABEL if key in table), None)


__all__ = ["Curve", "expected", "stability_curve"]
