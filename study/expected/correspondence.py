"""Expected ends of drift: keypoints matched by OpenCV's template matching in rendered images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import cv2
import numpy as np
import torch
from kornia.metrics import ssim
from torch.nn.functional import max_pool2d

from ccvae_eval.calibration.decoder_faults import displaced, warp_fields
from ccvae_eval.calibration.study_cells import Case
from ccvae_eval.core.types import Bools, Floats, Images
from study.expected.edited import WINDOW, grey_of, mean_of, references_of, region_of, with_classes
from study.expected.known import ExpectedValues

SIDE = 64
"""Side of the images for which the lattice is known, in pixels."""
CENTRES, PATCH, REACH = range(7, 56, 4), 4, 3
"""Points, patch radius and search radius of the matcher ``grid`` on 64 pixels: docs/metrics.md, section 3."""
POINTS = ("spill", "outside", "outside_excess", "lost")
"""Values of points; the others are of pixels."""
OUTSIDE = 1
"""Index of the second zone."""


def _places(grey: Floats) -> list[tuple[int, int]]:
    """Points of the lattice with texture in two directions."""
    across, down = np.zeros_like(grey), np.zeros_like(grey)
    across[:, 1:-1] = (grey[:, 2:] - grey[:, :-2]) / 2
    down[1:-1] = (grey[2:] - grey[:-2]) / 2
    found = []
    for row in CENTRES:
        for column in CENTRES:
            here = slice(row - PATCH, row + PATCH + 1), slice(column - PATCH, column + PATCH + 1)
            slopes = np.stack([across[here].ravel(), down[here].ravel()])
            least = np.linalg.eigvalsh(slopes @ slopes.T / slopes.shape[1])[0]
            if grey[here].std() >= 0.02 and least >= 0.015**2:
                found.append((row, column))
    return found


def _matches(before: Floats, after: Floats) -> Iterator[tuple[int, int, float, float]]:
    """Row, column, best correlation in the other image and its distance, for each point of one grey image."""
    for row, column in _places(before):
        patch, window = (
            np.ascontiguousarray(
                part[row - r : row + r + 1, column - r : column + r + 1].astype(np.float32)
            )
            for part, r in ((before, PATCH), (after, PATCH + REACH))
        )  # fmt: skip
        scores = cv2.matchTemplate(window, patch, cv2.TM_CCOEFF_NORMED).astype(np.float64)
        best = scores.max()
        down, across = np.nonzero(scores >= best - 1e-6)
        yield row, column, best, np.hypot(down - REACH, across - REACH).min()


def _is_found(best: float, nearest: float) -> bool:
    return best >= 0.8 and nearest <= 2


def matched(one: Images, other: Images) -> Floats:
    """Number of points of each first image matched in the second, and sum of their correlations; shape (N, 2)."""
    found = np.zeros((len(one), 2))
    for image, (before, after) in enumerate(zip(grey_of(one), grey_of(other), strict=True)):
        for _, _, best, nearest in _matches(before, after):
            if _is_found(best, nearest):
                found[image] += 1, min(best, 1.0)
    return found


def losses(one: Images, other: Images, zones: Bools) -> tuple[Floats, Floats]:
    """Mean displacement of the points of each zone, and the share of points without a match.

    Args:
        one, other: shape (N, 3, 64, 64).
        zones: masks of the zones, shape (Z, N, 64, 64).

    Returns:
        Displacement (REACH without a match) and share, each of shape (Z, N); NaN for a zone without points.
    """
    sums, counts = np.zeros((2, *zones.shape[:2])), np.zeros(zones.shape[:2])
    for image, (before, after) in enumerate(zip(grey_of(one), grey_of(other), strict=True)):
        for row, column, best, nearest in _matches(before, after):
            here, found = zones[:, image, row, column], _is_found(best, nearest)
            sums[:, here, image] += [[nearest if found else REACH], [not found]]
            counts[here, image] += 1
    displacement, lost = np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)
    return displacement, lost


def _warp_ends(case: Case) -> Floats:
    """0, and at the end the value where inside and outside are displaced alike, up to chance matches.

    A band of the width of a patch and a search belongs to neither.
    """
    x, context = with_classes(case), case.cells[0].context
    if x.shape[2:] != (SIDE, SIDE):
        return case.ends(0.0, math.nan)
    fields, guard, found = warp_fields(case.subject.ids, (SIDE, SIDE), context.seed), PATCH + REACH, []
    for name in case.names:
        then, region = case.subject.target_class(name).numpy(), region_of(case, name)
        wide = max_pool2d(torch.from_numpy(region)[:, None].float(), 2 * guard + 1, 1, guard)[:, 0].numpy() > 0
        zones, after = np.stack([region, ~wide]), displaced(with_classes(case, **{name: then}), fields)
        loss, lost = losses(x, after, zones) if case.value in POINTS else _changes(case, x, after, zones)
        used = (then >= 0) & region.any((1, 2)) & ~np.isnan(loss).any(0)
        inside, outside = loss[:, used]
        if case.value == "lost":
            found.append(float(lost[OUTSIDE, used].mean()))
        else:
            found.append(float(outside.mean() / (1 if case.value.startswith("outside") else inside.mean())))
    return case.ends(0.0, mean_of(found))


def _changes(case: Case, one: Images, other: Images, zones: Bools) -> tuple[Floats, Floats]:
    """Mean 1 - SSIM (by kornia) or absolute change of the pixels in some zones, twice, shape (Z, N)."""
    if case.value == "ssim_spill":
        before, after = (torch.from_numpy(grey_of(images))[:, None] for images in (one, other))
        change = 1 - ssim(before, after, WINDOW)[:, 0].numpy()
    else:
        change = (one - other).abs().double().mean(1).numpy()
    pixels = zones.sum((2, 3))
    means = np.where(pixels > 0, (change * zones).sum((2, 3)) / np.maximum(pixels, 1), math.nan)
    return means, means


def _match_ends(case: Case) -> Floats:
    """Matches of the image with its edit; at the end, with the mean image."""
    x, references = with_classes(case), references_of(case)
    if x.shape[1:] != (3, SIDE, SIDE):
        return case.ends(math.nan, math.nan)
    itself = case.row_key("pair") != ""
    faded = matched(x, references.mean_image.expand_as(x))
    same = matched(x, x) if itself or case.value == "matches_drop" else faded
    first: list[float] = []
    last: list[float] = []
    for name in case.names:
        then = case.subject.target_class(name).numpy()
        here = then >= 0
        edit = same if itself else matched(x, with_classes(case, **{name: then}))
        for found, numbers in ((first, edit[here]), (last, faded[here])):
            if case.value == "matches_drop":
                found.append(float((same[here] - numbers)[:, 0].mean()) if found is first else 0.0)
            elif case.value == "matches":
                found.append(float(numbers[:, 0].mean()))
            else:
                found.append(float(numbers[:, 1].sum() / numbers[:, 0].sum()))
    return case.ends(mean_of(first), mean_of(last))


CORRESPONDENCE: Mapping[tuple[str, str, str], ExpectedValues] = {
    **{("drift", value, "fade"): _match_ends for value in ("matches", "confidence", "matches_drop")},
    **{("drift", value, "warp"): _warp_ends for value in (*POINTS, "ssim_spill", "l1_spill")},
}
"""By (metric, value, perturbation)."""
