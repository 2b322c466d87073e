"""Generation: similarity of images sampled from the prior to real images, and agreement with the requested labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ccvae_eval.core.errors import UndefinedError
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.results import Estimate, Measurement
from ccvae_eval.core.types import Floats, Ids, Images
from ccvae_eval.evaluation.accumulator import ImageAccumulator, first_chunks
from ccvae_eval.evaluation.interventions import why_not
from ccvae_eval.evaluation.judge_scores import judged
from ccvae_eval.evaluation.metric import Decoded, Needs
from ccvae_eval.evaluation.pictures import PICTURED
from ccvae_eval.evaluation.result_table import At, ColumnStore, Mean, Proportion, ResultTable, Undefined, among, mean_of
from ccvae_eval.evaluation.subject import Subject, read_images
from ccvae_eval.metrics.generation.settings import Generation
from ccvae_eval.metrics.shared.assignments import Assignment, add_obeyed, assignment_of, assignment_text, obeys
from ccvae_eval.metrics.shared.features import ImageFeatures
from ccvae_eval.metrics.shared.likelihood import Generate
from ccvae_eval.model.checks import require_finite
from ccvae_eval.model.fixed_batches import FIXED_BATCH, Chunk
from ccvae_eval.model.interface import HasConditionalPrior, supports
from ccvae_eval.statistics.distances import Rows, frechet_distance, kernel_and_manifolds
from ccvae_eval.statistics.intervals import mean_over
from ccvae_eval.statistics.resampling import ResampleWeights

UNCONDITIONAL = Generate()
FEATURES = "features"
OBEYS = "obeys/"
"""Start of the keys of the columns that are 1 where an assigned label is judged as assigned."""


REQUESTS = 16
"""Requested classes whose images are in memory at once."""

NO_INTERVAL = "no interval: a bootstrap resample contains copies, which bias the covariance"


def needs(metric: Generation, subject: Subject) -> Needs:
    """Images sampled from the prior, and from the prior given the assignment.

    Raises:
        UndefinedError: p(z_c|y) cannot be sampled, because no image has the value of a continuous label.
    """
    if why := why_not(UNCONDITIONAL, subject):
        raise UndefinedError(why)
    requested = metric.asked_images if subject.judge_source.possible else FIXED_BATCH  # one batch, for pictures
    own = -(-len(_requests(subject)) * min(requested, len(subject)) // max(len(subject), 1))
    conditional = supports(subject.model, HasConditionalPrior)
    assigned = (Generate(assignment_of(metric.assign, subject)),) if metric.assign else ()
    wanted = (UNCONDITIONAL, *assigned)
    return Needs(wanted, reconstruction=conditional, judge=True, characteristics=conditional, own=own)


def _requests(subject: Subject) -> list[tuple[str, int]]:
    """Label and class of each image that the model can generate on request."""
    if not supports(subject.model, HasConditionalPrior):
        return []
    return [(name, k) for name in subject.characteristics for k in range(subject.cardinality(name))]


class GenerationAccumulator(ImageAccumulator[Generation]):
    """Features of real and sampled images, and the class of each label that the judge predicts for them."""

    def __init__(self, metric: Generation, subject: Subject) -> None:
        super().__init__(metric, subject)
        self.requests = _requests(subject)
        self.assignment: Assignment = assignment_of(metric.assign, subject) if metric.assign else ()
        self.features = ImageFeatures(metric.features, subject)

    def update(self, batch: Decoded) -> None:
        self.reliability.update(batch)
        chunk, drawn = batch.chunk, batch.images[UNCONDITIONAL]
        if not self.features.undefined:
            features = {"real": self.features.of(chunk.images), "drawn": self.features.of(drawn)}
            self.columns.put(FEATURES, chunk.rows, features)
        if self.subject.judge is not None:
            judged = {"drawn": drawn, "real": chunk.images}
            if self.assignment:
                judged["assigned"] = batch.images[Generate(self.assignment)]
            self._judge(chunk, judged)
        self.keep_images("drawn", chunk, [drawn])
        self._measure_requests(chunk)

    def _measure_requests(self, chunk: Chunk) -> None:
        """Sample images of each label and class: judge those of the first images, and keep pictures of some."""
        limit = self.metric.asked_images if self.subject.judge is not None else 0
        first = chunk.within(max(limit, PICTURED))
        if first is None:
            return
        for start in range(0, len(self.requests), REQUESTS):
            requests = self.requests[start : start + REQUESTS]
            images = [self._requested(request, first) for request in requests]
            # one question to the device for all images
            require_finite(self.subject.model, torch.stack([each.sum() for each in images]))
            if chunk.rows.start < limit:
                self._judge(first, {f"{name}/{k}": each for (name, k), each in zip(requests, images, strict=True)})
            for (name, k), each in zip(requests, images, strict=True):
                self.keep_images(f"asked/{name}/{self.subject.class_name(name, k)}", first, [each])

    def _requested(self, request: tuple[str, int], chunk: Chunk) -> Images:
        """Images sampled with one label set and the same noise for everything else, which may not be finite."""
        name, k = request
        value = float(self.subject.class_values(name, torch.tensor(k)))
        return self.subject.decode(Generate(((name, value),)).codes(self.subject, chunk), check=False)

    def _shuffled(self, chunk: Chunk) -> Images:
        """The chunk's images with each pixel permuted among 32 of them, independently of all other pixels."""
        parts = zip(torch.split(chunk.images, FIXED_BATCH), chunk.ids[::FIXED_BATCH], strict=True)
        return torch.cat([self._permuted_pixels(images, int(first)) for images, first in parts])

    def _permuted_pixels(self, images: Images, first: int) -> Images:
        count, _, height, width = images.shape
        pixels = images.permute(0, 2, 3, 1).flatten(0, 2)
        stream = numpy_stream(self.subject.seed, "generation/shuffled", first)
        # a random cyclic shift per pixel is cheaper than a permutation and as independent
        shift = torch.from_numpy(stream.integers(count, size=height * width))
        order = (torch.arange(count)[:, None] + shift) % count * len(shift) + torch.arange(len(shift))
        shuffled = pixels.index_select(0, order.flatten().to(pixels.device))
        return shuffled.reshape(count, height, width, -1).permute(0, 3, 1, 2)

    def _judge(self, chunk: Chunk, images: Mapping[str, Images]) -> None:
        """Store the class that the judge predicts for each label of images, by their name."""
        for name, log_probs in zip(images, judged(self.subject, list(images.values())), strict=True):
            found = {j: value.argmax(1).double().numpy() for j, value in log_probs.items()}
            if name in ("assigned", "drawn", "real"):
                asked = [(j, value) for j, value in self.assignment if j in log_probs]
                found |= {f"{OBEYS}{j}": obeys(self.subject, log_probs[j], j, value) for j, value in asked}
            self.columns.put(name, chunk.rows, found)

    def compute(self, weights: ResampleWeights) -> Measurement:
        table = ResultTable(self.metric, self.subject, weights)
        for name in self.subject.characteristics:
            self._add_obeyed(table, name)
        if self.assignment:
            self._add_assigned(table)
        elif not self.requests:
            table.add("obeyed", None, Undefined(self.subject.no_prior))
        self._add_distances(table)
        return table.measurement(self.reliability.notes(), self.pictures.arrays())

    def _add_obeyed(self, table: ResultTable, name: str) -> None:
        """Add each requested class of one label, and their mean."""
        requested = [k for label, k in self.requests if label == name]
        why = self.reliability.why_not(name)
        if why or not requested:
            table.add("obeyed", name, Undefined(why or "the model cannot generate it on request"))
            return
        truth = self.subject.classes(name).numpy()
        parts, chances, references = [], [], []
        for k in requested:
            at: At = {"class": self.subject.class_name(name, k)}
            shown, drawn, real = (
                _matches(self.columns.get(which, name), k) for which in (f"{name}/{k}", "drawn", "real")
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
        for name, value in self.assignment:
            real &= self.subject.classes(name).numpy() == self.subject.class_of(name, value)
        after, before, true = (
            {name: self.columns.get(which, f"{OBEYS}{name}") for name, _ in self.assignment}
            for which in ("assigned", "drawn", "real")
        )
        true = {name: among(real, column) for name, column in true.items()}
        add_obeyed(table, self.reliability, at, after, before, true)

    def _add_distances(self, table: ResultTable) -> None:
        """Add the distances of the sampled images, with chance level and reference."""
        names = ("frechet", "kernel", "prdc_precision", "prdc_recall", "prdc_density", "prdc_coverage")
        at: At = {"features": self.features.name, "N": len(self.subject)}
        few = f"needs more than {self.metric.neighbour} images, got {len(self.subject)}"
        if self.features.undefined or len(self.subject) <= max(self.metric.neighbour, 1):
            table.undefined(None, self.features.undefined or few, names, at)
            return
        real, drawn = (self.columns.stored(FEATURES, key) for key in ("real", "drawn"))
        count, k = min(len(real), self.metric.neighbour_images), self.metric.neighbour
        permuted, others = self._permuted_images(), self._other_images()
        distances, balls = _distances(real, drawn, count, k, table.weights.level)
        chance, reference = (_baseline(real, images, count, k) for images in (permuted, others))
        at_n: At = {**at, "N": count}
        for name, estimate in distances.items():
            note = NO_INTERVAL if name == "frechet" else ""
            size = at if name == "frechet" else at_n
            table.add(name, None, estimate, size, chance=chance.get(name), reference=reference.get(name), note=note)
        for name, column in balls.items():
            padded = np.append(column, np.full(len(self.subject) - count, np.nan))
            what = Mean(padded) if name == "prdc_density" else Proportion(padded)
            table.add(name, None, what, at_n, chance=chance.get(name), reference=reference.get(name))

    def _permuted_images(self) -> Floats | None:
        """Features of the first images with permuted pixels; None if there are too few."""
        chunks = first_chunks(self.subject, self.metric.chance_images)
        found = [self.features.of(self._shuffled(chunk)) for chunk in chunks]
        return np.concatenate(found) if sum(map(len, found)) > max(self.metric.neighbour, 1) else None

    def _other_images(self) -> Rows | None:
        """Features of as many other real images of the training split; None if there are too few."""
        data, subject = self.subject.data, self.subject
        ids: Ids = np.setdiff1d(data.split("train"), subject.ids)
        if len(ids) < len(subject):
            return None
        chosen = np.sort(numpy_stream(subject.seed, "generation/others").choice(ids, len(subject), replace=False))
        found = ColumnStore(len(chosen))
        for first in range(0, len(chosen), subject.fixed_batch):
            rows = slice(first, first + subject.fixed_batch)
            features = self.features.of(read_images(data, chosen[rows]).to(subject.device))
            found.put(FEATURES, rows, {"others": features})
        return found.stored(FEATURES, "others")


def _distances(
    real: Rows, drawn: Rows, count: int, k: int, level: float = 0.95
) -> tuple[dict[str, Estimate], dict[str, Floats]]:
    """Both distances, and prdc of each image; kernel and prdc on the first ``count`` images."""
    kernel, found = kernel_and_manifolds(real[:count], drawn[:count], k, level)
    names = ("precision", "recall", "density", "coverage")
    balls = {f"prdc_{name}": getattr(found, name).astype(np.float64) for name in names}
    return {"frechet": Estimate(frechet_distance(real, drawn), n=len(drawn)), "kernel": kernel}, balls


def _baseline(real: Rows, images: Rows | None, count: int, k: int) -> dict[str, float]:
    """Distances and prdc of other images in place of the sampled ones."""
    if images is None:
        return {}
    as_many = real if len(images) == len(real) else real[: len(images)]
    distances, balls = _distances(as_many, images, count, k)
    found = {name: estimate.value for name, estimate in distances.items()}
    return found | {name: float(column.mean()) for name, column in balls.items()}


def _matches(judged: Floats, k: int) -> Floats:
    """1 where the judged class is k, 0 where it is another, NaN where it is missing."""
    return np.where(np.isnan(judged), np.nan, judged == k)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
