"""The figures of the panel."""

from __future__ import annotations

import numpy as np

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import Figures, heat_map, score_text

LEAST_INFORMATION = 0.005
"""Latent dimensions with less information about every factor are not shown: they would be rows of 0.00."""
MOST_CODES = 30
"""Latent dimensions shown: those with the most information."""


def figures(measurement: Measurement) -> Figures:
    """Mutual information of codes and factors, and the association between factors, as heat maps."""
    pictures = measurement.pictures
    codes, factors = ([str(name) for name in pictures[key]] for key in ("codes", "factors"))
    information = np.atleast_2d(np.asarray(pictures["information"], dtype=np.float64))
    most = np.nan_to_num(information).max(axis=1)
    kept = np.sort([j for j in np.argsort(-most, kind="stable")[:MOST_CODES] if most[j] >= LEAST_INFORMATION])
    kept = kept if len(kept) else np.arange(min(len(codes), MOST_CODES))
    mig = score_text(measurement, "mig", None)
    title = "Mutual information of latent dimensions and factors" + (f": {mig.replace('mig', 'MIG')}" if mig else "")
    if hidden := len(codes) - len(kept):
        title += f". Not shown: {hidden} latent dimensions with less information"
    yield ("information",), heat_map(
        information[kept.astype(int)], [codes[j] for j in kept.astype(int)], factors, title,
        "latent dimension", "factor", "share of the factor's entropy",
    )  # fmt: skip
    if len(factors) > 1:
        correlation = np.asarray(pictures["correlation"], dtype=np.float64)
        strongest = np.unravel_index(
            np.argmax(np.nan_to_num(correlation) - 2 * np.eye(len(factors))), correlation.shape
        )
        i, j = map(int, strongest)
        title = f"Association of the factors in the data: strongest {factors[i]} and {factors[j]}"
        yield (
            ("factors",),
            heat_map(
                correlation, factors, factors, f"{title}, {correlation[i, j]:.2f}", "factor", "factor", "Cramér's V"
            ),
        )
