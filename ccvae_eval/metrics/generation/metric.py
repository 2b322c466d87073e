"""Generation: do images drawn from the prior look like real ones, and show what was asked for?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ccvae_eval.core.errors import UndefinedError, UsageError
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.results import Estimate, Measurement, ValueSpec
from ccvae_eval.core.types import Floats, Ids, Images
from ccvae_eval.evaluation.interventions import why_not
from ccvae_eval.evaluation.judge_scores import JudgeReliability
from ccvae_eval.evaluation.metric import LAWS, Decoded, Needs
from ccvae_eval.evaluation.pictures import PICTURED, MeanPictures, as_bytes
from ccvae_eval.evaluation.result_table import At, Mean, Proportion, ResultTable, mean_of
from ccvae_eval.evaluation.subject import Chunk, Subject, read_images
from ccvae_eval.judge import Judge
from ccvae_eval.metrics.shared.features import extractor_named, require_features
from ccvae_eval.metrics.shared.judged_changes import Assignment, JudgedChanges, assignment_of, text_of
from ccvae_eval.metrics.shared.likelihood import Generate
from ccvae_eval.model.fixed_batches import CHUNK
from ccvae_eval.model.interface import HasConditionalPrior
from ccvae_eval.statistics.distances import frechet_distance, kernel_and_manifolds
from ccvae_eval.statistics.intervals import Resampled, mean_over
from ccvae_eval.statistics.resampling import ResampleWeights

POOLED = 8
"""Squares on a side that an image is averaged over, where pixels are the features."""

JUDGED, PIXELS = "judge", "pixels"
EVERYONE = Generate()


def _of_features(
    summary: str, unit: str, better: bool, ends: tuple[float | None, float | None], dials: tuple[str, ...]
) -> ValueSpec:
    """What all values that compare features have in common."""
    chance, reference = "pixels dealt out anew among the images", "as many other real images"
    return ValueSpec(summary, unit, better, ends, chance, dials=dials, reference=reference)


NO_INTERVAL = "no interval: a resample of images holds copies, and copies are no sample"


@dataclass(frozen=True, slots=True)
class Generation:
    r"""How images drawn from the model's prior compare with real ones, and whether they show the labels asked for.

    One image is drawn for each real one: z_s from N(0, I), y from p(y) and z_c from p(z_c|y); a model without p(z_c|y)
    draws all of z from N(0, I). ``obeyed`` = share of images in which the judge sees the class that was asked for,
    class by class (at ``class=``), all other labels drawn; with ``assign="Male=1,Heavy_Makeup=0"`` of each assigned
    label and of all together (at ``do=``). Its reference is the share that the judge sees in real images that have
    the class.

    Formula: on features f of N real and N drawn images, ``frechet`` = |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) of
    their means and covariances; ``kernel`` = unbiased squared MMD with the kernel (f.f'/F + 1)^3; and with balls
    around each image that reach to the k-th nearest of its own kind: ``prdc_precision`` = share of drawn images in a
    real one's ball, ``prdc_recall`` = share of real images in a drawn one's ball, ``prdc_density`` = balls of real
    images that a drawn one lies in, over k, ``prdc_coverage`` = share of real images whose ball holds a drawn one.
    Features are the judge's last layer, averaged over places, or pixels averaged over 8 x 8 squares; ``features=`` and
    ``N=`` say so. They are not Inception's: none of these is an FID, and none compares between judges.

    Range: 0 to 1; frechet and prdc_density 0 and up; kernel has no bounds.
    Direction: higher is better for obeyed and prdc, lower for frechet and kernel.
    Chance: for obeyed, images drawn without the request.
    References: for distances and prdc, as many other real images in the place of the drawn ones; their chance: the
    first ``chance_images`` real images with each pixel dealt out anew among 32 of them.
    Cost: 1 image decoded for each image, and on the first ``asked_images`` one for each class of each label.
    Pitfalls: the judge was trained on these labels and overlooks much else. frechet is biased upwards for small N.
    Intervals of prdc are conditional on the balls.
    Reference: docs/metrics.md, section 7; Heusel et al. 2017; Binkowski et al. 2018; Kynkaanniemi et al. 2019; Naeem
    et al. 2020.

    Args:
        assign: labels to be set together, as LABEL=CLASS,LABEL=CLASS.
        features: of the judge, of pixels, of edges, of a registered extractor of yours, or auto: the judge's where
            there is one.
        neighbour: k.
        asked_images: images for each class that is asked for.
        neighbour_images: images, real and drawn, whose balls are looked at, and of the kernel distance.
        chance_images: on how many images, from the first, the chance levels of distances and prdc are measured.
    """

    name: ClassVar[str] = "generation"
    version: ClassVar[int] = 3
    headline: ClassVar[str] = "obeyed"
    default_sample: ClassVar[int] = 10_000
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label", "rescaled latent"}
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "obeyed": ValueSpec(
            "share of drawn images in which the judge sees what was asked for", "share", True, (0.0, 1.0),
            "drawn without asking", True, ("idle",), reference="real images of the class",
        ),
        "frechet": _of_features(
            "Fréchet distance of drawn and real images' features", "", False, (0.0, None),
            dials=("fade",),
        ),
        "kernel": _of_features(
            "unbiased kernel distance of drawn and real images' features", "", False, (None, None),
            dials=("fade",),
        ),
        "prdc_precision": _of_features(
            "share of drawn images that lie among real ones", "share", True, (0.0, 1.0),
            dials=("dim",),
        ),
        "prdc_recall": _of_features(
            "share of real images that lie among drawn ones", "share", True, (0.0, 1.0),
            dials=("fade",),
        ),
        "prdc_density": _of_features(
            "how densely real images surround a drawn one", "", True, (0.0, None),
            dials=("dim",),
        ),
        "prdc_coverage": _of_features(
            "share of real images with a drawn one near", "share", True, (0.0, 1.0),
            dials=("fade",),
        ),
    }  # fmt: skip

    assign: str = ""
    features: str = "auto"
    neighbour: int = 5
    asked_images: int = 512
    neighbour_images: int = 2000
    chance_images: int = 256

    def __post_init__(self) -> None:
        for name, least in (("neighbour", 1), ("asked_images", 0), ("neighbour_images", 2), ("chance_images", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{getattr(self, name)} is less than {least}", where=f"generation.{name}")
        require_features(self.features, ("auto", JUDGED, PIXELS), "generation.features")

    def needs(self, subject: Subject) -> Needs:
        """Images drawn from the prior.

        Raises:
            UndefinedError: if there is no p(z_c|y) to draw from, because a label is continuous.
        """
        if why := why_not(EVERYONE, subject):
            raise UndefinedError(why)
        asked = self.asked_images if subject.judge is not None else CHUNK  # for pictures
        own = -(-len(_requests(subject)) * min(asked, len(subject)) // max(len(subject), 1))
        conditional = isinstance(subject.model, HasConditionalPrior)
        assigned = (Generate(assignment_of(self.assign, subject)),) if self.assign else ()
        return Needs(
            (EVERYONE, *assigned), reconstruction=conditional, judge=True, characteristics=conditional, own=own
        )

    def start(self, subject: Subject) -> GenerationAccumulator:
        return GenerationAccumulator(self, subject)


def _requests(subject: Subject) -> list[tuple[str, int]]:
    """Every class of every label that the model can be asked for."""
    if not isinstance(subject.model, HasConditionalPrior):
        return []
    return [(name, k) for name in subject.characteristics for k in range(subject.schema[name].cardinality)]


class GenerationAccumulator:
    """The accumulator: features of real and drawn images, and what the judge sees in them."""

    def __init__(self, metric: Generation, subject: Subject) -> None:
        self.metric, self.subject = metric, subject
        self.requests = _requests(subject)
        self.assignment: Assignment = assignment_of(metric.assign, subject) if metric.assign else ()
        judged = isinstance(subject.judge, Judge)
        self.kind = metric.features if metric.features != "auto" else (JUDGED if judged else PIXELS)
        self.no_features = "needs a judge" if self.kind == JUDGED and not judged else ""
        self.extractor = None if self.kind in (JUDGED, PIXELS) else extractor_named(self.kind, subject)
        self.features: dict[str, dict[int, Floats]] = {"real": {}, "drawn": {}, "shuffled": {}}
        self.seen = JudgedChanges(len(subject))
        self.agreement = JudgeReliability(subject)
        self.pictures = MeanPictures()

    def update(self, batch: Decoded) -> None:
        start, chunk = batch.chunk.rows.start, batch.chunk
        if batch.reconstruction is not None:
            self.agreement.update(batch)
        drawn = batch.images[EVERYONE]
        if not self.no_features:
            for which, images in (("real", chunk.images), ("drawn", drawn)):
                self.features[which][start] = self._features(images)
            if start < self.metric.chance_images:
                self.features["shuffled"][start] = self._features(self._shuffled(chunk))
        asked: dict[tuple[str, int], Images] = {}
        if self.subject.judge is not None:
            self._keep_opinions("drawn", chunk, drawn)
            self._keep_opinions("real", chunk, chunk.images)
            if self.assignment:
                self._keep_opinions("assigned", chunk, batch.images[Generate(self.assignment)])
            if start < self.metric.asked_images:
                asked = {request: self._asked(request, chunk) for request in self.requests}
                for (name, k), images in asked.items():
                    self._keep_opinions(f"{name}/{k}", chunk, images)
        self._keep_pictures(chunk, drawn, asked)

    def _asked(self, request: tuple[str, int], chunk: Chunk) -> Images:
        """Images drawn with one label set, the others as they were drawn."""
        return self.subject.decode(Generate((request,)).codes(self.subject, chunk))

    def _features(self, images: Images) -> Floats:
        if self.extractor is not None:
            with torch.no_grad():
                found: Tensor = self.extractor.features(images)
        elif self.kind == JUDGED:
            judge = self.subject.judge
            assert isinstance(judge, Judge)
            found = judge.features(images)
        else:
            # channel by channel: pixel by pixel, as decoders give them, it takes twice as long
            found = functional.adaptive_avg_pool2d(images.contiguous().double(), POOLED).flatten(1)
        return np.asarray(found.double().cpu().numpy())

    def _shuffled(self, chunk: Chunk) -> Images:
        """The chunk's images with each pixel dealt out anew among them: no pixel knows of another."""
        count, _, height, width = chunk.images.shape
        pixels = chunk.images.permute(0, 2, 3, 1).flatten(0, 2)
        stream = numpy_stream(self.subject.seed, "generation/shuffled", int(chunk.ids[0]))
        # each place is turned round by a number of its own: cheaper than a permutation, and no less independent
        turn = torch.from_numpy(stream.integers(count, size=height * width))
        order = (torch.arange(count)[:, None] + turn) % count * len(turn) + torch.arange(len(turn))
        shuffled = pixels.index_select(0, order.flatten().to(pixels.device))
        return shuffled.reshape(count, height, width, -1).permute(0, 3, 1, 2)

    def _keep_opinions(self, name: str, chunk: Chunk, images: Images) -> None:
        """The class that the judge sees of each label."""
        assert self.subject.judge is not None
        told = self.subject.judge.log_probabilities(images)
        self.seen.put(name, chunk.rows, {j: value.argmax(1).double().cpu().numpy() for j, value in told.items()})

    def _keep_pictures(self, chunk: Chunk, drawn: Images, asked: Mapping[tuple[str, int], Images]) -> None:
        wanted = PICTURED - chunk.rows.start
        if wanted <= 0:
            return
        self.pictures.keep("drawn", as_bytes(drawn[:wanted])[None])
        for name, k in self.requests:
            images = asked[name, k] if asked else self._asked((name, k), chunk)
            label = f"asked/{name}/{self.subject.schema[name].class_name(k)}"
            self.pictures.keep(label, as_bytes(images[:wanted])[None])

    def compute(self, weights: ResampleWeights) -> Measurement:
        tally = ResultTable(self.metric, self.subject, weights)
        for name in self.subject.characteristics:
            self._enter_obeyed(tally, name)
        if self.assignment:
            self._enter_assigned(tally)
        elif not self.requests:
            tally.add("obeyed", None, f"{type(self.subject.model).__name__} has no p(z_c|y)")
        self._enter_distances(tally)
        return tally.measurement(self.agreement.notes(), self.pictures.arrays())

    def _enter_obeyed(self, tally: ResultTable, name: str) -> None:
        """Each class of one label that was asked for, and their mean."""
        asked = [k for label, k in self.requests if label == name]
        why = self.agreement.why_not(name)
        if why or not asked:
            tally.add("obeyed", name, why or "cannot be asked for")
            return
        truth = self.subject.classes(name).numpy()
        parts, chances, references = [], [], []
        for k in asked:
            at: At = {"class": self.subject.schema[name].class_name(k)}
            chance = _share(self.seen.get("drawn", name), k)
            reference = _share(np.where(truth == k, self.seen.get("real", name), np.nan), k)
            shown = Proportion(_is(self.seen.get(f"{name}/{k}", name), k))
            parts.append(
                tally.add("obeyed", name, shown, at, mean_at=None, chance=chance, reference=reference, why="no image")
            )
            chances.append(chance)
            references.append(reference)
        mean = mean_over(parts, tally.weights.level)
        tally.add("obeyed", name, mean, chance=_mean(chances), reference=_mean(references))

    def _enter_assigned(self, tally: ResultTable) -> None:
        """The labels of the assignment, each and all together."""
        at: At = {"do": text_of(self.assignment, self.subject)}
        real = np.ones(len(self.subject), bool)
        for name, k in self.assignment:
            real &= self.subject.classes(name).numpy() == k
        columns: dict[str, list[Floats]] = {"assigned": [], "drawn": [], "real": []}
        for name, k in self.assignment:
            for which, found in columns.items():
                found.append(_is(self.seen.get(which, name), k))
            shown, drawn, true = (found[-1] for found in columns.values())
            why = self.agreement.why_not(name)
            tally.add(
                "obeyed", name, why or Proportion(shown), at, mean_at=None, chance=_mean_of(drawn),
                reference=_mean_of(np.where(real, true, np.nan)),
            )  # fmt: skip
        why = next((f"{name}: {why}" for name, _ in self.assignment if (why := self.agreement.why_not(name))), "")
        shown, drawn, true = (np.min(found, axis=0) for found in columns.values())
        tally.add(
            "obeyed", None, why or Proportion(shown), at, chance=_mean_of(drawn),
            reference=_mean_of(np.where(real, true, np.nan)),
        )  # fmt: skip

    def _enter_distances(self, tally: ResultTable) -> None:
        """The distances of the drawn images, and those of as many real ones as their reference."""
        names = ("frechet", "kernel", "prdc_precision", "prdc_recall", "prdc_density", "prdc_coverage")
        at: At = {"features": self.kind, "N": len(self.subject)}
        few = f"{len(self.subject)} images, more than {self.metric.neighbour} are needed"
        if self.no_features or len(self.subject) <= max(self.metric.neighbour, 1):
            for name in names:
                tally.add(name, None, self.no_features or few, at)
            return
        real, drawn, shuffled = (
            np.concatenate([part[start] for start in sorted(part)] or [np.zeros((0, 0))])
            for part in self.features.values()
        )
        others, count = self._other_images(), min(len(real), self.metric.neighbour_images)
        usual = shuffled if len(shuffled) > max(self.metric.neighbour, 1) else None
        k = self.metric.neighbour
        distances, balls = _compared(real, drawn, count, k, tally.weights.level)
        chance, known = (_usual(real, images, count, k) for images in (usual, others))
        at_n: At = {**at, "N": count}
        for name, estimate in distances.items():
            note = NO_INTERVAL if name == "frechet" else ""
            value = Resampled(estimate, np.full(tally.weights.draws, np.nan), note)
            size = at if name == "frechet" else at_n
            tally.add(name, None, value, size, chance=chance.get(name), reference=known.get(name))
        for name, column in balls.items():
            spread = np.full(len(self.subject), np.nan)
            spread[:count] = column
            what = Mean(spread) if name == "prdc_density" else Proportion(spread)
            tally.add(name, None, what, at_n, chance=chance.get(name), reference=known.get(name))

    def _other_images(self) -> Floats | None:
        """Features of as many other real images, from the split train; None if there are not enough."""
        data, subject = self.subject.data, self.subject
        ids: Ids = np.setdiff1d(data.split("train"), subject.ids)
        if len(ids) < len(subject):
            return None
        chosen = numpy_stream(subject.seed, "generation/others").choice(ids, len(subject), replace=False)
        chosen = np.sort(chosen)
        blocks = [chosen[first : first + CHUNK] for first in range(0, len(chosen), CHUNK)]
        return np.concatenate([self._features(read_images(data, block).to(subject.device)) for block in blocks])


def _compared(
    real: Floats, drawn: Floats, count: int, k: int, level: float = 0.95
) -> tuple[dict[str, Estimate], dict[str, Floats]]:
    """Both distances, and what each image says of the balls; what takes every pair, of the first so many."""
    kernel, found = kernel_and_manifolds(real[:count], drawn[:count], k, level)
    balls = {
        "prdc_precision": found.precision.astype(np.float64),
        "prdc_recall": found.recall.astype(np.float64),
        "prdc_density": found.density,
        "prdc_coverage": found.coverage.astype(np.float64),
    }
    return {"frechet": Estimate(frechet_distance(real, drawn), n=len(drawn)), "kernel": kernel}, balls


def _usual(real: Floats, images: Floats | None, count: int, k: int) -> dict[str, float]:
    """What other images score in the place of the drawn ones, as many real ones beside them."""
    if images is None:
        return {}
    distances, balls = _compared(real[: len(images)], images, count, k)
    found = {name: estimate.value for name, estimate in distances.items()}
    return found | {name: float(column.mean()) for name, column in balls.items()}


def _is(seen: Floats, k: int) -> Floats:
    """1 where the judge sees class k, 0 where another, NaN where it was not asked."""
    return np.where(np.isnan(seen), np.nan, seen == k)


def _share(seen: Floats, k: int) -> float | None:
    return _mean_of(_is(seen, k))


def _mean_of(values: Floats) -> float | None:
    return mean_of(values, ~np.isnan(values))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
