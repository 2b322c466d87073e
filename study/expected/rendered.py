"""Expected values computed from rendered images of the measured sample, equal to the values up to rounding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics import average_precision_score

from ccvae_eval.calibration.decoder_faults import permuted_points
from ccvae_eval.calibration.reference_images import ReferenceImages
from ccvae_eval.calibration.study_cells import Case
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.evaluation.interventions import Traverse, chunk_without_images
from ccvae_eval.metrics.diversity.metric import CONSTANT, REAL_IMAGES
from ccvae_eval.metrics.shared.features import extractor_named
from study.expected.edited import region_of
from study.expected.known import ExpectedValues

GREY_LEVEL = 1 / 255
PERMUTATIONS = 50


def _rendered(references: ReferenceImages, codes: torch.Tensor) -> Floats:
    """The oracle's images, float64, shape (N, C, P)."""
    scene = references.scene(codes)
    return references.draw(scene.factors, scene.classes).flatten(2).double().numpy()


def _changes(case: Case, name: str) -> tuple[Floats, Bools, Bools]:
    """D of each image along the traversal of one label, its region, and True for images that count."""
    subject, references = case.subject, case.cells[0].context.references
    settings: Any = case.metric
    points = [k / (settings.steps - 1) for k in range(settings.steps)]
    path = np.stack(
        [_rendered(references, Traverse(name, p).codes(subject, chunk_without_images(subject))) for p in points]
    )
    change = path.std(axis=0).mean(axis=1)
    region: Bools = references.data.region(subject.ids, name).reshape(change.shape)  # type: ignore[attr-defined]
    most = np.sort(np.abs(path[-1] - path[0]).mean(1), axis=1)[:, -math.ceil(settings.most_changed * change.shape[1]) :]
    share = region.mean(1)
    return change, region, (most.mean(1) > GREY_LEVEL) & (share > 0) & (share <= settings.largest_region)


def _scores(value: str, change: Floats, region: Bools) -> Floats:
    """The value of each image, shape (N,)."""
    inside = (change * region).sum(1) / change.sum(1)
    if value == "focus":
        area = region.mean(1)
        return np.asarray((inside - area) / (1 - area))
    if value == "inside_energy":
        return np.asarray((change**2 * region).sum(1) / (change**2).sum(1))
    if value == "concentration":
        return np.asarray(1 - change.sum(1) ** 2 / (change.shape[1] * (change**2).sum(1)))
    if value == "ap":
        return np.array([average_precision_score(r, d) for r, d in zip(region, change, strict=True)])
    return np.asarray(inside)


def _smear_ends(case: Case) -> Floats:
    """From the rendered change, and from an even change at the end."""
    first, last = [], []
    for name in case.names:
        change, region, counts = _changes(case, name)
        first.append(_scores(case.value, change[counts], region[counts]).mean())
        even = {"focus": 0.0, "concentration": 0.0}
        last.append(even.get(case.value, region[counts].mean()))
    return case.ends(float(np.mean(first)), float(np.mean(last)))


def _stray_ends(case: Case) -> Floats:
    """From the rendered change, and with its pixels permuted at the end."""
    first, last = [], []
    for name in case.names:
        change, region, counts = _changes(case, name)
        change, region = change[counts], region[counts]
        generator = numpy_stream(0, "stray/brute", name)
        permuted = np.stack([row[generator.permutation(len(row))] for row in change])
        first.append(_scores(case.value, change, region).mean())
        last.append(_scores(case.value, permuted, region).mean())
    return case.ends(float(np.mean(first)), float(np.mean(last)))


def _total_variation(before: torch.Tensor, after: torch.Tensor) -> Floats:
    return ((after.double().exp() - before.double().exp()).abs().sum(1) / 2).numpy()


def _selectivity_ends(case: Case) -> Floats:
    """Judged at the ends of the traversal; at the last position with every other label changed along with it."""
    judge, subject, references = case.subject.judge, case.subject, case.cells[0].context.references
    if judge is None:
        return case.ends(math.nan, math.nan)
    sizes = np.array([block.label.cardinality for block in references.coding.blocks])
    shares: list[list[float]] = [[], []]
    for name in case.names:
        place = references.block(name).place
        judged: list[list[Mapping[str, torch.Tensor]]] = [[], []]
        for end in (0.0, 1.0):
            scene = references.scene(Traverse(name, end).codes(subject, chunk_without_images(subject)))
            others = (scene.classes + 1) % sizes
            others[:, place] = scene.classes[:, place]
            edited = scene.classes[:, place] != scene.original_classes[:, place]
            leaky = np.where(edited[:, None], others, scene.classes)
            for leaks, classes in enumerate((scene.classes, leaky)):
                judged[leaks].append(judge.log_probabilities(references.draw(scene.factors, classes)))
        for leaks, (before, after) in enumerate(judged):
            sums = {label: _total_variation(before[label], after[label]).sum() for label in before}
            shares[leaks].append(float(sums[name] / sum(sums.values())))
    return case.ends(*(float(np.mean(share)) for share in shares))


def _judged_probabilities(case: Case) -> dict[str, Floats]:
    """Judged probability of presence at even mixtures of absent and present, for each label, shape (N, K)."""
    judge, subject, references = case.subject.judge, case.subject, case.cells[0].context.references
    settings: Any = case.metric
    found: dict[str, Floats] = {}
    scene = references.scene(subject.codes)
    for name in case.names if judge is not None else ():
        absent, present = references.absent_and_present(references.block(name), scene.factors, scene.classes)
        shares = [k / (settings.steps - 1) for k in range(settings.steps)]
        judged = [judge.log_probabilities(absent.lerp(present, share))[name] for share in shares] if judge else []
        found[name] = torch.stack([log_p.double().exp()[:, 1] for log_p in judged], 1).numpy()
    return found


def _judged_monotone(case: Case) -> Floats:
    """Of an even traversal, and with its points in random order at the end."""
    first: list[float] = []
    last: list[float] = []
    for name, probabilities in _judged_probabilities(case).items():
        generator = numpy_stream(0, "wobble/judged", name)
        orders = np.stack([permuted_points(1.0, generator, probabilities.shape[1]) for _ in range(PERMUTATIONS)])
        for found, paths in ((first, probabilities[:, None]), (last, probabilities[:, orders])):
            steps = np.abs(np.diff(paths, axis=2)).sum(2)
            distance = np.abs(paths[:, :, -1] - paths[:, :, 0])
            enough = steps >= getattr(case.metric, "least_response", 0.0)
            found.append(float((distance / np.where(enough, steps, 1.0))[enough].mean()))
    return case.ends(*(float(np.mean(found)) if found else math.nan for found in (first, last)))


def _judged_evenness(case: Case) -> Floats:
    """Of an even traversal, and of one jump at the end."""
    first = []
    for probabilities in _judged_probabilities(case).values():
        steps = np.abs(np.diff(probabilities, axis=1))
        enough = steps.sum(1) >= getattr(case.metric, "least_response", 0.0)
        first.append(float((steps.mean(1) / steps.max(1))[enough].mean()))
    return case.ends(float(np.mean(first)) if first else math.nan, 1 / (getattr(case.metric, "steps", 2) - 1))


def _resampled(case: Case, name: str, first: int) -> tuple[list[torch.Tensor], np.ndarray[Any, Any]]:
    """As many renderings with resampled variety as the metric samples, from number ``first`` on, and their class."""
    subject, settings = case.subject, case.metric
    data: Any = subject.data
    label = subject.schema[name]
    value = torch.ones(len(subject)) if label.kind == "binary" else subject.target_class(name).float()
    draws = range(first, first + getattr(settings, "draws", 0))
    return [data.redraw(subject.ids, name, value.numpy(), draw) for draw in draws], value.long().numpy()


def _obeyed(case: Case, name: str) -> tuple[Floats, list[torch.Tensor]]:
    """1 for resampled renderings that the judge classifies correctly, else 0, shape (N, S); and the renderings."""
    images, classes = _resampled(case, name, 0)
    judge = case.subject.judge
    if judge is None:
        return np.full((len(classes), len(images)), math.nan), images
    right = [judge.log_probabilities(x)[name].argmax(1).numpy() == classes for x in images]
    return np.stack(right, 1).astype(np.float64), images


def _obeyed_ends(case: Case) -> Floats:
    shares = [_obeyed(case, name)[0].mean() for name in case.names]
    return case.ends(float(np.mean(shares)), case.chance())


def _valid_spread(case: Case) -> Floats:
    """Root mean squared distance of correctly judged resampled renderings, times their share; 0 at the end."""
    means = []
    for name in case.names:
        obeyed, images = _obeyed(case, name)
        region = region_of(case, name)
        stack = np.stack([x.double().numpy() for x in images], 1)
        spreads = []
        for row in np.flatnonzero(region.any((1, 2))):
            pixels = stack[row][obeyed[row] > 0][:, :, region[row]].reshape(int(obeyed[row].sum()), -1)
            if len(pixels) > 1:
                squares = cdist(pixels, pixels, "sqeuclidean") / pixels.shape[1]
                pairs = len(pixels) * (len(pixels) - 1)
                spreads.append(math.sqrt(squares.sum() / pairs) * obeyed[row].mean())
            else:
                spreads.append(0.0)
        means.append(np.mean(spreads))
    return case.ends(float(np.mean(means)), 0.0)


REPEATS = 4
"""Sets of resampled renderings, each as large as the metric's: the root of a variance is biased by its size."""


def _feature_spread(case: Case) -> Floats:
    """Root mean squared distance of the metric's features of resampled renderings; 0 at the end.

    Pixels outside the region are those of the original.
    """
    subject, settings = case.subject, case.metric
    extractor = extractor_named(getattr(settings, "features", ""), subject)

    def features(images: torch.Tensor) -> Floats:
        return np.asarray(extractor.features(images).double().cpu().numpy())

    images = subject.data.batch(subject.ids).images
    deviation = features(images[:REAL_IMAGES]).std(0)
    usable, means = deviation > CONSTANT, []
    for name in case.names:
        region = region_of(case, name)
        mask = torch.from_numpy(region)[:, None]
        for repeat in range(1, REPEATS + 1):
            drawn, _ = _resampled(case, name, 1000 * repeat)
            found_features = (
                np.stack([features(torch.where(mask, x, images)) for x in drawn], 1)[:, :, usable] / deviation[usable]
            )
            squares = np.array([pdist(row, "sqeuclidean").mean() for row in found_features[region.any((1, 2))]])
            means.append(np.sqrt(squares / usable.sum()).mean())
    return case.ends(float(np.mean(means)), 0.0)


def _recall_ends(case: Case) -> Floats:
    """Recall of other resampled renderings; at the end, of the rendering of the middle variety."""
    first, last = [], []
    data: Any = case.subject.data
    neighbour = getattr(case.metric, "neighbour", 1)
    for name in case.names:
        (true, classes), (others, _) = _resampled(case, name, 0), _resampled(case, name, 1000)
        middle = np.full((len(classes), len(data.variety_names(name))), 0.5)
        single = data.with_variety(case.subject.ids, {name: classes.astype(np.float32)}, {name: middle})
        region = region_of(case, name)
        for row in np.flatnonzero(region.any((1, 2))):
            cut = [np.stack([x[row].double().numpy()[:, region[row]].ravel() for x in some]) for some in (true, others)]
            radius = np.sort(cdist(cut[0], cut[0]), axis=1)[:, neighbour]
            middle_pixels = single[row].double().numpy()[:, region[row]].ravel()[None]
            first.append((cdist(cut[0], cut[1]).min(1) < radius).mean())
            last.append((cdist(cut[0], middle_pixels).min(1) < radius).mean())
    return case.ends(float(np.mean(first)), float(np.mean(last)))


RENDERED: Mapping[tuple[str, str, str], ExpectedValues] = {
    **{("locality", value, "smear"): _smear_ends for value in ("focus", "inside", "inside_energy", "concentration")},
    **{("locality", value, "stray"): _stray_ends for value in ("focus", "inside", "ap")},
    ("locality", "selectivity", "leak"): _selectivity_ends,
    ("locality", "judged_monotone", "wobble"): _judged_monotone,
    ("locality", "judged_evenness", "jump"): _judged_evenness,
    ("diversity", "obeyed", "idle"): _obeyed_ends,
    ("diversity", "spread_valid", "collapse"): _valid_spread,
    ("diversity", "recall", "collapse"): _recall_ends,
    ("diversity", "feature_spread", "collapse"): _feature_spread,
}
"""By (metric, value, perturbation)."""
