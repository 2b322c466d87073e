"""Rows of ``drift`` from the sums over the points and pixels of each image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.evaluation.result_table import (
    NO_CHARACTERISTIC,
    NO_CONDITION,
    NO_REGION,
    UNCHANGED_INSIDE,
    UNMOVED,
    At,
    ColumnStore,
    Mean,
    Proportion,
    RatioOfSums,
    ResultTable,
    among,
    mean_of,
)
from ccvae_eval.metrics.shared.image_change import NEGLIGIBLE
from ccvae_eval.metrics.shared.region_masks import INSIDE, OUTSIDE, WHOLE
from ccvae_eval.statistics.intervals import difference
from ccvae_eval.statistics.ratios import safe_ratio

LOSSES = ("spill", "outside_excess", "outside", "inside", "lost", "displacement", "floor_c", "floor_all")
COMPANIONS = ("ssim", "l1")
RECONSTRUCTED: At = {"pair": "input-reconstruction"}
UNCOUNTED = "matches with the inputs are not counted (table_images=0)"


def dose_pair(dose: float) -> str:
    """Return the key of the comparison between the reconstruction and a fraction of the change.

    >>> dose_pair(0.25)
    'dose 0.25'
    """
    return f"dose {dose:g}"


@dataclass(frozen=True, slots=True)
class DriftRows:
    """Adds the rows of one characteristic to a result table.

    Args:
        table: receives the rows.
        name: the characteristic.
        applies: mask of the images whose class is known, shape (N,).
        columns: sums over points and pixels, by ``pair/key``; those of no characteristic are matches of the inputs.
        regionless: reason why the characteristic has no region; "" if it has one.
    """

    table: ResultTable
    name: str
    applies: Bools
    columns: ColumnStore
    regionless: str = ""

    def _sums(self, pair: str) -> Mapping[str, Floats]:
        """Return the sums of one pair of images; empty if it was not measured."""
        return self.columns.under(self.name, f"{pair}/")

    def _shared(self, pair: str) -> Mapping[str, Floats]:
        """Return the sums of a pair that all characteristics share."""
        return self.columns.under(NO_CHARACTERISTIC, f"{pair}/")

    def add_whole(self) -> None:
        """Add ``ssim_change``, ``l1_change`` and ``loss``, which need no region."""
        sums, others = self._sums("do"), self._shared("another")
        for key in COMPANIONS:
            change = sums[key][:, WHOLE] / sums["size"][:, WHOLE]
            chance = self._chance(others.get(key), self.applies)
            self._add(f"{key}_change", Mean(among(self.applies, change)), chance=chance)
        self._add_loss("do", NO_CONDITION)

    def _add_loss(self, pair: str, at: At) -> None:
        loss, chance = self._loss(pair, WHOLE), self._chance(self._loss("another", WHOLE), self.applies)
        self._add("loss", Mean(among(self.applies, loss)), at, chance=chance, why="no textured point")

    def add_matches(self, with_correct: bool) -> None:
        """Add matches of the inputs with r and with v, their confidences, and the drops of both.

        Args:
            with_correct: True if ``correct_matches`` is informative for this matcher.
        """
        counts = {"matches": "matches", "correct_matches": "correct"} if with_correct else {"matches": "matches"}
        before, after, another = self._shared("reconstruction"), self._sums("table"), self._shared("another")
        if not after:
            names = ("keypoints", *counts, "matches_drop", "confidence", "confidence_drop")
            self.table.undefined(self.name, UNCOUNTED, names)
            return
        for value, key in counts.items():
            chance = self._chance(another.get(key), self.applies)
            self._add(value, Mean(among(self.applies, after[key])), chance=chance)
            self._add(value, Mean(among(self.applies, before[key])), RECONSTRUCTED, chance=chance)
        drop = self._chance(before["matches"] - another["matches"] if another else None, self.applies)
        self._add("matches_drop", Mean(among(self.applies, before["matches"] - after["matches"])), chance=drop)
        self._add("keypoints", Mean(among(self.applies, after["keypoints"])))
        confidences, chance = [], _ratio_of_sums(another, "confidence", "matches", self.applies)
        for sums, at in ((after, NO_CONDITION), (before, RECONSTRUCTED)):
            terms = (among(self.applies, sums[key]) for key in ("confidence", "matches"))
            found = self.table.estimated("confidence", self.name, RatioOfSums(*terms), at)
            self.table.add("confidence", self.name, found, at, mean_at=at, chance=chance, why="no match")
            confidences.append(found)
        changed, unchanged = confidences
        drop = None if chance is None else unchanged.value - chance
        self.table.add("confidence_drop", self.name, difference(unchanged, changed), chance=drop, why="no match")

    def add_regional(self, fewest: int) -> list[str]:
        """Add the values inside and outside the region; returns a note if ``spill`` is based on SSIM."""
        region = self._region()
        why = self._no_region(region)
        if why:
            names = ("changed", "textured", *(f"{key}_spill" for key in COMPANIONS), *LOSSES)
            self.table.undefined(self.name, why, names)
            return []
        changed = self._changed("do")
        # one redraw exceeds another half of the time; without noise nothing changes
        by_noise = 0.5 if self._sums("floor_c") else 0.0
        self._add("changed", Proportion(among(region, changed)), chance=by_noise)
        self._add("textured", Mean(among(region, self._sums("do")["count"][:, OUTSIDE])))
        used = region & changed
        for key in COMPANIONS:
            self._add(f"{key}_spill", self._pixel_ratio(key, used), chance=1.0, why=UNCHANGED_INSIDE)
        if few := self._few(region, fewest):
            self.table.undefined(self.name, few, LOSSES[1:])
            self._add("spill", self._pixel_ratio("ssim", used), chance=1.0, why=UNCHANGED_INSIDE, note=f"1-SSIM: {few}")
            return [f"spill of {self.name} is the ratio of 1-SSIM: {few}"]
        self._add_losses(used)
        return []

    def add_dose(self, dose: float, no_path: str, fewest: int) -> None:
        """Add the losses at one fraction of the path."""
        at, pair = {"dose": dose}, dose_pair(dose)
        if no_path:
            self.table.undefined(self.name, no_path, ("loss", "spill", "outside", "inside"), at)
            return
        self._add_loss(pair, at)
        region = self._region()
        if why := self._no_region(region) or self._few(region, fewest):
            self.table.undefined(self.name, why, ("spill", "outside", "inside"), at)
            return
        inside, outside, used = self._both(pair, region & self._changed(pair))
        self._add("spill", RatioOfSums(among(used, outside), among(used, inside)), at, chance=1.0, why=UNMOVED)
        for value, mask, loss_in in (("outside", OUTSIDE, outside), ("inside", INSIDE, inside)):
            chance = self._chance(self._loss("another", mask), used)
            self._add(value, Mean(among(used, loss_in)), at, chance=chance, why=UNCHANGED_INSIDE)

    def _add_losses(self, changed: Bools) -> None:
        inside, outside, used = self._both("do", changed)
        floor = self._loss("floor_c", OUTSIDE)
        sums = self._sums("do")
        found, count = sums["found"][:, OUTSIDE], sums["count"][:, OUTSIDE]
        why = "no changed image has textured points inside and outside" if changed.any() else UNCHANGED_INSIDE
        still = UNMOVED if used.any() else why
        self._add("spill", RatioOfSums(among(used, outside), among(used, inside)), chance=1.0, why=still)
        excess = self._chance(self._loss("another", OUTSIDE) - floor, used)
        self._add("outside_excess", Mean(among(used, outside - floor)), chance=excess, why=why)
        for value, mask, loss in (("outside", OUTSIDE, outside), ("inside", INSIDE, inside)):
            chance = self._chance(self._loss("another", mask), used)
            self._add(value, Mean(among(used, loss)), chance=chance, why=why)
        another = {key: column[:, OUTSIDE] for key, column in self._sums("another").items()}
        chance = self._chance(1 - safe_ratio(another["found"], another["count"]) if another else None, used)
        self._add("lost", Mean(among(used, 1 - safe_ratio(found, count))), chance=chance, why=why)
        moved = RatioOfSums(among(used, sums["displacement"][:, OUTSIDE]), among(used, found))
        still = "no point outside is found again" if used.any() else why
        self._add("displacement", moved, chance=_ratio_of_sums(another, "displacement", "found", used), why=still)
        self._add("floor_c", Mean(among(used, floor)), why=why)
        self._add("floor_all", Mean(among(used, self._loss("floor_all", OUTSIDE))), why=why)

    def _region(self) -> Bools:
        """Return a mask of the images that have a region of a usable size and pixels outside it."""
        usable: Bools = self.applies & (self._sums("do")["size"][:, [INSIDE, OUTSIDE]] > 0).all(1)
        return usable

    def _no_region(self, region: Bools) -> str:
        if self.regionless or region.any():
            return self.regionless
        return NO_REGION if self.applies.any() else "the class of every image is unknown"

    def _few(self, region: Bools, fewest: int) -> str:
        """Return a reason if the median image has too few textured points outside the region, else ""."""
        median = float(np.median(self._sums("do")["count"][region, OUTSIDE]))
        return f"{median:g} textured points outside in the median image, {fewest} are needed" * (median < fewest)

    def _changed(self, pair: str) -> Bools:
        """Return a mask of the images that change more inside the region than by the posterior's noise in z_c."""
        floor = self._sums("floor_c")
        least = floor["l1"][:, INSIDE] if floor else 0.0
        changed: Bools = self._sums(pair)["l1"][:, INSIDE] > least
        return changed

    def _both(self, pair: str, images: Bools) -> tuple[Floats, Floats, Bools]:
        """Return the mean losses inside and outside, and a mask of the images that have both."""
        inside, outside = self._loss(pair, INSIDE), self._loss(pair, OUTSIDE)
        return inside, outside, images & ~np.isnan(inside) & ~np.isnan(outside)

    def _loss(self, pair: str, mask: int) -> Floats:
        """Return the mean loss of each image's points in a region mask; NaN if there are none."""
        count = self._sums("do")["count"][:, mask]
        if sums := self._sums(pair):
            return safe_ratio(sums["loss"][:, mask], count)
        # missing pairs: redraws from a posterior without noise, which move nothing, or a second image
        return np.where(count > 0, 0.0 if pair.startswith("floor") else np.nan, np.nan)

    def _pixel_ratio(self, key: str, images: Bools) -> RatioOfSums:
        sums = self._sums("do")
        outside, inside = (safe_ratio(sums[key][:, m], sums["size"][:, m]) for m in (OUTSIDE, INSIDE))
        # exclude ratios of rounding errors, such as those of an untrained network
        used = images & (inside > (NEGLIGIBLE if key == "ssim" else 0.0))
        return RatioOfSums(among(used, outside), among(used, inside))

    def _chance(self, values: Floats | None, images: Bools) -> float | None:
        return None if values is None else mean_of(among(images, values))

    def _add(
        self, value: str, what: Mean | RatioOfSums, at: At = NO_CONDITION, *, chance: float | None = None,
        why: str = "", note: str = "",
    ) -> None:  # fmt: skip
        self.table.add(value, self.name, what, at, mean_at=at, chance=chance, why=why, note=note)


def _ratio_of_sums(sums: Mapping[str, Floats], part: str, whole: str, images: Bools) -> float | None:
    """Return the ratio of two sums over some images, for a chance level; None without ``sums`` or if the whole is 0."""
    if not sums:
        return None
    total, count = (np.nansum(among(images, sums[key])) for key in (part, whole))
    return float(total / count) if count > 0 else None
