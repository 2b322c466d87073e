"""Known values of edited and drawn pictures, from the renderer and from kornia."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from kornia.metrics import ssim
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch.nn.functional import max_pool2d

from ccvae_eval.calibration.reference_images import ReferenceImages
from ccvae_eval.calibration.study_cells import Case
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Floats, Images
from ccvae_eval.evaluation.interventions import donor_rows
from study.expected.known import Known

WINDOW = 7
"""Of the structural similarity outside a region: docs/metrics.md, section 6."""


def originals_of(case: Case) -> ReferenceImages:
    return case.cells[0].bench.originals


def with_classes(case: Case, **classes: Any) -> Images:
    """The originals with other classes of some labels."""
    originals = originals_of(case)
    chosen = originals.classes.copy()
    for name, value in classes.items():
        chosen[:, originals.block(name).place] = value
    return originals.draw(originals.factors, chosen)


def mean_of(parts: list[float]) -> float:
    """Of some numbers; NaN of none."""
    return float(np.mean(parts)) if parts else math.nan


def _seen(case: Case, images: Images, name: str) -> Floats:
    """The class that the judge sees, shape (N,); NaN without a judge."""
    judge = case.subject.judge
    if judge is None:
        return np.full(len(images), math.nan)
    return np.asarray(judge.log_probabilities(images)[name].argmax(1).double().numpy())


def _line(case: Case, first: float, last: float) -> Floats:
    return np.asarray(first + case.positions * (last - first))


def _effect(case: Case) -> Floats:
    """What the judge sees in the renderer's own edits; idle, what it sees in the originals."""
    found = []
    for name in case.names:
        then = case.subject.target_class(name).numpy()
        here = then >= 0
        found.append(float((_seen(case, with_classes(case, **{name: then}), name) == then)[here].mean()))
    return _line(case, mean_of(found), case.chance())


def _swapped(case: Case, name: str) -> tuple[Images, NDArray[np.int64]]:
    """The donor's class in the donor's look, and who the donors are (-1: there is none)."""
    originals, donors = originals_of(case), donor_rows(case.subject, name).numpy()
    block = originals.block(name)
    places, factors, classes = list(block.factors), originals.factors.copy(), originals.classes.copy()
    factors[:, places] = originals.factors[donors][:, places]
    classes[:, block.place] = originals.classes[donors, block.place]
    return originals.draw(factors, classes), donors


def _transfer(case: Case) -> Floats:
    """The donor's class is seen; idle, nothing."""
    found, originals = [], originals_of(case)
    for name in case.names:
        after, donors = _swapped(case, name)
        theirs = originals.classes[donors, originals.block(name).place]
        seen = [(_seen(case, images, name) == theirs).astype(float) for images in (after, with_classes(case))]
        found.append(float((seen[0] - seen[1])[donors >= 0].mean()))
    return _line(case, mean_of(found), 0.0)


def _identity(case: Case) -> Floats:
    """What the renderer's own swaps change outside both regions, by kornia: a hair, and not 0.

    A region is where 16 re-draws differ by more than 8/255; some donor's look reaches a little farther, or fainter.
    """
    found, x = [], with_classes(case)
    for name in case.names:
        after, donors = _swapped(case, name)
        region = region_of(case, name)
        both = torch.from_numpy(region | region[donors])[:, None].float()
        outside = (max_pool2d(both, WINDOW, 1, WINDOW // 2) == 0)[:, 0].numpy()
        one, other = (torch.from_numpy(grey_of(images))[:, None] for images in (x, after))
        apart = 1 - ssim(one, other, WINDOW)[:, 0].numpy()
        rows = np.flatnonzero((donors >= 0) & region.any((1, 2)) & region[donors].any((1, 2)) & outside.any((1, 2)))
        found.append(float(np.mean([apart[row][outside[row]].mean() for row in rows])))
    return case.ends(mean_of(found), math.nan)


def _flipped(originals: ReferenceImages, classes: Any, place: int) -> Any:
    """All other labels turned over."""
    sizes = np.array([block.label.cardinality for block in originals.coding.blocks])
    over = (classes + 1) % sizes
    over[:, place] = classes[:, place]
    return over


def _kept(case: Case) -> Floats:
    """Labels of which the judge sees the same in the renderer's edits, with the others as they were and turned over."""
    judge, originals = case.subject.judge, originals_of(case)
    if judge is None:
        return case.ends(math.nan, math.nan)
    before = {j: p.argmax(1).numpy() for j, p in judge.log_probabilities(with_classes(case)).items()}
    ends: list[list[float]] = [[], []]
    for name in case.names:
        place, then = originals.block(name).place, case.subject.target_class(name).numpy()
        classes = originals.classes.copy()
        classes[:, place] = then
        for found, chosen in zip(ends, (classes, _flipped(originals, classes, place)), strict=True):
            after = judge.log_probabilities(originals.draw(originals.factors, chosen))
            same = [(p.argmax(1).numpy() == before[j])[then >= 0].mean() for j, p in after.items() if j != name]
            found.append(float(np.mean(same)))
    return case.ends(*(mean_of(found) for found in ends))


def _assigned(case: Case) -> Floats:
    """The judge on renderings of the assignment; idle, on the originals."""
    wanted = dict(part.split("=") for part in getattr(case.metric, "assign", "").split(",") if part)
    if not wanted:
        return case.ends(math.nan, math.nan)
    values = {name: int(value) for name, value in wanted.items()}
    images = with_classes(case, **values)
    together = np.all([_seen(case, images, name) == value for name, value in values.items()], axis=0)
    return _line(case, float(together.mean()), case.chance())


def _faded_distance(case: Case) -> Floats:
    """Each pixel goes l of its way to the mean image."""
    x, mean = with_classes(case).double(), originals_of(case).mean_image.double()
    return _line(case, 0.0, float((x - mean).abs().mean()))


def _there_and_back(case: Case) -> Floats:
    """Only the end: transport is fitted, and a look that was out of sight comes back a little changed."""
    return case.ends(math.nan, float(_faded_distance(case)[-1]))


def region_of(case: Case, name: str) -> Bools:
    """Where a label may change each image, shape (N, H, W); nowhere where its region is empty or too large."""
    data: Any = case.subject.data
    region: Bools = data.region(case.subject.ids, name)
    share = region.mean((1, 2))
    region[(share == 0) | (share > getattr(case.metric, "largest_region", 1.0))] = False
    return region


def _errors(case: Case, spoil: Callable[[Any, int], Any]) -> Floats:
    """From the image without an attribute to what stands in its place in the end, inside or outside the region."""
    originals, inside = originals_of(case), case.told_apart("where") == "inside"
    found = []
    for name in case.names:
        block, region = originals.block(name), region_of(case, name)
        rows = np.flatnonzero((originals.classes[:, block.place] == 1) & region.any((1, 2)))
        absent = originals.classes[rows].copy()
        absent[:, block.place] = 0
        own = originals.factors[rows]
        truth, shown = (originals.draw(own, classes) for classes in (absent, spoil(absent, block.place)))
        change = (shown - truth).abs().mean(1).double().numpy()
        where = region[rows] if inside else ~region[rows]
        found.append(float(((change * where).sum((1, 2)) / where.sum((1, 2))).mean()))
    return case.ends(0.0, mean_of(found))


def _left(case: Case) -> Floats:
    """Idle, the attribute is still there."""

    def present(classes: Any, place: int) -> Any:
        found = classes.copy()
        found[:, place] = 1
        return found

    return _errors(case, present)


def _leaked(case: Case) -> Floats:
    """All other attributes are turned over."""
    return _errors(case, lambda classes, place: _flipped(originals_of(case), classes, place))


def _energy(case: Case) -> Floats:
    """The look in the middle, as often as it is drawn, beside as many true looks."""
    data: Any = case.subject.data
    originals, draws, found = originals_of(case), getattr(case.metric, "draws", 2), []
    for name in case.names:
        block, region = originals.block(name), region_of(case, name)
        kind, asked = case.subject.schema[name].kind, case.subject.target_class(name).numpy()
        classes = np.ones_like(asked) if kind == "binary" else asked
        rows = np.flatnonzero((classes != originals.classes[:, block.place]) & region.any((1, 2)))
        ids, value = case.subject.ids[rows], classes[rows].astype(np.float32)
        middle = np.full((len(rows), len(data.variety_names(name))), 0.5)
        single = data.with_variety(ids, {name: value}, {name: middle})
        true = [data.redraw(ids, name, value, d) for d in range(draws)]
        where = region[rows]

        def apart(one: Images, other: Images, where: Bools = where) -> Floats:
            change = (one - other).abs().mean(1).double().numpy()
            return np.asarray((change * where).sum((1, 2)) / where.sum((1, 2)))

        across = np.mean([apart(single, y) for y in true], axis=0)
        within = np.mean([apart(true[i], true[j]) for i in range(draws) for j in range(i)], axis=0)
        found.append(float((across - within / 2).mean()))
    return case.ends(0.0, mean_of(found))


def grey_of(images: Images) -> Floats:
    """Luminance, shape (N, H, W)."""
    return np.asarray((images.double() * torch.tensor([0.299, 0.587, 0.114])[None, :, None, None]).sum(1).numpy())


FAMILIES = 8
"""Sets of other images behind what is known of draws from the images' own law."""


def _features(case: Case, images: Images) -> Floats:
    judge: Any = case.subject.judge
    return np.asarray(judge.features(images).double().cpu().numpy())


def _drawn_ends(case: Case) -> Floats:
    """Sets of other images of the data in the place of what is drawn; and in the end the mean image, or black."""
    if case.subject.judge is None:
        return case.ends(math.nan, math.nan)
    data, count = case.subject.data, len(case.subject)
    real, others = _features(case, with_classes(case)), np.setdiff1d(data.split("train"), case.subject.ids)
    generator = numpy_stream(0, "edited/others")
    first = [
        _compared(
            case, real, _features(case, data.batch(np.sort(generator.choice(others, count, replace=False))).images)
        )
        for _ in range(FAMILIES)
    ]
    shape = (count, *originals_of(case).mean_image.shape)
    end = originals_of(case).mean_image.expand(shape) if case.cells[0].dial.name == "fade" else torch.zeros(shape)
    return case.ends(0.0 if case.value == "kernel" else mean_of(first), _compared(case, real, _features(case, end)))


def _compared(case: Case, real: Floats, drawn: Floats) -> float:
    """One of the scores of two sets of features, by its formula."""
    if case.value == "frechet":
        means, spreads = [x.mean(0) for x in (real, drawn)], [np.cov(x.T) for x in (real, drawn)]
        # eigenvalues of a product of two covariances: sqrtm warns of singular ones
        root = np.sqrt(np.maximum(np.real(np.linalg.eigvals(spreads[0] @ spreads[1])), 0)).sum()
        return float(np.square(means[0] - means[1]).sum() + np.trace(spreads[0] + spreads[1]) - 2 * root)
    if case.value == "kernel":
        parts = [(x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((real, real), (drawn, drawn), (real, drawn))]
        apart = ~np.eye(len(real), dtype=bool)
        return float(parts[0][apart].mean() + parts[1][apart].mean() - 2 * parts[2].mean())
    k = getattr(case.metric, "neighbour", 5)
    reach, theirs = (np.sort(cdist(x, x), axis=1)[:, k] for x in (real, drawn))
    apart_by = cdist(drawn, real)
    inside = apart_by <= reach
    return float({
        "prdc_precision": inside.any(1).mean(), "prdc_density": inside.sum(1).mean() / k,
        "prdc_coverage": inside.any(0).mean(), "prdc_recall": (apart_by <= theirs[:, None]).any(0).mean(),
    }[case.value])  # fmt: skip


def _undone(case: Case) -> Floats:
    """Where nothing is done nothing changes."""
    return 1 - case.positions


EDITED: Mapping[tuple[str, str, str], Known] = {
    ("intervention", "effect", "idle"): _effect,
    ("intervention", "transfer", "idle"): _transfer,
    ("intervention", "kept", "leak"): _kept,
    ("intervention", "obeyed", "idle"): _assigned,
    ("intervention", "identity", "warp"): _identity,
    ("intervention", "fidelity", "idle"): lambda case: case.ends(0.0, case.chance()),
    ("intervention", "composition", "fade"): _faded_distance,
    ("intervention", "reversibility", "fade"): _there_and_back,
    ("intervention", "error", "idle"): _left,
    ("intervention", "error", "leak"): _leaked,
    ("intervention", "energy", "collapse"): _energy,
    **{("generation", value, "fade"): _drawn_ends for value in ("frechet", "kernel", "prdc_recall", "prdc_coverage")},
    **{("generation", value, "dim"): _drawn_ends for value in ("prdc_precision", "prdc_density")},
    ("generation", "obeyed", "idle"): lambda case: case.ends(case.reference(), case.chance()),
    **{(metric, "changed", "idle"): _undone for metric in ("locality", "drift")},
}
"""By (metric, value, dial)."""
