"""Known ends of drift: keypoints found again by OpenCV's template matching, in pictures of the renderer's own."""

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
from study.expected.edited import WINDOW, grey_of, mean_of, originals_of, region_of, with_classes
from study.expected.known import Known

SIDE = 64
"""Pixels of the pictures for which the lattice is known."""
CENTRES, PATCH, REACH = range(7, 56, 4), 4, 3
"""Of the lattice that ``grid`` lays over 64 pixels: docs/metrics.md, section 3."""
POINTS = ("spill", "outside", "outside_excess", "lost")
"""Values of points; the others are of pixels."""
OUTSIDE = 1
"""The place of the second zone."""


def _places(grey: Floats) -> list[tuple[int, int]]:
    """Points of the lattice with texture, and with texture in two directions."""
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


def _searched(before: Floats, after: Floats) -> Iterator[tuple[int, int, float, float]]:
    """For each point of one grey image its row and column, the best correlation in another, and how far it lies."""
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
    """Points of each first image found again in the second by OpenCV, and the sum of their correlations; (N, 2)."""
    found = np.zeros((len(one), 2))
    for image, (before, after) in enumerate(zip(grey_of(one), grey_of(other), strict=True)):
        for _, _, best, nearest in _searched(before, after):
            if _is_found(best, nearest):
                found[image] += 1, min(best, 1.0)
    return found


def losses(one: Images, other: Images, zones: Bools) -> tuple[Floats, Floats]:
    """How far the points of each first image went by OpenCV, and which are not found again; means over some zones.

    Args:
        one, other: shape (N, 3, 64, 64).
        zones: shape (Z, N, 64, 64).

    Returns:
        Each of shape (Z, N), NaN where a zone has no point: the displacement, REACH of what is not found; its share.
    """
    sums, counts = np.zeros((2, *zones.shape[:2])), np.zeros(zones.shape[:2])
    for image, (before, after) in enumerate(zip(grey_of(one), grey_of(other), strict=True)):
        for row, column, best, nearest in _searched(before, after):
            here, found = zones[:, image, row, column], _is_found(best, nearest)
            sums[:, here, image] += [[nearest if found else REACH], [not found]]
            counts[here, image] += 1
    displacement, gone = np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)
    return displacement, gone


def _warped(case: Case) -> Floats:
    """At the end inside and outside are displaced alike, and what is found again there by chance is not quite alike.

    Outside the band, as wide as a patch and the search, that belongs to neither. The oracle's own noise does nothing
    outside: there is nothing to take off.
    """
    x, bench = with_classes(case), case.cells[0].bench
    if x.shape[2:] != (SIDE, SIDE):
        return case.ends(0.0, math.nan)
    fields, guard, found = warp_fields(case.subject.ids, (SIDE, SIDE), bench.seed), PATCH + REACH, []
    for name in case.names:
        then, region = case.subject.target_class(name).numpy(), region_of(case, name)
        wide = max_pool2d(torch.from_numpy(region)[:, None].float(), 2 * guard + 1, 1, guard)[:, 0].numpy() > 0
        zones, after = np.stack([region, ~wide]), displaced(with_classes(case, **{name: then}), fields)
        loss, gone = losses(x, after, zones) if case.value in POINTS else _changes(case, x, after, zones)
        used = (then >= 0) & region.any((1, 2)) & ~np.isnan(loss).any(0)
        inside, outside = loss[:, used]
        if case.value == "lost":
            found.append(float(gone[OUTSIDE, used].mean()))
        else:
            found.append(float(outside.mean() / (1 if case.value.startswith("outside") else inside.mean())))
    return case.ends(0.0, mean_of(found))


def _changes(case: Case, one: Images, other: Images, zones: Bools) -> tuple[Floats, Floats]:
    """Mean change of the pixels in some zones, shape (Z, N), for the value asked for: 1-SSIM by kornia, or absolute."""
    if case.value == "ssim_spill":
        before, after = (torch.from_numpy(grey_of(images))[:, None] for images in (one, other))
        change = 1 - ssim(before, after, WINDOW)[:, 0].numpy()
    else:
        change = (one - other).abs().double().mean(1).numpy()
    pixels = zones.sum((2, 3))
    means = np.where(pixels > 0, (change * zones).sum((2, 3)) / np.maximum(pixels, 1), math.nan)
    return means, means


def _table(case: Case) -> Floats:
    """The input beside its edit, and beside the mean image."""
    x, originals = with_classes(case), originals_of(case)
    if x.shape[1:] != (3, SIDE, SIDE):
        return case.ends(math.nan, math.nan)
    itself = case.told_apart("pair") != ""
    faded = matched(x, originals.mean_image.expand_as(x))
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


CORRESPONDENCE: Mapping[tuple[str, str, str], Known] = {
    **{("drift", value, "fade"): _table for value in ("matches", "confidence", "matches_drop")},
    **{("drift", value, "warp"): _warped for value in (*POINTS, "ssim_spill", "l1_spill")},
}
"""By (metric, value, dial)."""
