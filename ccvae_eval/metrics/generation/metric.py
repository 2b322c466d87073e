"""Generation: similarity of images sampled from the prior to real images, and agreement with the requested labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ccvae_eval.core.errors import UndefinedError
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.results import Estimate, Measurement, ValueSpec
from ccvae_eval.core.types import Floats, Ids, Images
from ccvae_eval.evaluation.interventions import why_not
from ccvae_eval.evaluation.judge_scores import JudgeReliability
from ccvae_eval.evaluation.metric import LAWS, Decoded, Needs, require_at_least
from ccvae_eval.evaluation.pictures import PICTURED, MeanPictures, as_bytes
from ccvae_eval.evaluation.result_table import At, ColumnStore, Mean, Proportion, ResultTable, among, mean_of
from ccvae_eval.evaluation.subject import Chunk, Subject, read_images
from ccvae_eval.judge import Judge
from ccvae_eval.metrics.shared.features import extractor_named, require_features
from ccvae_eval.metrics.shared.judged_changes import Assignment, assignment_of, assignment_text
from ccvae_eval.metrics.shared.likelihood import Generate
from ccvae_eval.model.fixed_batches import FIXED_BATCH
from ccvae_eval.model.interface import HasConditionalPrior
from ccvae_eval.statistics.distances import frechet_distance, kernel_and_manifolds
from ccvae_eval.statistics.intervals import Resampled, mean_over
from ccvae_eval.statistics.resampling import ResampleWeights

POOLED = 8
"""Side of the grid to which images are average-pooled where pixels are the features."""

JUDGED, PIXELS = "judge", "pixels"
UNCONDITIONAL = Generate()


def _feature_spec(
    summary: str, unit: str, better: bool, ends: tuple[float | None, float | None], dials: tuple[str, ...]
) -> ValueSpec:
    """The spec of a value that compares features."""
    chance, reference = "pixels permuted among the images", "as many other real images"
    return ValueSpec(summary, unit, better, ends, chance, dials=dials, reference=reference)


NO_INTERVAL = "no interval: a bootstrap resample contains copies, which bias the covariance"


@dataclass(frozen=True, slots=True)
class Generation:
    r"""Distance between images sampled from the model's prior and real images, and agreement with requested labels.

    One image is sampled for each real one: z_s from N(0, I), y from p(y) and z_c from p(z_c|y); a model without
    p(z_c|y) samples all of z from N(0, I). ``obeyed`` = share of images that the judge classifies as the requested
    class, for each class (at ``class=``) with all other labels sampled; with ``assign="Male=1,Heavy_Makeup=0"`` for
    each assigned label and for all together (at ``do=``). Its reference is the judged share in real images of the
    class.

    Formula: on features f of N real and N sampled images, ``frechet`` = |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) of
    their means and covariances; ``kernel`` = unbiased squared MMD with the kernel (f.f'/F + 1)^3. With a ball around
    each image that reaches to its k-th nearest neighbour of the same set, ``prdc_precision`` = share of sampled images
    inside a real image's ball, ``prdc_recall`` = share of real images inside a sampled image's ball, ``prdc_density`` =
    mean number of real images' balls around a sampled image, over k, ``prdc_coverage`` = share of real images whose
    ball contains a sampled image. Features are the judge's last layer, averaged over positions, or pixels pooled to
    8 x 8; ``features=`` and ``N=`` name them. They are not Inception features: the values are not FID and are not
    comparable between judges.

    Range: 0 to 1; frechet and prdc_density 0 and up; kernel has no bounds.
    Direction: higher is better for obeyed and prdc, lower for frechet and kernel.
    Chance: for obeyed, images sampled without the request; for distances and prdc, the first ``chance_images`` real
    images with each pixel permuted among 32 of them.
    References: for distances and prdc, as many other real images in place of the sampled ones.
    Cost: 1 image decoded for each image, and on the first ``asked_images`` one for each class of each label.
    Pitfalls: the judge was trained on these labels and is insensitive to much else. frechet is biased upwards for
    small N. Confidence intervals of prdc are conditional on the balls.
    Reference: docs/metrics.md, section 7; Heusel et al. 2017; Binkowski et al. 2018; Kynkaanniemi et al. 2019; Naeem
    et al. 2020.

    Args:
        assign: labels to set together, as LABEL=CLASS,LABEL=CLASS.
        features: judge, pixels, edges, a registered extractor, or auto: the judge's if there is a judge, else pixels.
        neighbour: k, the neighbour that sets the radius of a ball.
        asked_images: images for each requested class.
        neighbour_images: real and sampled images for prdc and the kernel distance.
        chance_images: images for the chance levels of distances and prdc, from the first.
    """

    name: ClassVar[str] = "generation"
    version: ClassVar[int] = 3
    headline: ClassVar[str] = "obeyed"
    default_sample: ClassVar[int] = 10_000
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label", "rescaled latent"}
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "obeyed": ValueSpec(
            "share of sampled images that the judge classifies as requested", "share", True, (0.0, 1.0),
            "sampled without the request", True, ("idle",), reference="real images of the class",
        ),
        "frechet": _feature_spec(
            "Fréchet distance between the features of sampled and real images", "", False, (0.0, None), dials=("fade",),
        ),
        "kernel": _feature_spec(
            "unbiased kernel distance (MMD^2) between the features of sampled and real images", "", False, (None, None),
            dials=("fade",),
        ),
        "prdc_precision": _feature_spec(
            "share of sampled images inside the neighbourhood of a real one", "share", True, (0.0, 1.0), dials=("dim",),
        ),
        "prdc_recall": _feature_spec(
            "share of real images inside the neighbourhood of a sampled one", "share", True, (0.0, 1.0),
            dials=("fade",),
        ),
        "prdc_density": _feature_spec(
            "mean number of real neighbourhoods around a sampled image, over k", "", True, (0.0, None), dials=("dim",),
        ),
        "prdc_coverage": _feature_spec(
            "share of real images with a sampled one inside their neighbourhood", "share", True, (0.0, 1.0),
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
        require_at_least(self, neighbour=1, asked_images=0, neighbour_images=2, chance_images=0)
        require_features(self.features, ("auto", JUDGED, PIXELS), "generation.features")

    def needs(self, subject: Subject) -> Needs:
        """Images sampled from the prior, and from the prior given the assignment.

        Raises:
            UndefinedError: p(z_c|y) cannot be sampled, because a label is continuous.
        """
        if why := why_not(UNCONDITIONAL, subject):
            raise UndefinedError(why)
        requested = self.asked_images if subject.judge_source.possible else FIXED_BATCH  # for pictures
        own = -(-len(_requests(subject)) * min(requested, len(subject)) // max(len(subject), 1))
        conditional = isinstance(subject.model, HasConditionalPrior)
        assigned = (Generate(assignment_of(self.assign, subject)),) if self.assign else ()
        wanted = (UNCONDITIONAL, *assigned)
        return Needs(wanted, reconstruction=conditional, judge=True, characteristics=conditional, own=own)

    def start(self, subject: Subject) -> GenerationAccumulator:
        return GenerationAccumulator(self, subject)


def _requests(subject: Subject) -> list[tuple[str, int]]:
    """Label and class of each image that the model can generate on request."""
    if not isinstance(subject.model, HasConditionalPrior):
        return []
    return [(name, k) for name in subject.characteristics for k in range(subject.schema[name].cardinality)]


class GenerationAccumulator:
    """Features of real and sampled images, and the class of each label that the judge predicts for them."""

    def __init__(self, metric: Generation, subject: Subject) -> None:
        self.metric, self.subject = metric, subject
        self.requests = _requests(subject)
        self.assignment: Assignment = assignment_of(metric.assign, subject) if metric.assign else ()
        judged = isinstance(subject.judge, Judge)
        self.kind = metric.features if metric.features != "auto" else (JUDGED if judged else PIXELS)
        self.no_features = "needs a judge" if self.kind == JUDGED and not judged else ""
        self.extractor = None if self.kind in (JUDGED, PIXELS) else extractor_named(self.kind, subject)
        self.features: dict[str, dict[int, Floats]] = {"real": {}, "drawn": {}, "shuffled": {}}
        self.judged = ColumnStore(len(subject))
        self.reliability = JudgeReliability(subject)
        self.pictures = MeanPictures()

    def update(self, batch: Decoded) -> None:
        start, chunk = batch.chunk.rows.start, batch.chunk
        if batch.reconstruction is not None:
            self.reliability.update(batch)
        drawn = batch.images[UNCONDITIONAL]
        if not self.no_features:
            self.features["real"][start], self.features["drawn"][start] = map(self._features, (chunk.images, drawn))
            if start < self.metric.chance_images:
                self.features["shuffled"][start] = self._features(self._shuffled(chunk))
        requested: dict[tuple[str, int], Images] = {}
        if self.subject.judge is not None:
            self._judge("drawn", chunk, drawn)
            self._judge("real", chunk, chunk.images)
            if self.assignment:
                self._judge("assigned", chunk, batch.images[Generate(self.assignment)])
            if start < self.metric.asked_images:
                requested = {request: self._requested(request, chunk) for request in self.requests}
                for (name, k), images in requested.items():
                    self._judge(f"{name}/{k}", chunk, images)
        self._keep_pictures(chunk, drawn, requested)

    def _requested(self, request: tuple[str, int], chunk: Chunk) -> Images:
        """Images sampled with one label set and the same noise for everything else."""
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
            # pooling is slower on a channels-last layout
            found = functional.adaptive_avg_pool2d(images.contiguous().double(), POOLED).flatten(1)
        return np.asarray(found.double().cpu().numpy())

    def _shuffled(self, chunk: Chunk) -> Images:
        """The chunk's images with each pixel permuted among them, independently of all other pixels."""
        count, _, height, width = chunk.images.shape
        pixels = chunk.images.permute(0, 2, 3, 1).flatten(0, 2)
        stream = numpy_stream(self.subject.seed, "generation/shuffled", int(chunk.ids[0]))
        # a random cyclic shift per pixel is cheaper than a permutation and as independent
        shift = torch.from_numpy(stream.integers(count, size=height * width))
        order = (torch.arange(count)[:, None] + shift) % count * len(shift) + torch.arange(len(shift))
        shuffled = pixels.index_select(0, order.flatten().to(pixels.device))
        return shuffled.reshape(count, height, width, -1).permute(0, 3, 1, 2)

    def _judge(self, name: str, chunk: Chunk, images: Images) -> None:
        """Store the class that the judge predicts for each label."""
        assert self.subject.judge is not None
        judged = self.subject.judge.log_probabilities(images)
        self.judged.put(name, chunk.rows, {j: value.argmax(1).double().cpu().numpy() for j, value in judged.items()})

    def _keep_pictures(self, chunk: Chunk, drawn: Images, requested: Mapping[tuple[str, int], Images]) -> None:
        wanted = PICTURED - chunk.rows.start
        if wanted <= 0:
            return
        self.pictures.keep("drawn", as_bytes(drawn[:wanted])[None])
        for name, k in self.requests:
            images = requested[name, k] if requested else self._requested((name, k), chunk)
            label = f"asked/{name}/{self.subject.schema[name].class_name(k)}"
            self.pictures.keep(label, as_bytes(images[:wanted])[None])

    def compute(self, weights: ResampleWeights) -> Measurement:
        table = ResultTable(self.metric, self.subject, weights)
        for name in self.subject.characteristics:
            self._add_obeyed(table, name)
        if self.assignment:
            self._add_assigned(table)
        elif not self.requests:
            table.add("obeyed", None, f"{type(self.subject.model).__name__} has no p(z_c|y)")
        self._add_distances(table)
        return table.measurement(self.reliability.notes(), self.pictures.arrays())

    def _add_obeyed(self, table: ResultTable, name: str) -> None:
        """Add each requested class of one label, and their mean."""
        requested = [k for label, k in self.requests if label == name]
        why = self.reliability.why_not(name)
        if why or not requested:
            table.add("obeyed", name, why or "the model cannot generate it on request")
            return
        truth = self.subject.classes(name).numpy()
        parts, chances, references = [], [], []
        for k in requested:
            at: At = {"class": self.subject.schema[name].class_name(k)}
            shown, drawn, real = (
                _matches(self.judged.get(which, name), k) for which in (f"{name}/{k}", "drawn", "real")
            )
            chance, reference, what = mean_of(drawn), mean_of(among(truth == k, real)), Proportion(shown)
            chances.append(chance)
            references.append(reference)
            parts.append(
                table.add("obeyed", name, what, at, mean_at=None, chance=chance, reference=reference, why="no image")
            )
        mean = mean_over(parts, table.weights.level)
        table.add("obeyed", name, mean, chance=_mean(chances), reference=_mean(references))

    def _add_assigned(self, table: ResultTable) -> None:
        """Add each label of the assignment, and all together."""
        at: At = {"do": assignment_text(self.assignment, self.subject)}
        real = np.ones(len(self.subject), bool)
        for name, k in self.assignment:
            real &= self.subject.classes(name).numpy() == k
        columns: dict[str, list[Floats]] = {"assigned": [], "drawn": [], "real": []}
        for name, k in self.assignment:
            for which, found in columns.items():
                found.append(_matches(self.judged.get(which, name), k))
            shown, drawn, true = (found[-1] for found in columns.values())
            why = self.reliability.why_not(name)
            what, chance, reference = why or Proportion(shown), mean_of(drawn), mean_of(among(real, true))
            table.add("obeyed", name, what, at, mean_at=None, chance=chance, reference=reference)
        why = next((f"{name}: {why}" for name, _ in self.assignment if (why := self.reliability.why_not(name))), "")
        shown, drawn, true = (np.min(found, axis=0) for found in columns.values())
        reference = mean_of(among(real, true))
        table.add("obeyed", None, why or Proportion(shown), at, chance=mean_of(drawn), reference=reference)

    def _add_distances(self, table: ResultTable) -> None:
        """Add the distances of the sampled images, with chance level and reference."""
        names = ("frechet", "kernel", "prdc_precision", "prdc_recall", "prdc_density", "prdc_coverage")
        at: At = {"features": self.kind, "N": len(self.subject)}
        few = f"needs more than {self.metric.neighbour} images, got {len(self.subject)}"
        if self.no_features or len(self.subject) <= max(self.metric.neighbour, 1):
            for name in names:
                table.add(name, None, self.no_features or few, at)
            return
        real, drawn, shuffled = (
            np.concatenate([part[start] for start in sorted(part)] or [np.zeros((0, 0))])
            for part in self.features.values()
        )
        others, count = self._other_images(), min(len(real), self.metric.neighbour_images)
        permuted = shuffled if len(shuffled) > max(self.metric.neighbour, 1) else None
        k = self.metric.neighbour
        distances, balls = _distances(real, drawn, count, k, table.weights.level)
        chance, reference = (_baseline(real, images, count, k) for images in (permuted, others))
        at_n: At = {**at, "N": count}
        for name, estimate in distances.items():
            note = NO_INTERVAL if name == "frechet" else ""
            value = Resampled(estimate, np.full(table.weights.draws, np.nan), note)
            size = at if name == "frechet" else at_n
            table.add(name, None, value, size, chance=chance.get(name), reference=reference.get(name))
        for name, column in balls.items():
            padded = np.append(column, np.full(len(self.subject) - count, np.nan))
            what = Mean(padded) if name == "prdc_density" else Proportion(padded)
            table.add(name, None, what, at_n, chance=chance.get(name), reference=reference.get(name))

    def _other_images(self) -> Floats | None:
        """Features of as many other real images of the training split; None if there are too few."""
        data, subject = self.subject.data, self.subject
        ids: Ids = np.setdiff1d(data.split("train"), subject.ids)
        if len(ids) < len(subject):
            return None
        chosen = np.sort(numpy_stream(subject.seed, "generation/others").choice(ids, len(subject), replace=False))
        blocks = [chosen[first : first + FIXED_BATCH] for first in range(0, len(chosen), FIXED_BATCH)]
        return np.concatenate([self._features(read_images(data, block).to(subject.device)) for block in blocks])


def _distances(
    real: Floats, drawn: Floats, count: int, k: int, level: float = 0.95
) -> tuple[dict[str, Estimate], dict[str, Floats]]:
    """Both distances, and prdc of each image; kernel and prdc on the first ``count`` images."""
    kernel, found = kernel_and_manifolds(real[:count], drawn[:count], k, level)
    names = ("precision", "recall", "density", "coverage")
    balls = {f"prdc_{name}": getattr(found, name).astype(np.float64) for name in names}
    return {"frechet": Estimate(frechet_distance(real, drawn), n=len(drawn)), "kernel": kernel}, balls


def _baseline(real: Floats, images: Floats | None, count: int, k: int) -> dict[str, float]:
    """Distances and prdc of other images in place of the sampled ones."""
    if images is None:
        return {}
    distances, balls = _distances(real[: len(images)], images, count, k)
    found = {name: estimate.value for name, estimate in distances.items()}
    return found | {name: float(column.mean()) for name, column in balls.items()}


def _matches(judged: Floats, k: int) -> Floats:
    """1 where the judged class is k, 0 where it is another, NaN where it is missing."""
    return np.where(np.isnan(judged), np.nan, judged == k)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
