"""Locality: the share of a characteristic's change in the image that lies inside its region."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.core.errors import UndefinedError
from ccvae_eval.core.results import Measurement
from ccvae_eval.core.types import Bools, Floats, Images
from ccvae_eval.evaluation.accumulator import ImageAccumulator
from ccvae_eval.evaluation.judge_scores import judged_position, probability_of, total_variation
from ccvae_eval.evaluation.metric import Decoded, Needs
from ccvae_eval.evaluation.pictures import pair_strips, two_label_grid
from ccvae_eval.evaluation.result_table import (
    NO_REGION,
    REGIONLESS,
    UNCHANGED,
    Mean,
    Proportion,
    RatioOfSums,
    ResultTable,
    Undefined,
    among,
    mean_of,
)
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.locality.paths import TraversalPath, notes_on_close_classes, traversal_paths
from ccvae_eval.metrics.locality.settings import Locality
from ccvae_eval.metrics.shared import image_change
from ccvae_eval.statistics.resampling import ResampleWeights

GREY_LEVEL = 1 / 255
"""Floor of a change for an encoder without noise: one step of an 8-bit image."""


def needs(metric: Locality, subject: Subject) -> Needs:
    paths, _ = traversal_paths(subject, metric)
    if not subject.characteristics:
        raise UndefinedError("the model assigns latent dimensions to no label")
    interventions = {i: None for path in paths for i in (*path.points, *path.noise)}
    return Needs(tuple(interventions), reconstruction=subject.judge_source.possible, judge=True, regions=True)


class LocalityAccumulator(ImageAccumulator[Locality]):
    """One score per image and path, NaN where it is undefined."""

    def __init__(self, metric: Locality, subject: Subject) -> None:
        super().__init__(metric, subject)
        self.paths, self.reasons = traversal_paths(subject, metric)

    def update(self, batch: Decoded) -> None:
        self.reliability.update(batch)
        if self.paths and batch.characteristic == self.paths[0].characteristic:
            self.pictures.add("image", batch.chunk.images)
        for path in self.paths:
            if path.characteristic == batch.characteristic:
                self.columns.put(path.label, batch.chunk.rows, self._path_scores(path, batch))

    def _path_scores(self, path: TraversalPath, batch: Decoded) -> dict[str, Floats]:
        points = [batch.images[point] for point in path.points]
        change: NDArray[np.float32] = image_change.deviation_map(points).float().cpu().numpy()
        found = {"change": change.sum(1, dtype=np.float64), **image_change.path_scores(points)}
        found["concentration"] = 1 - image_change.changed_area(change.astype(np.float64))
        found["magnitude"] = self._most_changed(points[0], points[-1])
        found["floor"], found["noisy"] = np.full(len(change), GREY_LEVEL), np.zeros(len(change))
        if path.noise:
            scale = batch.chunk.posterior.scale[:, list(self.subject.layout[path.characteristic])]
            found["noisy"] = (scale != 0).any(1).double().numpy()
            resampled = self._most_changed(*(batch.images[draw] for draw in path.noise))
            found["floor"] = np.where(found["noisy"] == 1, resampled, GREY_LEVEL)
        if batch.region is not None:
            region = batch.region.flatten(1).numpy()
            found |= image_change.region_scores(change, region)
            self.pictures.add(f"region/{path.characteristic}", batch.region)
        found |= self._judged_scores(path, batch)
        height, width = points[0].shape[2:]
        self.pictures.add(f"change/{path.label}", torch.from_numpy(change.reshape(-1, height, width)))
        self.keep_images(f"strip/{path.label}", batch.chunk, points, axis=1)
        return found

    def _most_changed(self, before: Images, after: Images) -> Floats:
        return image_change.top_mean(image_change.absolute_change(before, after).float(), self.metric.most_changed)

    def _judged_scores(self, path: TraversalPath, batch: Decoded) -> dict[str, Floats]:
        judgements = batch.judged_all(path.points) if self.subject.judge is not None else []
        if not judgements:
            return {}
        judged = [name for name in self.subject.schema.names if name in judgements[0]]
        found = {f"response/{name}": total_variation(judgements[0][name], judgements[-1][name]) for name in judged}
        if path.characteristic in judged:
            end = path.end[batch.chunk.rows]
            own = [at[path.characteristic] for at in judgements]
            continuous = self.subject.schema[path.characteristic].kind == "continuous"
            seen = [judged_position(each) if continuous else probability_of(each, end) for each in own]
            probabilities = np.stack(seen, 1)
            steps = np.abs(np.diff(probabilities, axis=1))
            enough = steps.sum(1) >= self.metric.least_response
            distance = np.abs(probabilities[:, -1] - probabilities[:, 0])
            for name, score in image_change.path_length_scores(distance, steps).items():
                found[f"judged_{name}"] = np.where(enough, score, np.nan)
        return found

    def compute(self, weights: ResampleWeights) -> Measurement:
        table = ResultTable(self.metric, self.subject, weights)
        for name, reason in self.reasons.items():
            table.undefined(name, reason)
        for path in self.paths:
            scores = self.columns.under(path.label, "")
            changed = path.applies & (scores["magnitude"] > scores["floor"])
            _add_changes(table, path, scores, changed, 1 / (self.metric.steps - 1))
            self._add_region_scores(table, path, scores, changed)
            self._add_judged_scores(table, path, scores)
        notes = [*self.reliability.notes(), *notes_on_close_classes(self.subject, self.metric, self.paths)]
        if self.metric.path == "interpolation":
            moved = "all latent dimensions move between two images' codes"
            notes.append(f"{moved}: a baseline, no score of a characteristic")
        return table.measurement(notes, {**self.pictures.arrays(), **self._grid(), **self._pairs()})

    def _traversed(self, kind: str) -> list[str]:
        """The characteristics of one kind that have a path."""
        names = dict.fromkeys(path.characteristic for path in self.paths)
        return [name for name in names if self.subject.schema[name].kind == kind]

    def _grid(self) -> dict[str, NDArray[np.generic]]:
        """Two-dimensional traversal of the first two binary characteristics that have a path."""
        binary = self._traversed("binary")[:2]
        if self.metric.path != "traversal" or len(binary) < 2:
            return {}
        return {f"grid/{'|'.join(binary)}": two_label_grid(self.subject, binary[0], binary[1], self.metric.source)[0]}

    def _pairs(self) -> dict[str, NDArray[np.generic]]:
        """Strips between all classes of the categorical labels that have a path, if requested."""
        if self.metric.pairs != "all" or self.metric.path != "traversal":
            return {}
        return {
            f"pairs/{name}/{which}": strip
            for name in self._traversed("categorical")
            for which, strip in pair_strips(self.subject, name, self.metric.source, self.metric.steps).items()
        }

    def _add_region_scores(
        self, table: ResultTable, path: TraversalPath, scores: Mapping[str, Floats], changed: Bools
    ) -> None:
        name, at = path.characteristic, path.at
        concentration = Mean(among(changed, scores["concentration"]))
        if "area" not in scores:
            table.undefined(name, REGIONLESS, ("focus", "inside", "ap", "inside_energy", "area"), at)
            table.add("concentration", name, concentration, at, chance=0.0, why=UNCHANGED)
            return
        area = scores["area"]
        has_region = (area > 0) & (area <= self.metric.largest_region)
        used = changed & has_region
        why = UNCHANGED if has_region.any() else NO_REGION
        mean_area = mean_of(area, used)
        for value, chance in {"focus": 0.0, "inside": mean_area, "ap": mean_area, "inside_energy": mean_area}.items():
            table.add(value, name, Mean(among(used, scores[value])), at, chance=chance, why=why)
        table.add("area", name, Mean(among(used, area)), at, why=why)
        even = None if mean_area is None else 1 - mean_area
        table.add("concentration", name, concentration, at, chance=0.0, reference=even, why=UNCHANGED)

    def _add_judged_scores(self, table: ResultTable, path: TraversalPath, scores: Mapping[str, Floats]) -> None:
        name, at = path.characteristic, path.at
        if why := self.reliability.why_not(name):
            table.undefined(name, why, ("selectivity", "response", "judged_monotone", "judged_evenness"), at)
            return
        responses = {j: among(path.applies, scores[f"response/{j}"]) for j in self.reliability.trusted}
        total = np.sum(list(responses.values()), axis=0)
        if np.nanmean(total) < self.metric.least_response:
            why = f"the judged changes sum to less than {self.metric.least_response:g}"
            table.add("selectivity", name, Undefined(why), at)
        else:
            own = RatioOfSums(responses[name], total)
            table.add("selectivity", name, own, at, chance=1 / len(responses))
        table.add("response", name, Mean(responses[name]), at, chance=0.0)
        for j, response in responses.items():
            table.add("response", name, Mean(response), {**at, "judged": j}, mean_at=None, chance=0.0)
        for value in ("judged_monotone", "judged_evenness"):
            probabilities = Mean(among(path.applies, scores[value]))
            why, chance = "the judged probability does not change", 1 / (self.metric.steps - 1)
            table.add(value, name, probabilities, at, chance=chance, why=why)


def _add_changes(
    table: ResultTable, path: TraversalPath, scores: Mapping[str, Floats], changed: Bools, chance: float
) -> None:
    """Add the values that need neither a region nor the judge; the evidence keeps the sum behind ``inside``.

    Args:
        chance: score of a path whose points are in random order, and of one with a single jump.
    """
    name, at = path.characteristic, path.at
    # one of two samples of the same distribution exceeds the other half of the time; without noise none does
    by_noise = mean_of(scores["noisy"] / 2, path.applies)
    table.add("changed", name, Proportion(among(path.applies, changed)), at, chance=by_noise)
    magnitude, floor = (among(path.applies, scores[value]) for value in ("magnitude", "floor"))
    table.add("magnitude", name, Mean(magnitude), at, chance=mean_of(floor, path.applies))
    table.add("floor", name, Mean(floor), at)
    for value in ("monotone", "evenness", "straightness"):
        table.add(value, name, Mean(among(changed, scores[value])), at, chance=chance, why=UNCHANGED)
    table.add("path_share", name, Proportion(path.inside), at, why="undefined for an interpolation")
    table.evidence[f"change/{path.label}"] = among(changed, scores["change"])
