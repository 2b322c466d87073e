"""Locality: the share of a characteristic's change in the image that lies inside its region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.core.errors import UndefinedError, UsageError
from ccvae_eval.core.results import Measurement, ValueSpec
from ccvae_eval.core.types import Bools, Floats, Images
from ccvae_eval.evaluation.interventions import CodeSource
from ccvae_eval.evaluation.judge_scores import JudgeReliability, probability_of, total_variation
from ccvae_eval.evaluation.metric import LAWS, Decoded, Needs
from ccvae_eval.evaluation.pictures import PICTURED, MeanPictures, as_bytes, pair_strips, plane
from ccvae_eval.evaluation.result_table import (
    NO_REGION,
    ColumnStore,
    Mean,
    Proportion,
    RatioOfSums,
    ResultTable,
    among,
    mean_of,
)
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.locality.paths import MovedDimensions, PathKind, TraversalPath, traversal_paths
from ccvae_eval.metrics.shared import image_change
from ccvae_eval.statistics.resampling import ResampleWeights

GREY_LEVEL = 1 / 255
"""Floor of a change for an encoder without noise: one step of an 8-bit image."""

MIN_STEPS = 3

UNCHANGED = "nothing changed in any image"

EVEN_CHANGE = "the same change everywhere"
POSTERIOR_NOISE = "the posterior's noise alone"
RANDOM_ORDER = "the path's points in random order"
ONE_JUMP = "one jump"


@dataclass(frozen=True, slots=True)
class Locality:
    r"""Share of the change along a characteristic's latent dimensions that lies inside the characteristic's region.

    The latent dimensions of a characteristic move along a path of K points from one class to another, all others are
    fixed. D(p) is the standard deviation of pixel p over the K decoded images, averaged over the channels. A is the
    characteristic's region in the image, a its share of the area:

    .. math:: inside = \frac{\sum_{p \in A} D_p}{\sum_p D_p}, \qquad focus = (inside - a) / (1 - a)

    ``focus`` is 1 if all change is inside the region, 0 if the change is the same everywhere, negative if it avoids
    the region. It is the mean over images of each image's focus, so every image counts alike and two models can be
    compared image by image; each image's share is in the evidence (``focus/NAME/numerator``). ``ap`` is the average
    precision of D as a score for the region's pixels, ``inside_energy`` is ``inside`` of D squared; ``concentration``
    = 1 - the share of the pixels that carry the change, and needs no region.

    An image is "unchanged" if its ``magnitude`` (mean over the 1 % most changed pixels of |last - first|) does not
    exceed its floor: the same quantity between two decodings that differ only in the characteristic's latent
    dimensions, both sampled from q(z_c|x) (1/255 where the posterior has no scale). Unchanged images enter
    ``changed``, ``magnitude`` and the judge's values and are left out of all others. The values of the region are
    undefined for an image whose region is empty or covers more than .6 of it.

    With the judge: ``response`` = mean total variation between the judged probabilities of each label at both ends;
    ``selectivity`` = the characteristic's own share of the sum over labels; ``judged_monotone`` and
    ``judged_evenness`` = ``monotone`` and ``evenness`` of the probability of the class at the path's end.

    Range: 0 to 1; focus from -1.5 to 1.
    Direction: higher is better, except for descriptive values.
    Chance: 0 for focus, the region's share of the area for inside and ap.
    Cost: ``steps`` + 2 images decoded for each image and characteristic, and the reconstruction if there is a judge.
    Pitfalls: blur spreads D beyond the region; regions of different characteristics overlap (glasses and brows); a
    block of latent dimensions moves along one line through its classes' means, ``columns="each"`` moves its dimensions
    one by one (the floor stays that of the whole block); with ``path="interpolation"`` all latent dimensions move: its
    path scores are a baseline for those of a characteristic, its other values say nothing about one.
    Reference: docs/metrics.md, section 2.

    Args:
        steps: points on the path.
        source: source of the path's ends: the codes of each class, or p(z_c|y).
        columns: the whole block of a characteristic's latent dimensions at once, or each dimension alone.
        path: along the characteristic's latent dimensions, or between the codes of two images of different class.
        pairs: classes between which strips of a categorical label are drawn: each image's own and its target class,
            or all pairs, from one image of each. No value depends on it.
        most_changed: share of the pixels over which magnitude is the mean.
        largest_region: largest share of the image that a region may cover.
        least_response: smallest sum of judged changes for which ratios of them are defined.
    """

    name: ClassVar[str] = "locality"
    version: ClassVar[int] = 2
    headline: ClassVar[str] = "focus"
    default_sample: ClassVar[int] = 2000
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label"}
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "focus": ValueSpec(
            "share of the change inside the region, corrected for the region's size (0: evenly spread, 1: all inside)",
            "", True, (-1.5, 1.0),
            EVEN_CHANGE, dials=("smear", "stray"),
        ),
        "inside": ValueSpec(
            "share of the change inside the region", "share", True, (0.0, 1.0), EVEN_CHANGE, dials=("smear", "stray"),
        ),
        "ap": ValueSpec(
            "average precision of the change as a score for the region's pixels", "", True, (0.0, 1.0), EVEN_CHANGE,
            dials=("stray",),
        ),
        "inside_energy": ValueSpec(
            "share of the squared change inside the region", "share", True, (0.0, 1.0), EVEN_CHANGE, dials=("smear",),
        ),
        "concentration": ValueSpec(
            "share of the pixels that do not carry the change; needs no region", "share", None, (0.0, 1.0), EVEN_CHANGE,
            dials=("smear",), reference="1 - a: an even change that fills the region",
        ),
        "selectivity": ValueSpec(
            "share of the characteristic's own label in the judged change of all labels", "share", True, (0.0, 1.0),
            "all labels change alike", True, ("leak",),
        ),
        "response": ValueSpec(
            "change of the judged probabilities of a label between the path's ends", "", None, (0.0, 1.0),
            "nothing changes", True,
        ),
        "changed": ValueSpec(
            "share of the images whose change exceeds their floor", "share", True, (0.0, 1.0), POSTERIOR_NOISE,
            dials=("idle",),
        ),
        "magnitude": ValueSpec(
            "change of the most changed pixels between the path's ends", "intensity", None, (0.0, 1.0), POSTERIOR_NOISE,
        ),
        "floor": ValueSpec(
            "change of the most changed pixels under the posterior's own noise", "intensity", None, (0.0, 1.0),
            no_chance="it is the chance level of magnitude",
        ),
        "area": ValueSpec(
            "share of the image that the region covers", "share", None, (0.0, 1.0),
            no_chance="it is the chance level of inside and does not depend on the model",
        ),
        "monotone": ValueSpec(
            "distance between the path's ends over the length of the path (L1 over pixels)", "", True, (0.0, 1.0),
            RANDOM_ORDER, dials=("wobble",),
        ),
        "evenness": ValueSpec(
            "mean step over largest step (L1 over pixels): 1 even, 1/(K-1) one jump", "", True, (0.0, 1.0), ONE_JUMP,
            dials=("jump",),
        ),
        "straightness": ValueSpec(
            "distance between the path's ends over the length of the path (L2 over pixels)", "", None, (0.0, 1.0),
            RANDOM_ORDER,
        ),
        "judged_monotone": ValueSpec(
            "monotone of the judged probability of the class at the path's end", "", True, (0.0, 1.0), RANDOM_ORDER,
            True, ("wobble",),
        ),
        "judged_evenness": ValueSpec(
            "evenness of the judged probability of the class at the path's end", "", True, (0.0, 1.0), ONE_JUMP, True,
            ("jump",),
        ),
        "path_share": ValueSpec(
            "share of the codes whose projection lies between the path's ends", "share", None, (0.0, 1.0),
            no_chance="it describes the path and is not a score",
        ),
    }  # fmt: skip

    steps: int = 11
    source: CodeSource = "codes"
    columns: MovedDimensions = "block"
    path: PathKind = "traversal"
    pairs: Literal["drawn", "all"] = "drawn"
    most_changed: float = 0.01
    largest_region: float = 0.6
    least_response: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < MIN_STEPS:
            raise UsageError(f"steps must be at least {MIN_STEPS}, got {self.steps}", where="locality.steps")
        if self.pairs not in ("drawn", "all"):
            raise UsageError(f"pairs must be 'drawn' or 'all', got {self.pairs!r}", where="locality.pairs")
        for name in ("most_changed", "largest_region"):
            if not 0 < (share := getattr(self, name)) <= 1:
                raise UsageError(f"{name} must be above 0 and at most 1, got {share}", where=f"locality.{name}")

    def needs(self, subject: Subject) -> Needs:
        paths, _ = traversal_paths(self, subject)
        if not subject.characteristics:
            raise UndefinedError("the model assigns latent dimensions to no label")
        interventions = {i: None for path in paths for i in (*path.points, *path.noise)}
        return Needs(tuple(interventions), reconstruction=subject.judge_source.possible, judge=True, regions=True)

    def start(self, subject: Subject) -> LocalityAccumulator:
        return LocalityAccumulator(self, subject)


class LocalityAccumulator:
    """One score per image and path, NaN where it is undefined."""

    def __init__(self, metric: Locality, subject: Subject) -> None:
        self.metric, self.subject = metric, subject
        self.paths, self.reasons = traversal_paths(metric, subject)
        self.scores = ColumnStore(len(subject))
        self.reliability = JudgeReliability(subject)
        self.pictures = MeanPictures()

    def update(self, batch: Decoded) -> None:
        self.reliability.update(batch)
        if self.paths and batch.characteristic == self.paths[0].characteristic:
            self.pictures.add("image", batch.chunk.images)
        for path in self.paths:
            if path.characteristic == batch.characteristic:
                self.scores.put(path.label, batch.chunk.rows, self._path_scores(path, batch))

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
        self._keep_pictures(path, batch, points, change)
        return found

    def _most_changed(self, before: Images, after: Images) -> Floats:
        change = image_change.absolute_change(before, after).float().cpu().numpy()
        return image_change.top_mean(change, self.metric.most_changed)

    def _judged_scores(self, path: TraversalPath, batch: Decoded) -> dict[str, Floats]:
        judgements = [batch.judged(point) for point in path.points] if self.subject.judge is not None else []
        if not judgements:
            return {}
        judged = [name for name in self.subject.schema.names if name in judgements[0]]
        found = {f"response/{name}": total_variation(judgements[0][name], judgements[-1][name]) for name in judged}
        if path.characteristic in judged:
            end = path.end[batch.chunk.rows]
            probabilities = np.stack([probability_of(at[path.characteristic], end) for at in judgements], 1)
            steps = np.abs(np.diff(probabilities, axis=1))
            enough = steps.sum(1) >= self.metric.least_response
            distance = np.abs(probabilities[:, -1] - probabilities[:, 0])
            for name, score in image_change.path_length_scores(distance, steps).items():
                found[f"judged_{name}"] = np.where(enough, score, np.nan)
        return found

    def _keep_pictures(
        self, path: TraversalPath, batch: Decoded, points: Sequence[Images], change: NDArray[np.float32]
    ) -> None:
        height, width = points[0].shape[2:]
        self.pictures.add(f"change/{path.label}", torch.from_numpy(change.reshape(-1, height, width)))
        wanted = PICTURED - batch.chunk.rows.start
        if wanted > 0:
            self.pictures.keep(f"strip/{path.label}", torch.stack([as_bytes(x[:wanted]) for x in points], 1))

    def compute(self, weights: ResampleWeights) -> Measurement:
        table = ResultTable(self.metric, self.subject, weights)
        for name, reason in self.reasons.items():
            table.undefined(name, reason)
        for path in self.paths:
            scores = self.scores.columns[path.label]
            changed = path.applies & (scores["magnitude"] > scores["floor"])
            _add_changes(table, path, scores, changed, 1 / (self.metric.steps - 1))
            self._add_region_scores(table, path, scores, changed)
            self._add_judged_scores(table, path, scores)
        notes = self.reliability.notes()
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
        return {f"grid/{'|'.join(binary)}": plane(self.subject, binary[0], binary[1], self.metric.source)}

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
            for value in ("focus", "inside", "ap", "inside_energy", "area"):
                table.add(value, name, "has no region", at)
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
            for value in ("selectivity", "response", "judged_monotone", "judged_evenness"):
                table.add(value, name, why, at)
            return
        responses = {j: among(path.applies, scores[f"response/{j}"]) for j in self.reliability.trusted}
        total = np.sum(list(responses.values()), axis=0)
        if np.nanmean(total) < self.metric.least_response:
            table.add("selectivity", name, f"the judged changes sum to less than {self.metric.least_response:g}", at)
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
