"""Known values by brute force from rendered pictures: of the same images, so that they are right to rounding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics import average_precision_score

from ccvae_eval.calibration.decoder_faults import wobbled
from ccvae_eval.calibration.reference_images import ReferenceImages
from ccvae_eval.calibration.study_cells import Case
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.evaluation.interventions import Traverse, unseen
from ccvae_eval.judge import Judge
from ccvae_eval.metrics.diversity.metric import REAL_IMAGES, STILL
from ccvae_eval.metrics.shared.features import extractor_named
from study.expected.known import Known

QUANTUM = 1 / 255
PERMUTATIONS = 50


def _painted(originals: ReferenceImages, codes: torch.Tensor) -> Floats:
    """The oracle's pictures, float64, shape (N, C, P)."""
    scene = originals.scene(codes)
    return originals.draw(scene.factors, scene.classes).flatten(2).double().numpy()


def _changes(case: Case, name: str) -> tuple[Floats, Bools, Bools]:
    """D of each image along the path of one label, its region, and whether the image counts."""
    subject, originals = case.subject, case.cells[0].bench.originals
    settings: Any = case.metric
    points = [k / (settings.steps - 1) for k in range(settings.steps)]
    path = np.stack([_painted(originals, Traverse(name, p).codes(subject, unseen(subject))) for p in points])
    change = path.std(axis=0).mean(axis=1)
    region: Bools = originals.data.region(subject.ids, name).reshape(change.shape)  # type: ignore[attr-defined]
    most = np.sort(np.abs(path[-1] - path[0]).mean(1), axis=1)[:, -math.ceil(settings.most_changed * change.shape[1]) :]
    share = region.mean(1)
    return change, region, (most.mean(1) > QUANTUM) & (share > 0) & (share <= settings.largest_region)


def _scores(value: str, change: Floats, region: Bools) -> Floats:
    """One value of each image."""
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


def _smeared(case: Case) -> Floats:
    """Before, as the renderer has it; in the end, the same change everywhere."""
    first, last = [], []
    for name in case.names:
        change, region, counts = _changes(case, name)
        first.append(_scores(case.value, change[counts], region[counts]).mean())
        blind = {"focus": 0.0, "concentration": 0.0}
        last.append(blind.get(case.value, region[counts].mean()))
    return case.ends(float(np.mean(first)), float(np.mean(last)))


def _strayed(case: Case) -> Floats:
    """In the end, the same changes in an order that knows nothing of the region."""
    first, last = [], []
    for name in case.names:
        change, region, counts = _changes(case, name)
        change, region = change[counts], region[counts]
        generator = numpy_stream(0, "stray/brute", name)
        elsewhere = np.stack([row[generator.permutation(len(row))] for row in change])
        first.append(_scores(case.value, change, region).mean())
        last.append(_scores(case.value, elsewhere, region).mean())
    return case.ends(float(np.mean(first)), float(np.mean(last)))


def _judge_of(case: Case) -> Judge | None:
    return case.subject.judge


def _shift(before: torch.Tensor, after: torch.Tensor) -> Floats:
    return ((after.double().exp() - before.double().exp()).abs().sum(1) / 2).numpy()


def _selective(case: Case) -> Floats:
    """The judge on the ends of the path; and on the same with every other label turned over where one was."""
    judge, subject, originals = _judge_of(case), case.subject, case.cells[0].bench.originals
    if judge is None:
        return case.ends(math.nan, math.nan)
    sizes = np.array([block.label.cardinality for block in originals.coding.blocks])
    shares: list[list[float]] = [[], []]
    for name in case.names:
        place = originals.block(name).place
        told: list[list[Mapping[str, torch.Tensor]]] = [[], []]
        for end in (0.0, 1.0):
            scene = originals.scene(Traverse(name, end).codes(subject, unseen(subject)))
            over = (scene.classes + 1) % sizes
            over[:, place] = scene.classes[:, place]
            turned = scene.classes[:, place] != scene.own_classes[:, place]
            leaky = np.where(turned[:, None], over, scene.classes)
            for leaks, classes in enumerate((scene.classes, leaky)):
                told[leaks].append(judge.log_probabilities(originals.draw(scene.factors, classes)))
        for leaks, (before, after) in enumerate(told):
            sums = {label: _shift(before[label], after[label]).sum() for label in before}
            shares[leaks].append(float(sums[name] / sum(sums.values())))
    return case.ends(*(float(np.mean(share)) for share in shares))


def _courses(case: Case) -> dict[str, Floats]:
    """The judged probability of presence at even mixtures of absent and present, for each label, shape (N, K)."""
    judge, subject, originals = _judge_of(case), case.subject, case.cells[0].bench.originals
    settings: Any = case.metric
    found: dict[str, Floats] = {}
    scene = originals.scene(subject.codes)
    for name in case.names if judge is not None else ():
        absent, present = originals.both(originals.block(name), scene.factors, scene.classes)
        shares = [k / (settings.steps - 1) for k in range(settings.steps)]
        told = [judge.log_probabilities(absent.lerp(present, share))[name] for share in shares] if judge else []
        found[name] = torch.stack([at.double().exp()[:, 1] for at in told], 1).numpy()
    return found


def _judged_monotone(case: Case) -> Floats:
    """The judge's course as it is, and in an order at random."""
    first: list[float] = []
    last: list[float] = []
    for name, course in _courses(case).items():
        generator = numpy_stream(0, "wobble/judged", name)
        orders = np.stack([wobbled(1.0, generator, course.shape[1]) for _ in range(PERMUTATIONS)])
        for found, paths in ((first, course[:, None]), (last, course[:, orders])):
            steps = np.abs(np.diff(paths, axis=2)).sum(2)
            way = np.abs(paths[:, :, -1] - paths[:, :, 0])
            enough = steps >= getattr(case.metric, "least_response", 0.0)
            found.append(float((way / np.where(enough, steps, 1.0))[enough].mean()))
    return case.ends(*(float(np.mean(found)) if found else math.nan for found in (first, last)))


def _judged_evenness(case: Case) -> Floats:
    """The judge's course over an even path; a jump in the end."""
    first = []
    for course in _courses(case).values():
        steps = np.abs(np.diff(course, axis=1))
        enough = steps.sum(1) >= getattr(case.metric, "least_response", 0.0)
        first.append(float((steps.mean(1) / steps.max(1))[enough].mean()))
    return case.ends(float(np.mean(first)) if first else math.nan, 1 / (getattr(case.metric, "steps", 2) - 1))


def _redraws(case: Case, name: str, first: int) -> tuple[list[torch.Tensor], np.ndarray[Any, Any]]:
    """As many true re-draws as the metric draws, from a number on, and the class that they show."""
    subject, settings = case.subject, case.metric
    data: Any = subject.data
    label = subject.schema[name]
    value = torch.ones(len(subject)) if label.kind == "binary" else subject.target_class(name).float()
    draws = range(first, first + getattr(settings, "draws", 0))
    return [data.redraw(subject.ids, name, value.numpy(), draw) for draw in draws], value.long().numpy()


def _obeyed(case: Case, name: str) -> tuple[Floats, list[torch.Tensor]]:
    """Which of the true re-draws the judge takes for what they are, shape (N, S)."""
    images, classes = _redraws(case, name, 0)
    judge = _judge_of(case)
    if judge is None:
        return np.full((len(classes), len(images)), math.nan), images
    told = [judge.log_probabilities(x)[name].argmax(1).numpy() == classes for x in images]
    return np.stack(told, 1).astype(np.float64), images


def _obeyed_of_redraws(case: Case) -> Floats:
    shares = [_obeyed(case, name)[0].mean() for name in case.names]
    return case.ends(float(np.mean(shares)), case.chance())


def _inside(case: Case, name: str) -> Bools:
    data: Any = case.subject.data
    region: Bools = data.region(case.subject.ids, name)
    share = region.mean((1, 2))
    largest = getattr(case.metric, "largest_region", 1.0)
    region[(share == 0) | (share > largest)] = False
    return region


def _valid_spread(case: Case) -> Floats:
    """Distances of the true re-draws inside the region, pair by pair; all are obeyed or the image is left to chance."""
    means = []
    for name in case.names:
        obeyed, images = _obeyed(case, name)
        region = _inside(case, name)
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
"""Sets of true re-draws, each as large as the metric draws: the root of a variance depends on how many enter it."""


def _feature_spread(case: Case) -> Floats:
    """Distances of the features of other true re-draws, pair by pair; all that lies outside the region is the image's.

    The features are the metric's own. What is known of them is how they vary in pictures that the renderer drew.
    """
    subject, settings = case.subject, case.metric
    extractor = extractor_named(getattr(settings, "features", ""), subject)

    def told(images: torch.Tensor) -> Floats:
        return np.asarray(extractor.features(images).double().cpu().numpy())

    images = subject.data.batch(subject.ids).images
    deviation = told(images[:REAL_IMAGES]).std(0)
    usable, means = deviation > STILL, []
    for name in case.names:
        region = _inside(case, name)
        mask = torch.from_numpy(region)[:, None]
        for repeat in range(1, REPEATS + 1):
            drawn, _ = _redraws(case, name, 1000 * repeat)
            seen = np.stack([told(torch.where(mask, x, images)) for x in drawn], 1)[:, :, usable] / deviation[usable]
            squares = np.array([pdist(row, "sqeuclidean").mean() for row in seen[region.any((1, 2))]])
            means.append(np.sqrt(squares / usable.sum()).mean())
    return case.ends(float(np.mean(means)), 0.0)


def _recalled(case: Case) -> Floats:
    """True re-draws beside as many other true re-draws; and beside the one picture of the middle variety."""
    first, last = [], []
    data: Any = case.subject.data
    neighbour = getattr(case.metric, "neighbour", 1)
    for name in case.names:
        (true, classes), (others, _) = _redraws(case, name, 0), _redraws(case, name, 1000)
        middle = np.full((len(classes), len(data.variety_names(name))), 0.5)
        single = data.with_variety(case.subject.ids, {name: classes.astype(np.float32)}, {name: middle})
        region = _inside(case, name)
        for row in np.flatnonzero(region.any((1, 2))):
            cut = [np.stack([x[row].double().numpy()[:, region[row]].ravel() for x in some]) for some in (true, others)]
            radius = np.sort(cdist(cut[0], cut[0]), axis=1)[:, neighbour]
            alone = single[row].double().numpy()[:, region[row]].ravel()[None]
            first.append((cdist(cut[0], cut[1]).min(1) < radius).mean())
            last.append((cdist(cut[0], alone).min(1) < radius).mean())
    return case.ends(float(np.mean(first)), float(np.mean(last)))


RENDERED: Mapping[tuple[str, str, str], Known] = {
    **{("locality", value, "smear"): _smeared for value in ("focus", "inside", "inside_energy", "concentration")},
    **{("locality", value, "stray"): _strayed for value in ("focus", "inside", "ap")},
    ("locality", "selectivity", "leak"): _selective,
    ("locality", "judged_monotone", "wobble"): _judged_monotone,
    ("locality", "judged_evenness", "jump"): _judged_evenness,
    ("diversity", "obeyed", "idle"): _obeyed_of_redraws,
    ("diversity", "spread_valid", "collapse"): _valid_spread,
    ("diversity", "recall", "collapse"): _recalled,
    ("diversity", "feature_spread", "collapse"): _feature_spread,
}
"""By (metric, value, dial)."""
