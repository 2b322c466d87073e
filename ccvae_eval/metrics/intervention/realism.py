"""Realism, minimality and preserved identity of edits, in features of whole images.

Realism and minimality follow Melistas, Spyrou, Gkouti, Sanchez, Vlontzos, Panagakis, Papanastasiou and Tsaftaris,
"Benchmarking Counterfactual Image Generation" (NeurIPS 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from ccvae_eval.core.results import Estimate, Method, too_few_images
from ccvae_eval.core.types import Bools, Floats, Ids, Images
from ccvae_eval.evaluation.interventions import LEAST_PER_CLASS, Do
from ccvae_eval.evaluation.metric import Decoded
from ccvae_eval.evaluation.result_table import (
    NO_CHARACTERISTIC,
    At,
    ColumnStore,
    MeanProportion,
    ResultTable,
    Undefined,
    among,
    mean_of,
)
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.intervention.counterfactuals import distance
from ccvae_eval.metrics.shared.features import OF_IMAGES, ImageFeatures
from ccvae_eval.statistics.distances import frechet_distance, kernel_distance, kernel_distance_estimate
from ccvae_eval.statistics.intervals import Resampled, estimate_from_draws, mean_over, undefined_estimate
from ccvae_eval.statistics.ratios import safe_ratio
from ccvae_eval.statistics.resampling import ResampleWeights

REAL, REBUILT, EDITED, BLENDED = (f"features/{images}" for images in ("real", "rebuilt", "edited", "blended"))
KERNEL, FRECHET = "realism", "realism_frechet"
DISTANCES = {KERNEL: "", FRECHET: "no interval: a bootstrap resample contains copies, which bias the covariance"}
"""The values of realism, with the note of each."""
FAR, NEAR = 0.8, 0.2
"""Weights of an edit that goes too far, and of one that stays too near, in :func:`latent_divergence`."""


def latent_divergence(nearer: Floats, farther: Floats) -> Floats:
    r"""Counterfactual latent divergence of edited images at a distance d from their origins.

    .. math:: \log\left(0.8\, e^{P(S_{cf} \le d)} + 0.2\, e^{P(S_f \ge d)}\right)

    S_cf and S_f are the distances of the origin to real images of the target class and of its own class. It is least
    (0) if the edit moves the image farther than all images of its own class are and less far than any image of the
    target class is.

    Args:
        nearer: :math:`P(S_{cf} \le d)`, the share of images of the target class that are as near as the edit or nearer.
        farther: :math:`P(S_f \ge d)`, the share of images of the own class that are as far as the edit or farther.

    Returns:
        Divergences between 0 and 1, same shape.

    >>> latent_divergence(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0])).round(4)
    array([0.    , 0.2954, 1.    ])
    """
    return np.asarray(np.log(FAR * np.exp(nearer) + NEAR * np.exp(farther)))


def feature_distance(x: Floats, y: Floats) -> Floats:
    """Mean absolute difference of features, shapes (N, F) and (N, F) or (F,); shape (N,)."""
    return np.asarray(np.abs(x - y).mean(1))


def distances_apart(features: Floats) -> Floats:
    """Distances of N images with features (N, F) to each other, shape (N, N)."""
    # image by image as edited images are compared, so that equal images have equal distances
    return np.stack([feature_distance(features, one) for one in features])


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """Distances of each image to the real images of its own class and of its target class.

    Args:
        apart: distances of all real images to each other, shape (N, N).
        own, target: masks of the pairs of an image and another one of its own class, or one of its target class,
            shape (N, N).
    """

    apart: Floats
    own: Bools
    target: Bools

    @classmethod
    def of(cls, apart: Floats, own: Ids, target: Ids) -> Neighbourhoods:
        """The distances of images with a known class; an image with too few images of a class has none to compare.

        Args:
            apart: as in the class.
            own, target: class of each image by its label, and the class it is moved to, -1 = unknown, shape (N,).
        """
        same, other = own == own[:, None], own == target[:, None]
        enough = (same.sum(1) >= LEAST_PER_CLASS) & (other.sum(1) >= LEAST_PER_CLASS) & (own >= 0) & (target >= 0)
        np.fill_diagonal(same, False)
        return cls(apart, same & enough[:, None], other & enough[:, None])

    def divergences(self, moved: Floats) -> Floats:
        """Divergence of each image at the distances ``moved``, shape (N,); NaN without images to compare with."""
        return latent_divergence(*self._shares(moved, *self._hits(moved)))

    def of_real_images(self) -> float | None:
        """Mean divergence if each real image of the target class takes the place of the edited one."""
        found = []
        for i in np.flatnonzero(self.target.any(1)):
            own, target = np.sort(self.apart[i, self.own[i]]), np.sort(self.apart[i, self.target[i]])
            nearer = np.searchsorted(target, target, "right") / len(target)
            farther = 1 - np.searchsorted(own, target, "left") / len(own)
            found.append(latent_divergence(nearer, farther).mean())
        return float(np.mean(found)) if found else None

    def estimate(self, moved: Floats, weights: ResampleWeights, images: Ids) -> Resampled:
        r"""Mean divergence, with resamples to first order in the weights of edited and of real images.

        .. math:: \psi_j = c_j - \bar c + \sum_i \sum_{p \in \{cf, f\}} \frac{\partial c_i}{\partial p_i}
            \frac{[j \in S_i] (h_{ij} - p_i)}{|S_i|}

        with h the indicator behind the share p, and S the real images that it is a share of.

        Args:
            moved: distance of each edited image to its origin, shape (N,); NaN = the image does not enter.
            weights: the run's resamples.
            images: the rows of the images in the sample, shape (N,).
        """
        near, far = self._hits(moved)
        values = latent_divergence(*self._shares(moved, near, far))
        enter = np.flatnonzero(~np.isnan(values))
        if not len(enter):
            return undefined_estimate(weights.draws, "")
        value, influence = float(values[enter].mean()), np.zeros(weights.n)
        influence[images[enter]] = values[enter] - value
        for weight, hit, pairs in ((FAR, near, self.target), (NEAR, far, self.own)):
            count = pairs[enter].sum(1)
            share = hit[enter].sum(1) / count
            slope = weight * np.exp(share - values[enter]) / count
            parts = np.where(pairs[enter], hit[enter] - share[:, None], 0.0)
            influence[images] += (parts * slope[:, None]).sum(0)
        draws = value + weights.totals(influence) / len(enter)
        found = estimate_from_draws(value, draws, len(enter), weights.level)
        method = Method.PROJECTED if found.estimate.method else Method.NONE
        return replace(found, estimate=replace(found.estimate, method=method))

    def _hits(self, moved: Floats) -> tuple[Bools, Bools]:
        """Images of the target class as near as ``moved`` or nearer, and images of the own class as far or farther."""
        return self.target & (self.apart <= moved[:, None]), self.own & (self.apart >= moved[:, None])

    def _shares(self, moved: Floats, near: Bools, far: Bools) -> tuple[Floats, Floats]:
        nearer, farther = safe_ratio(near.sum(1), self.target.sum(1)), safe_ratio(far.sum(1), self.own.sum(1))
        return among(~np.isnan(moved), nearer), among(~np.isnan(moved), farther)


def cosine(x: Floats, y: Floats) -> Floats:
    """Cosine of two features of each image, shapes (N, F); NaN where one of them is 0, shape (N,).

    >>> cosine(np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[6.0, 8.0], [1.0, 0.0]]))
    array([ 1., nan])
    """
    return safe_ratio((x * y).sum(1), np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))


def blended(before: Images, other: Images, change: Floats) -> Images:
    """Images blended with others until the mean absolute change of a pixel is ``change``; at most the others.

    Args:
        before, other: shape (N, C, H, W).
        change: intensity, shape (N,).
    """
    share = np.minimum(safe_ratio(change, distance(before, other), 0.0), 1.0)
    return torch.lerp(before, other, torch.from_numpy(share).to(before)[:, None, None, None])


class FeatureValues:
    """Features of real, reconstructed and edited images, and the values that compare them.

    Args:
        features: name of the features.
        limit: number of images, from the first.
        subject, columns: the images, and the numbers of each of them.
    """

    def __init__(self, features: str, limit: int, subject: Subject, columns: ColumnStore) -> None:
        self.features, self.limit = ImageFeatures(features, subject), limit
        self.subject, self.columns = subject, columns
        self.at: At = {"features": self.features.name}
        self.shows_identity = self.features.name not in OF_IMAGES
        self._first_row: int | None = None
        """Of the last chunk, whose images and reconstructions serve all characteristics."""

    def update(self, batch: Decoded, do: Do) -> None:
        """Keeps the features of a chunk's edited images, and once for all characteristics those of the others."""
        first = batch.within(self.limit)
        if first is None or self.features.undefined:
            return
        rows, r, edited = first.chunk.rows, first.reconstruction, first.images[do]
        assert r is not None, "asked for in needs()"
        if rows.start != self._first_row:
            self._first_row = rows.start
            others = {REAL: self.features.of(first.chunk.images), REBUILT: self.features.of(r)}
            self.columns.put(NO_CHARACTERISTIC, rows, others)
        found = {EDITED: self.features.of(edited)}
        if self.shows_identity and len(r) > 1:
            found[BLENDED] = self.features.of(blended(r, r.roll(1, 0), distance(r, edited)))
        self.columns.put(batch.characteristic, rows, found)

    def add(self, table: ResultTable, no_do: Mapping[str, str]) -> None:
        """Add the values of each characteristic; ``no_do`` has the reason why it has no edit, or ""."""
        without = {name: why or self.features.undefined for name, why in no_do.items()}
        real, rebuilt = (self.columns.get(NO_CHARACTERISTIC, key, self.limit) for key in (REAL, REBUILT))
        images = np.flatnonzero(~np.isnan(real.reshape(len(real), -1)[:, 0]))
        real, rebuilt = real[images], rebuilt[images]
        apart = None if all(without.values()) else distances_apart(real)
        for name, why in without.items():
            if apart is None or why:
                table.undefined(name, why, (*DISTANCES, "minimality"), self.at)
            else:
                edited = self.columns.get(name, EDITED, self.limit)[images]
                self._add_realism(table, name, images, real, rebuilt, edited)
                moved = [feature_distance(after, real) for after in (edited, rebuilt)]
                self._add_minimality(table, name, images, apart, *moved)
            if self.shows_identity:
                self._add_identity(table, name, why)
        if not self.shows_identity:
            table.add("identity_cosine", None, Undefined("needs features of faces (--features)"))

    def _add_realism(
        self, table: ResultTable, name: str, images: Ids, real: Floats, rebuilt: Floats, edited: Floats
    ) -> None:
        """Add both distances for each target class, and their means over the classes."""
        label = self.subject.schema[name]
        then, classes = (f(name).numpy()[images] for f in (self.subject.target_class, self.subject.classes))
        parts: dict[str, list[Resampled]] = {value: [] for value in DISTANCES}
        baselines: dict[str, list[tuple[float, float]]] = {value: [] for value in DISTANCES}
        for k in range(label.cardinality):
            at: At = {**self.at, "class": label.class_name(k)}
            to, of = np.flatnonzero(then == k), np.flatnonzero(classes == k)
            if (count := min(len(to), len(of))) < LEAST_PER_CLASS:
                few = Undefined(too_few_images(count, LEAST_PER_CLASS, label.class_name(k)))
                for value in DISTANCES:
                    parts[value].append(table.add(value, name, few, at, mean_at=None))
                continue
            x, y, unedited, same = edited[to], real[of], rebuilt[to], rebuilt[of]
            found: dict[str, Resampled | Estimate] = {
                KERNEL: kernel_distance_estimate(x, y, (images[to], images[of]), table.weights),
                FRECHET: Estimate(frechet_distance(x, y), n=count),
            }
            baseline = {
                KERNEL: (kernel_distance(unedited, y), kernel_distance(same, y, paired=True)),
                FRECHET: (frechet_distance(unedited, y), frechet_distance(same, y)),
            }
            for value, note in DISTANCES.items():
                chance, reference = baseline[value]
                row = table.add(
                    value, name, found[value], at, mean_at=None, chance=chance, reference=reference, note=note
                )
                parts[value].append(row)
                baselines[value].append(baseline[value])
        for value, rows in parts.items():
            mean = mean_over(rows, table.weights.level)
            chances, references = np.array(baselines[value]).reshape(-1, 2).T
            table.add(
                value, name, mean, self.at, mean_at=self.at, chance=mean_of(chances), reference=mean_of(references)
            )

    def _add_minimality(
        self, table: ResultTable, name: str, images: Ids, apart: Floats, edited: Floats, rebuilt: Floats
    ) -> None:
        """Add the divergence; ``edited`` and ``rebuilt`` are distances of these images to their origins."""
        classes, then = (f(name).numpy()[images] for f in (self.subject.classes, self.subject.target_class))
        near = Neighbourhoods.of(apart, classes, then)
        found, reference = near.estimate(edited, table.weights, images), mean_of(near.divergences(rebuilt))
        fewest = int(np.bincount(classes[classes >= 0], minlength=self.subject.schema[name].cardinality).min())
        table.add(
            "minimality", name, found, self.at, mean_at=self.at, chance=near.of_real_images(), reference=reference,
            why=too_few_images(fewest, LEAST_PER_CLASS),
        )  # fmt: skip

    def _add_identity(self, table: ResultTable, name: str, no_do: str) -> None:
        """Add the cosine of the features before and after the edit."""
        if no_do:
            table.add("identity_cosine", name, Undefined(no_do), self.at, mean_at=self.at)
            return
        before, applies = self.columns.get(NO_CHARACTERISTIC, REBUILT, self.limit), self.subject.target_class(name) >= 0
        found = np.full((2, len(applies)), np.nan)
        for row, key in zip(found, (EDITED, BLENDED), strict=True):
            row[: self.limit] = cosine(before, self.columns.get(name, key, self.limit))
        after, chance = (among(applies.numpy(), row) for row in found)
        mean = MeanProportion(after, least=-1.0)
        table.add(
            "identity_cosine", name, mean, self.at, mean_at=self.at, chance=mean_of(chance), why="no image"
        )  # fmt: skip
