"""Locality: does a characteristic change the image where it lives, and nowhere else?"""

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
from ccvae_eval.evaluation.judge_scores import JudgeReliability, judged_shift, probability_of
from ccvae_eval.evaluation.metric import LAWS, Decoded, Needs
from ccvae_eval.evaluation.pictures import PICTURED, MeanPictures, as_bytes, pair_strips, plane
from ccvae_eval.evaluation.result_table import Mean, Proportion, RatioOfSums, ResultTable, among, mean_of
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.locality.paths import Columns, PathKind, TraversalPath, traversal_paths
from ccvae_eval.metrics.shared.image_change import (
    absolute_change,
    changed_area,
    course_scores,
    deviation_map,
    path_scores,
    region_scores,
    top_mean,
)
from ccvae_eval.statistics.resampling import ResampleWeights

QUANTUM = 1 / 255
"""What counts as a change for an encoder without noise: one step of an 8-bit image."""

FEWEST_STEPS = 3

UNCHANGED = "nothing changed in any image"

NOISE_ALONE = "the posterior's noise alone"
DISORDER = "the path's points in random order"
ONE_JUMP = "one jump"


@dataclass(frozen=True, slots=True)
class Locality:
    r"""How much of the change that a characteristic's columns make lies where the characteristic lives.

    A characteristic's columns are moved along a path from one class to another, K points, all other columns fixed;
    D(p) is the deviation of pixel p over the K decoded images, averaged over the channels. With the region A of the
    characteristic in the image, a its share of the area:

    .. math:: inside = \frac{\sum_{p \in A} D_p}{\sum_p D_p}, \qquad focus = (inside - a) / (1 - a)

    ``focus`` is 1 if all change is inside, 0 if the change is the same everywhere, negative if it avoids the region.
    It is the mean over images of the image's own focus, so that an image that changes much does not outweigh the
    others and two models can be compared image by image; the sums are in the evidence (``inside/NAME/change`` and
    the like). ``ap`` is the average precision of D as a finder of the region, ``inside_energy`` is ``inside`` of D
    squared; ``concentration`` = 1 - the share of the pixels that carry the change, and needs no region.

    An image is "unchanged" if its ``magnitude`` (mean over the 1 % most changed pixels of |last - first|) does not
    exceed its floor: the same between two decodings that differ only in the characteristic's columns, both drawn from
    q(z_c|x) (1/255 where the posterior has no scale). Unchanged images enter ``changed``, ``magnitude`` and
    the judge's values and are left out of all others. A region that is empty or covers more than .6 of the image
    makes the region's values undefined for that image.

    With the judge: ``response`` = mean total variation between the judged probabilities of each label at both ends;
    ``selectivity`` = the characteristic's own share of the sum over labels; ``judged_monotone`` and
    ``judged_evenness`` = ``monotone`` and ``evenness`` of the probability of the class at the path's end.

    Range: 0 to 1; focus from -1.5 to 1.
    Direction: higher is better, but for descriptive values. Chance: 0 for focus, the region's share for inside and ap.
    Cost: ``steps`` + 2 images decoded for each image and characteristic, and the reconstruction if there is a judge.
    Pitfalls: D is spread by anything that blurs; regions of different characteristics overlap (glasses and brows); a
    block is walked along one line through its classes' means, ``columns="each"`` walks its columns one by one (the
    floor stays that of the whole block); with ``path="interpolation"`` all columns move, which is no question about a
    characteristic but the yardstick for its path scores.
    Reference: docs/metrics.md, section 2.

    Args:
        steps: points on the path.
        source: where the path's ends come from: the codes of each class, or p(z_c|y).
        columns: the whole block of a characteristic at once, or each of its columns alone.
        path: along the characteristic's columns, or between the codes of two images of different class.
        pairs: of a categorical label each image walks to one class drawn for it; all: strips of every pair of classes
            are drawn besides, from one image of each. The values stay as they are.
        most_changed: share of the pixels that magnitude looks at.
        largest_region: the largest share of the image that a region may cover.
        least_response: judged changes below this sum are no ground for a ratio.
    """

    name: ClassVar[str] = "locality"
    version: ClassVar[int] = 2
    headline: ClassVar[str] = "focus"
    default_sample: ClassVar[int] = 2000
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label"}
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "focus": ValueSpec(
            "share of the change inside the region, beyond the region's share of the area",
            "", True, (-1.5, 1.0), "the same change everywhere", dials=("smear", "stray"),
        ),
        "inside": ValueSpec(
            "share of the change inside the region", "share", True, (0.0, 1.0), "the same change everywhere",
            dials=("smear", "stray"),
        ),
        "ap": ValueSpec(
            "average precision of the change as a finder of the region", "", True, (0.0, 1.0),
            "the same change everywhere", dials=("stray",),
        ),
        "inside_energy": ValueSpec(
            "share of the squared change inside the region", "share", True, (0.0, 1.0), "the same change everywhere",
            dials=("smear",),
        ),
        "concentration": ValueSpec(
            "share of the pixels that do not carry the change; needs no region", "share", None, (0.0, 1.0),
            "the same change everywhere", dials=("smear",), reference="1 - a: an even change that fills the region",
        ),
        "selectivity": ValueSpec(
            "share of the judged change that is the characteristic's own", "share", True, (0.0, 1.0),
            "all labels change alike", True, ("leak",),
        ),
        "response": ValueSpec(
            "how much the judge's opinion of each label changes from end to end", "", None, (0.0, 1.0),
            "nothing changes", True,
        ),
        "changed": ValueSpec(
            "share of the images that change beyond their floor", "share", True, (0.0, 1.0), NOISE_ALONE,
            dials=("idle",),
        ),
        "magnitude": ValueSpec(
            "change of the most changed pixels from end to end", "intensity", None, (0.0, 1.0), NOISE_ALONE
        ),
        "floor": ValueSpec(
            "the same from the posterior's own noise", "intensity", None, (0.0, 1.0),
            no_chance="it is the chance level of magnitude",
        ),
        "area": ValueSpec(
            "share of the image that the region covers", "share", None, (0.0, 1.0),
            no_chance="it is the chance level of inside, and the model has no part in it",
        ),
        "monotone": ValueSpec(
            "way from end to end over the length of the path, pixel by pixel", "", True, (0.0, 1.0), DISORDER,
            dials=("wobble",),
        ),
        "evenness": ValueSpec(
            "mean step over largest step, in pixels: 1 even, 1/(K-1) one jump", "", True, (0.0, 1.0), ONE_JUMP,
            dials=("jump",),
        ),
        "straightness": ValueSpec(
            "way from end to end over the length of the path, in image space", "", None, (0, 1), DISORDER
        ),
        "judged_monotone": ValueSpec(
            "monotone, of the judged probability of the class at the path's end", "", True, (0.0, 1.0), DISORDER, True,
            ("wobble",),
        ),
        "judged_evenness": ValueSpec(
            "evenness, of the judged probability of the class at the path's end", "", True, (0.0, 1.0), ONE_JUMP, True,
            ("jump",),
        ),
        "path_share": ValueSpec(
            "share of codes inside the path", "share", None, (0.0, 1.0),
            no_chance="it says which codes the path covers, not how well",
        ),
    }  # fmt: skip

    steps: int = 11
    source: CodeSource = "codes"
    columns: Columns = "block"
    path: PathKind = "traversal"
    pairs: Literal["drawn", "all"] = "drawn"
    most_changed: float = 0.01
    largest_region: float = 0.6
    least_response: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < FEWEST_STEPS:
            raise UsageError(f"a path of {self.steps} points has no steps to compare", where="locality.steps")
        if self.pairs not in ("drawn", "all"):
            raise UsageError(f"pairs {self.pairs!r} is unknown", where="locality.pairs", hint='"drawn" or "all".')
        for name in ("most_changed", "largest_region"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"{getattr(self, name)} is no share of an image", where=f"locality.{name}")

    def needs(self, subject: Subject) -> Needs:
        ways, _ = traversal_paths(self, subject)
        if not subject.characteristics:
            raise UndefinedError("no label has columns of its own")
        wanted = {i: None for way in ways for i in (*way.points, *way.noise)}
        return Needs(tuple(wanted), reconstruction=subject.judge is not None, judge=True, regions=True)

    def start(self, subject: Subject) -> LocalityAccumulator:
        return LocalityAccumulator(self, subject)


class LocalityAccumulator:
    """The accumulator: for each way one row of numbers per image."""

    def __init__(self, metric: Locality, subject: Subject) -> None:
        self.metric, self.subject = metric, subject
        self.ways, self.reasons = traversal_paths(metric, subject)
        self.seen: list[dict[str, Floats]] = [{} for _ in self.ways]
        self.agreement = JudgeReliability(subject)
        self.pictures = MeanPictures()

    def update(self, batch: Decoded) -> None:
        self.agreement.update(batch)
        if self.ways and batch.characteristic == self.ways[0].characteristic:
            self.pictures.add("image", batch.chunk.images)
        for way, seen in zip(self.ways, self.seen, strict=True):
            if way.characteristic == batch.characteristic:
                found = self._scores(way, batch)
                for name, column in found.items():
                    seen.setdefault(name, np.full(len(self.subject), np.nan))[batch.chunk.rows] = column

    def _scores(self, way: TraversalPath, batch: Decoded) -> dict[str, Floats]:
        points = [batch.images[point] for point in way.points]
        change: NDArray[np.float32] = deviation_map(points).float().cpu().numpy()
        found = {"change": change.sum(1, dtype=np.float64), **path_scores(points)}
        found["concentration"] = 1 - changed_area(change.astype(np.float64))
        found["magnitude"] = self._most_changed(points[0], points[-1])
        found["floor"], found["noisy"] = np.full(len(change), QUANTUM), np.zeros(len(change))
        if way.noise:
            scale = batch.chunk.posterior.scale[:, list(self.subject.layout[way.characteristic])]
            found["noisy"] = (scale != 0).any(1).double().numpy()
            drawn = self._most_changed(*(batch.images[draw] for draw in way.noise))
            found["floor"] = np.where(found["noisy"] == 1, drawn, QUANTUM)
        if batch.region is not None:
            region = batch.region.flatten(1).numpy()
            found |= region_scores(change, region)
            self.pictures.add(f"region/{way.characteristic}", batch.region)
        found |= self._judged_scores(way, batch)
        self._keep_pictures(way, batch, points, change)
        return found

    def _most_changed(self, before: Images, after: Images) -> Floats:
        return top_mean(absolute_change(before, after).float().cpu().numpy(), self.metric.most_changed)

    def _judged_scores(self, way: TraversalPath, batch: Decoded) -> dict[str, Floats]:
        told = [batch.judged(point) for point in way.points] if self.subject.judge is not None else []
        if not told:
            return {}
        judged = [name for name in self.subject.schema.names if name in told[0]]
        found = {f"response/{name}": judged_shift(told[0][name], told[-1][name]) for name in judged}
        if way.characteristic in judged:
            end = way.end[batch.chunk.rows]
            course = np.stack([probability_of(at[way.characteristic], end) for at in told], 1)
            steps = np.abs(np.diff(course, axis=1))
            enough = steps.sum(1) >= self.metric.least_response
            for name, score in course_scores(np.abs(course[:, -1] - course[:, 0]), steps).items():
                found[f"judged_{name}"] = np.where(enough, score, np.nan)
        return found

    def _keep_pictures(
        self, way: TraversalPath, batch: Decoded, points: Sequence[Images], change: NDArray[np.float32]
    ) -> None:
        height, width = points[0].shape[2:]
        self.pictures.add(f"change/{way.label}", torch.from_numpy(change.reshape(-1, height, width)))
        wanted = PICTURED - batch.chunk.rows.start
        if wanted > 0:
            self.pictures.keep(f"strip/{way.label}", torch.stack([as_bytes(x[:wanted]) for x in points], 1))

    def compute(self, weights: ResampleWeights) -> Measurement:
        tally = ResultTable(self.metric, self.subject, weights)
        for name, reason in self.reasons.items():
            tally.undefined(name, reason)
        for way, seen in zip(self.ways, self.seen, strict=True):
            changed = way.applies & (seen["magnitude"] > seen["floor"])
            _count_changes(tally, way, seen, changed, 1 / (self.metric.steps - 1))
            self._count_region(tally, way, seen, changed)
            self._count_judged(tally, way, seen)
        notes = self.agreement.notes()
        if self.metric.path == "interpolation":
            notes.append("all columns move between the codes of two images: a yardstick, not a characteristic's own")
        return tally.measurement(notes, {**self.pictures.arrays(), **self._grid(), **self._pairs()})

    def _grid(self) -> dict[str, NDArray[np.generic]]:
        """A two-dimensional traversal of the first two binary characteristics that have a path."""
        walked = dict.fromkeys(way.characteristic for way in self.ways)
        binary = [name for name in walked if self.subject.schema[name].kind == "binary"][:2]
        if self.metric.path != "traversal" or len(binary) < 2:
            return {}
        return {f"grid/{'|'.join(binary)}": plane(self.subject, binary[0], binary[1], self.metric.source)}

    def _pairs(self) -> dict[str, NDArray[np.generic]]:
        """Strips between all classes of the categorical labels that have a path, if they are asked for."""
        if self.metric.pairs != "all" or self.metric.path != "traversal":
            return {}
        walked = dict.fromkeys(way.characteristic for way in self.ways)
        many = [name for name in walked if self.subject.schema[name].kind == "categorical"]
        return {
            f"pairs/{name}/{which}": strip
            for name in many
            for which, strip in pair_strips(self.subject, name, self.metric.source, self.metric.steps).items()
        }

    def _count_region(self, tally: ResultTable, way: TraversalPath, seen: Mapping[str, Floats], changed: Bools) -> None:
        name, at = way.characteristic, way.at
        if "area" not in seen:
            for value in ("focus", "inside", "ap", "inside_energy", "area"):
                tally.add(value, name, "has no region", at)
            concentration = Mean(among(changed, seen["concentration"]))
            tally.add("concentration", name, concentration, at, chance=0.0, why=UNCHANGED)
            return
        area = seen["area"]
        has_region = (area > 0) & (area <= self.metric.largest_region)
        used = changed & has_region
        why = UNCHANGED if has_region.any() else "the region is empty or too large in every image"
        blind = mean_of(area, used)
        for value, chance in {"focus": 0.0, "inside": blind, "ap": blind, "inside_energy": blind}.items():
            tally.add(value, name, Mean(among(used, seen[value])), at, chance=chance, why=why)
        tally.add("area", name, Mean(among(used, area)), at, why=why)
        tally.add(
            "concentration", name, Mean(among(changed, seen["concentration"])), at,
            chance=0.0, reference=None if blind is None else 1 - blind, why=UNCHANGED,
        )  # fmt: skip

    def _count_judged(self, tally: ResultTable, way: TraversalPath, seen: Mapping[str, Floats]) -> None:
        name, at = way.characteristic, way.at
        if why := self.agreement.why_not(name):
            for value in ("selectivity", "response", "judged_monotone", "judged_evenness"):
                tally.add(value, name, why, at)
            return
        responses = {j: among(way.applies, seen[f"response/{j}"]) for j in self.agreement.trusted}
        total = np.sum(list(responses.values()), axis=0)
        if np.nanmean(total) < self.metric.least_response:
            tally.add("selectivity", name, f"the judged changes sum to less than {self.metric.least_response:g}", at)
        else:
            own = RatioOfSums(responses[name], total)
            tally.add("selectivity", name, own, at, chance=1 / len(responses))
        tally.add("response", name, Mean(responses[name]), at, chance=0.0)
        for j, response in responses.items():
            tally.add("response", name, Mean(response), {**at, "judged": j}, mean_at=None, chance=0.0)
        for value in ("judged_monotone", "judged_evenness"):
            course = Mean(among(way.applies, seen[value]))
            why, chance = "the judged probability does not change", 1 / (self.metric.steps - 1)
            tally.add(value, name, course, at, chance=chance, why=why)


def _count_changes(
    tally: ResultTable, way: TraversalPath, seen: Mapping[str, Floats], changed: Bools, blind: float
) -> None:
    """What needs neither a region nor the judge; the sums behind ``inside`` are kept as they are.

    Args:
        blind: what a path with its points in random order scores (as many steps as the way is long), and one that
            jumps once.
    """
    name, at = way.characteristic, way.at
    # a draw exceeds another one of the same law half of the time; without noise nothing exceeds the quantum
    tally.add(
        "changed", name, Proportion(among(way.applies, changed)), at, chance=mean_of(seen["noisy"] / 2, way.applies)
    )
    magnitude, floor = (among(way.applies, seen[value]) for value in ("magnitude", "floor"))
    tally.add("magnitude", name, Mean(magnitude), at, chance=mean_of(floor, way.applies))
    tally.add("floor", name, Mean(floor), at)
    for value in ("monotone", "evenness", "straightness"):
        tally.add(value, name, Mean(among(changed, seen[value])), at, chance=blind, why=UNCHANGED)
    no_path = "an interpolation has no path of its own"
    tally.add("path_share", name, Proportion(way.inside), at, why=no_path)
    tally.evidence[f"change/{way.label}"] = among(changed, seen["change"])
