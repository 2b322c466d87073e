"""From the sums over points and pixels of each image to the rows of drift's measurement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.evaluation.result_table import NOWHERE, At, Mean, Proportion, RatioOfSums, ResultTable, among, mean_of
from ccvae_eval.metrics.shared.region_masks import INSIDE, OUTSIDE, WHOLE
from ccvae_eval.metrics.shared.ssim import NOTHING
from ccvae_eval.statistics.intervals import difference

Sums = Mapping[tuple[str, str], Mapping[str, Floats]]
"""For each (characteristic, pair of images) what was summed, one row for each image, NaN where it was not seen."""

LOSSES = ("spill", "outside_excess", "outside", "inside", "lost", "displacement", "floor_c", "floor_all")
COMPANIONS = ("ssim", "l1")
RECONSTRUCTED: At = {"pair": "input-reconstruction"}
UNCHANGED = "nothing changes inside the region"
UNCOUNTED = "no matches with inputs are counted (table_images=0)"
UNMOVED = "nothing moves inside the region"


def at_dose(dose: float) -> str:
    """What the pair of the reconstruction and a dose of the change is called.

    >>> at_dose(0.25)
    'dose 0.25'
    """
    return f"dose {dose:g}"


@dataclass(frozen=True, slots=True)
class DriftRows:
    """The rows of one characteristic.

    Args:
        tally: where they go.
        name: the characteristic.
        applies: which images have a class to be changed to, shape (N,).
        sums: what was seen.
        regionless: why it has no region; "" if it has.
    """

    tally: ResultTable
    name: str
    applies: Bools
    sums: Sums
    regionless: str = ""

    def enter_whole(self) -> None:
        """What needs no region."""
        seen, others = self.sums[self.name, "do"], self.sums.get(("", "another"), {})
        for key in COMPANIONS:
            change = seen[key][:, WHOLE] / seen["size"][:, WHOLE]
            chance = self._chance(others.get(key), self.applies)
            self._enter(f"{key}_change", Mean(among(self.applies, change)), chance=chance)
        loss, chance = self._loss("do", WHOLE), self._chance(self._loss("another", WHOLE), self.applies)
        self._enter("loss", Mean(among(self.applies, loss)), chance=chance, why="no textured point")

    def enter_table(self, tells_correct: bool) -> None:
        """The table of the students' report: matches of the inputs with r and with v, and what the change costs."""
        if (self.name, "table") not in self.sums:
            self._undefined(("keypoints", "matches", "matches_drop", "confidence", "confidence_drop"), UNCOUNTED)
            if tells_correct:
                self._undefined(("correct_matches",), UNCOUNTED)
            return
        before, after = self.sums["", "reconstruction"], self.sums[self.name, "table"]
        another = self.sums.get(("", "another"), {})
        for value, key in {"matches": "matches", **({"correct_matches": "correct"} if tells_correct else {})}.items():
            chance = self._chance(another.get(key), self.applies)
            self._enter(value, Mean(among(self.applies, after[key])), chance=chance)
            self._enter(value, Mean(among(self.applies, before[key])), RECONSTRUCTED, chance=chance)
        gone = self._chance(before["matches"] - another["matches"] if another else None, self.applies)
        self._enter("matches_drop", Mean(among(self.applies, before["matches"] - after["matches"])), chance=gone)
        self._enter("keypoints", Mean(among(self.applies, after["keypoints"])))
        sure, chance = [], self._confidence_by_chance(another)
        for seen, at in ((after, NOWHERE), (before, RECONSTRUCTED)):
            ratio = RatioOfSums(among(self.applies, seen["confidence"]), among(self.applies, seen["matches"]))
            found = self.tally.estimated("confidence", self.name, ratio, at)
            self.tally.add("confidence", self.name, found, at, mean_at=at, chance=chance, why="no match")
            sure.append(found)
        lost = None if chance is None else sure[1].value - chance
        self.tally.add("confidence_drop", self.name, difference(sure[1], sure[0]), chance=lost, why="no match")

    def enter_regional(self, fewest: int) -> list[str]:
        """What is measured inside and outside the region; says so where spill rests on something else."""
        region = self._region()
        why = self._no_region(region)
        if why:
            self._undefined(("changed", "textured", *(f"{key}_spill" for key in COMPANIONS), *LOSSES), why)
            return []
        changed = self._changed("do")
        # a redraw exceeds another one half of the time; without noise nothing changes at all
        by_noise = 0.5 if (self.name, "floor_c") in self.sums else 0.0
        self._enter("changed", Proportion(among(region, changed)), chance=by_noise)
        self._enter("textured", Mean(among(region, self.sums[self.name, "do"]["count"][:, OUTSIDE])))
        used = region & changed
        for key in COMPANIONS:
            self._enter(f"{key}_spill", self._pixel_ratio(key, used), chance=1.0, why=UNCHANGED)
        if few := self._few(region, fewest):
            self._undefined(LOSSES[1:], few)
            self._enter("spill", self._pixel_ratio("ssim", used), chance=1.0, why=UNCHANGED, note=f"1-SSIM: {few}")
            return [f"the spill of {self.name} is that of 1-SSIM: {few}"]
        self._enter_losses(used)
        return []

    def enter_dose(self, dose: float, no_path: str, fewest: int) -> None:
        """Losses at one fraction of the path, against the reconstruction."""
        at, pair = {"dose": dose}, at_dose(dose)
        if no_path:
            self._undefined(("loss", "spill", "outside", "inside"), no_path, at)
            return
        chance = self._chance(self._loss("another", WHOLE), self.applies)
        loss = Mean(among(self.applies, self._loss(pair, WHOLE)))
        self._enter("loss", loss, at, chance=chance, why="no textured point")
        region = self._region()
        if why := self._no_region(region) or self._few(region, fewest):
            self._undefined(("spill", "outside", "inside"), why, at)
            return
        inside, outside, used = self._both(pair, region & self._changed(pair))
        self._enter("spill", RatioOfSums(among(used, outside), among(used, inside)), at, chance=1.0, why=UNMOVED)
        for value, zone, lost in (("outside", OUTSIDE, outside), ("inside", INSIDE, inside)):
            chance = self._chance(self._loss("another", zone), used)
            self._enter(value, Mean(among(used, lost)), at, chance=chance, why=UNCHANGED)

    def _enter_losses(self, changed: Bools) -> None:
        inside, outside, used = self._both("do", changed)
        floor = self._loss("floor_c", OUTSIDE)
        sums = self.sums[self.name, "do"]
        found, count = sums["found"][:, OUTSIDE], sums["count"][:, OUTSIDE]
        why = "no changed image has textured points inside and outside" if changed.any() else UNCHANGED
        still = UNMOVED if used.any() else why
        self._enter("spill", RatioOfSums(among(used, outside), among(used, inside)), chance=1.0, why=still)
        beyond = self._chance(self._loss("another", OUTSIDE) - floor, used)
        self._enter("outside_excess", Mean(among(used, outside - floor)), chance=beyond, why=why)
        for value, zone, loss in (("outside", OUTSIDE, outside), ("inside", INSIDE, inside)):
            chance = self._chance(self._loss("another", zone), used)
            self._enter(value, Mean(among(used, loss)), chance=chance, why=why)
        self._enter("lost", Mean(among(used, 1 - _share(found, count))), chance=self._lost_by_chance(used), why=why)
        moved = RatioOfSums(among(used, sums["displacement"][:, OUTSIDE]), among(used, found))
        self._enter(
            "displacement", moved, chance=self._moved_by_chance(used),
            why=why if not used.any() else "no point outside is found again",
        )  # fmt: skip
        self._enter("floor_c", Mean(among(used, floor)), why=why)
        self._enter("floor_all", Mean(among(used, self._loss("floor_all", OUTSIDE))), why=why)

    def _region(self) -> Bools:
        """Which images have a region of a usable size and something outside it."""
        usable: Bools = self.applies & (self.sums[self.name, "do"]["size"][:, [INSIDE, OUTSIDE]] > 0).all(1)
        return usable

    def _no_region(self, region: Bools) -> str:
        if self.regionless or region.any():
            return self.regionless
        return "the region is empty or too large in every image" if self.applies.any() else "no image's class is known"

    def _few(self, region: Bools, fewest: int) -> str:
        """Says so where the median image has fewer textured points outside than are needed."""
        median = float(np.median(self.sums[self.name, "do"]["count"][region, OUTSIDE]))
        return f"{median:g} textured points outside in the median image, {fewest} are needed" * (median < fewest)

    def _changed(self, pair: str) -> Bools:
        """Which images change inside the region beyond the posterior's own noise in c."""
        floor = self.sums.get((self.name, "floor_c"))
        least = 0.0 if floor is None else floor["l1"][:, INSIDE]
        changed: Bools = self.sums[self.name, pair]["l1"][:, INSIDE] > least
        return changed

    def _both(self, pair: str, images: Bools) -> tuple[Floats, Floats, Bools]:
        """Mean losses inside and outside, and the images that have both."""
        inside, outside = self._loss(pair, INSIDE), self._loss(pair, OUTSIDE)
        return inside, outside, images & ~np.isnan(inside) & ~np.isnan(outside)

    def _loss(self, pair: str, zone: int) -> Floats:
        """The mean loss of each image's points in a zone; NaN where it has none."""
        count = self.sums[self.name, "do"]["count"][:, zone]
        if (self.name, pair) in self.sums:
            return _share(self.sums[self.name, pair]["loss"][:, zone], count)
        # only what redraws a noiseless posterior (nothing moves) or needs a second image is not there
        return np.where(count > 0, 0.0 if pair.startswith("floor") else np.nan, np.nan)

    def _pixel_ratio(self, key: str, images: Bools) -> RatioOfSums:
        sums = self.sums[self.name, "do"]
        outside, inside = (_share(sums[key][:, z], sums["size"][:, z]) for z in (OUTSIDE, INSIDE))
        # a ratio of rounding errors says nothing (an untrained network changes some pixels by a millionth)
        used = images & (inside > (NOTHING if key == "ssim" else 0.0))
        return RatioOfSums(among(used, outside), among(used, inside))

    def _chance(self, values: Floats | None, images: Bools) -> float | None:
        return None if values is None else mean_of(values, images & ~np.isnan(values))

    def _lost_by_chance(self, images: Bools) -> float | None:
        another = self.sums.get((self.name, "another"))
        if another is None:
            return None
        return self._chance(1 - _share(another["found"][:, OUTSIDE], another["count"][:, OUTSIDE]), images)

    def _moved_by_chance(self, images: Bools) -> float | None:
        """How far points outside seem to have moved that are found in another image; None where none is."""
        another = self.sums.get((self.name, "another"))
        if another is None:
            return None
        moved, found = (np.nansum(among(images, another[key][:, OUTSIDE])) for key in ("displacement", "found"))
        return float(moved / found) if found > 0 else None

    def _confidence_by_chance(self, another: Mapping[str, Floats]) -> float | None:
        if not another:
            return None
        matches = np.nansum(among(self.applies, another["matches"]))
        return float(np.nansum(among(self.applies, another["confidence"])) / matches) if matches > 0 else None

    def _undefined(self, values: Iterable[str], why: str, at: At = NOWHERE) -> None:
        for value in values:
            self.tally.add(value, self.name, why, at, mean_at=at)

    def _enter(
        self, value: str, what: Mean | RatioOfSums, at: At = NOWHERE, *, chance: float | None = None, why: str = "",
        note: str = "",
    ) -> None:  # fmt: skip
        self.tally.add(value, self.name, what, at, mean_at=at, chance=chance, why=why, note=note)


def _share(part: Floats, whole: Floats) -> Floats:
    """part / whole, NaN where there is no whole."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan)
