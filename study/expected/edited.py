"""Expected values of edited and sampled images, from the renderer and from kornia."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np
import torch
from kornia.metrics import ssim
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch.nn.functional import max_pool2d

from ccvae_eval.calibration.reference_images import ReferenceImages
from ccvae_eval.calibration.study_cells import Case, reading_of
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Floats, Images
from ccvae_eval.evaluation.interventions import Together, donor_rows
from study.expected.known import ExpectedValues

WINDOW = 7
"""Side of the SSIM window outside a region: docs/metrics.md, section 6."""


def references_of(case: Case) -> ReferenceImages:
    return case.cells[0].context.references


def with_classes(case: Case, **classes: Any) -> Images:
    """The reference images rendered with other classes of some labels."""
    references = references_of(case)
    chosen = references.classes.copy()
    for name, value in classes.items():
        chosen[:, references.block(name).place] = value
    return references.draw(references.factors, chosen)


def mean_of(parts: list[float]) -> float:
    """Mean of some numbers; NaN if there are none."""
    return float(np.mean(parts)) if parts else math.nan


def _judged_classes(case: Case, images: Images, name: str) -> Floats:
    """Classes that the judge predicts, shape (N,); NaN without a judge."""
    judge = case.subject.judge
    if judge is None:
        return np.full(len(images), math.nan)
    return np.asarray(judge.log_probabilities(images)[name].argmax(1).double().numpy())


def _line(case: Case, first: float, last: float) -> Floats:
    return np.asarray(first + case.positions * (last - first))


def _effect(case: Case) -> Floats:
    """Judged share of the target class in rendered edits; at the end, in the originals."""
    found = []
    for name in case.names:
        then = case.subject.target_class(name).numpy()
        here = then >= 0
        found.append(float((_judged_classes(case, with_classes(case, **{name: then}), name) == then)[here].mean()))
    return _line(case, mean_of(found), case.chance())


def _rendered_swap(case: Case, name: str) -> tuple[Images, NDArray[np.int64]]:
    """Images with their donors' class and variety, and the rows of the donors; -1 without one."""
    references, donors = references_of(case), donor_rows(case.subject, name).numpy()
    block = references.block(name)
    places, factors, classes = list(block.factors), references.factors.copy(), references.classes.copy()
    factors[:, places] = references.factors[donors][:, places]
    classes[:, block.place] = references.classes[donors, block.place]
    return references.draw(factors, classes), donors


def _transfer(case: Case) -> Floats:
    """Judged gain of the donor's class in rendered swaps; 0 at the end."""
    found, references = [], references_of(case)
    for name in case.names:
        after, donors = _rendered_swap(case, name)
        donor_classes = references.classes[donors, references.block(name).place]
        seen = [
            (_judged_classes(case, images, name) == donor_classes).astype(float)
            for images in (after, with_classes(case))
        ]
        found.append(float((seen[0] - seen[1])[donors >= 0].mean()))
    return _line(case, mean_of(found), 0.0)


def _identity(case: Case) -> Floats:
    """1 - SSIM outside both regions of rendered swaps, by kornia.

    It is above 0, because a region contains changes above 8/255 only, and variety may reach beyond it.
    """
    found, x = [], with_classes(case)
    for name in case.names:
        after, donors = _rendered_swap(case, name)
        region = region_of(case, name)
        both = torch.from_numpy(region | region[donors])[:, None].float()
        outside = (max_pool2d(both, WINDOW, 1, WINDOW // 2) == 0)[:, 0].numpy()
        one, other = (torch.from_numpy(grey_of(images))[:, None] for images in (x, after))
        apart = 1 - ssim(one, other, WINDOW)[:, 0].numpy()
        rows = np.flatnonzero((donors >= 0) & region.any((1, 2)) & region[donors].any((1, 2)) & outside.any((1, 2)))
        found.append(float(np.mean([apart[row][outside[row]].mean() for row in rows])))
    return case.ends(mean_of(found), math.nan)


def _others_changed(references: ReferenceImages, classes: Any, place: int) -> Any:
    """The classes with all labels but one changed to the next class."""
    sizes = np.array([block.label.cardinality for block in references.coding.blocks])
    over = (classes + 1) % sizes
    over[:, place] = classes[:, place]
    return over


def _kept(case: Case) -> Floats:
    """Share of other labels with the same judged class in rendered edits; at the end, with all of them changed."""
    judge, references = case.subject.judge, references_of(case)
    if judge is None:
        return case.ends(math.nan, math.nan)
    before = {j: p.argmax(1).numpy() for j, p in judge.log_probabilities(with_classes(case)).items()}
    ends: list[list[float]] = [[], []]
    for name in case.names:
        place, then = references.block(name).place, case.subject.target_class(name).numpy()
        classes = references.classes.copy()
        classes[:, place] = then
        for found, chosen in zip(ends, (classes, _others_changed(references, classes, place)), strict=True):
            after = judge.log_probabilities(references.draw(references.factors, chosen))
            same = [(p.argmax(1).numpy() == before[j])[then >= 0].mean() for j, p in after.items() if j != name]
            found.append(float(np.mean(same)))
    return case.ends(*(mean_of(found) for found in ends))


def _assignment(case: Case) -> Floats:
    """Judged share of the assignment in its renderings; at the end, in the originals."""
    wanted = dict(part.split("=") for part in getattr(case.metric, "assign", "").split(",") if part)
    if not wanted:
        return case.ends(math.nan, math.nan)
    values = {name: int(value) for name, value in wanted.items()}
    images = with_classes(case, **values)
    together = np.all([_judged_classes(case, images, name) == value for name, value in values.items()], axis=0)
    return _line(case, float(together.mean()), case.chance())


def _fade_distance(case: Case) -> Floats:
    """Distance to the mean image, in proportion to the strength."""
    x, mean = with_classes(case).double(), references_of(case).mean_image.double()
    return _line(case, 0.0, float((x - mean).abs().mean()))


def _reversibility(case: Case) -> Floats:
    """Known at the end only: transport is fitted, so invisible variety returns slightly changed."""
    return case.ends(math.nan, float(_fade_distance(case)[-1]))


def region_of(case: Case, name: str) -> Bools:
    """Region of a label in each image, shape (N, H, W); empty where it is too large."""
    data: Any = case.subject.data
    region: Bools = data.region(case.subject.ids, name)
    share = region.mean((1, 2))
    region[(share == 0) | (share > getattr(case.metric, "largest_region", 1.0))] = False
    return region


def _errors(case: Case, perturb: Callable[[Any, int], Any]) -> Floats:
    """0, and at the end the distance of the perturbed classes to the image without the attribute."""
    references, inside = references_of(case), case.row_key("where") == "inside"
    found = []
    for name in case.names:
        block, region = references.block(name), region_of(case, name)
        rows = np.flatnonzero((references.classes[:, block.place] == 1) & region.any((1, 2)))
        absent = references.classes[rows].copy()
        absent[:, block.place] = 0
        own = references.factors[rows]
        truth, shown = (references.draw(own, classes) for classes in (absent, perturb(absent, block.place)))
        change = (shown - truth).abs().mean(1).double().numpy()
        where = region[rows] if inside else ~region[rows]
        found.append(float(((change * where).sum((1, 2)) / where.sum((1, 2))).mean()))
    return case.ends(0.0, mean_of(found))


def _idle_error(case: Case) -> Floats:
    """At the end the attribute is still present."""

    def present(classes: Any, place: int) -> Any:
        found = classes.copy()
        found[:, place] = 1
        return found

    return _errors(case, present)


def _leak_error(case: Case) -> Floats:
    """At the end all other labels are changed."""
    return _errors(case, lambda classes, place: _others_changed(references_of(case), classes, place))


def _energy(case: Case) -> Floats:
    """0, and at the end the energy distance between the middle variety and resampled ones."""
    data: Any = case.subject.data
    references, draws, found = references_of(case), getattr(case.metric, "draws", 2), []
    for name in case.names:
        block, region = references.block(name), region_of(case, name)
        kind, asked = case.subject.schema[name].kind, case.subject.target_class(name).numpy()
        classes = np.ones_like(asked) if kind == "binary" else asked
        rows = np.flatnonzero((classes != references.classes[:, block.place]) & region.any((1, 2)))
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


def _together(case: Case) -> Floats:
    """Judged share of several labels that are set; under idle, the mean over which of them are really set."""
    if case.subject.judge is None:
        return case.ends(math.nan, math.nan)
    names = [n for n in sorted(case.cells[0].characteristics) if reading_of(case.tables[0], "effect", n).defined]
    count, found = int(case.row_key("set")), np.zeros(len(case.cells))
    targets = Together(count, tuple(names)).targets(case.subject)
    now = np.stack([case.subject.current_class(name).numpy() for name in names], 1)
    then = np.stack([targets[name].numpy() for name in names], 1)
    place = np.maximum((then >= 0).cumsum(1) - 1, 0)
    for active in product((True, False), repeat=count):
        shown = np.where((then >= 0) & np.array(active)[place], then, now)
        images = with_classes(case, **dict(zip(names, shown.T, strict=True)))
        judged = np.stack([_judged_classes(case, images, name) for name in names], 1)
        obeyed = ((then < 0) | (judged == then)).all(1).mean()
        found += obeyed * np.prod([1 - case.strengths if works else case.strengths for works in active], 0)
    return found


def _unfairness(case: Case) -> Floats:
    """Unfairness of rendered edits; at the end, of edits that all other labels follow; linear in between.

    An edit takes each image of one class of the binary label to the other, so every image counts once for each class.
    """
    judge, references, by = case.subject.judge, references_of(case), case.subject.by
    if judge is None or by is None:
        return case.ends(math.nan, math.nan)
    place, ends = references.block(by).place, []
    now, sizes = references.classes[:, place], np.array([b.label.cardinality for b in references.coding.blocks])
    follow = (1 - now)[:, None] % sizes
    edited = np.where(np.arange(len(sizes)) == place, follow, references.classes)
    before = _judged_labels(case, references.classes)
    for after in (_judged_labels(case, edited), _judged_labels(case, follow)):
        distances = [
            abs((before[j] == y).mean() - (np.where(now == v, before[j], after[j]) == y).mean()) / 2
            for j in before if j != by for v in (0, 1) for y in range(case.subject.schema[j].cardinality)
        ]  # fmt: skip
        ends.append(float(np.sum(distances)) / (2 * (len(before) - 1)))
    return _line(case, *ends)


def _judged_labels(case: Case, classes: Any) -> dict[str, Any]:
    """Judged class of each label in the reference images rendered with other classes."""
    judge: Any = case.subject.judge
    references = references_of(case)
    found = judge.log_probabilities(references.draw(references.factors, classes))
    return {name: p.argmax(1).numpy() for name, p in found.items()}


LEAST_PER_CLASS = 20
"""Images of a class that realism and minimality need: docs/metrics/intervention.md."""
FAMILIES = 8
"""Sets of other real images behind the expected values of samples from a perfect prior."""


def _features(case: Case, images: Images) -> Floats:
    judge: Any = case.subject.judge
    return np.asarray(judge.features(images).double().cpu().numpy())


def _sample_ends(case: Case) -> Floats:
    """Other real images in place of the samples; at the end the mean image, or black."""
    if case.subject.judge is None:
        return case.ends(math.nan, math.nan)
    data, count = case.subject.data, len(case.subject)
    real, others = _features(case, with_classes(case)), np.setdiff1d(data.split("train"), case.subject.ids)
    generator = numpy_stream(0, "edited/others")
    first = [
        _feature_score(
            case, real, _features(case, data.batch(np.sort(generator.choice(others, count, replace=False))).images)
        )
        for _ in range(FAMILIES)
    ]
    shape = (count, *references_of(case).mean_image.shape)
    end = (
        references_of(case).mean_image.expand(shape)
        if case.cells[0].perturbation.name == "fade"
        else torch.zeros(shape)
    )
    return case.ends(
        0.0 if case.value == "kernel" else mean_of(first), _feature_score(case, real, _features(case, end))
    )


def _frechet(real: Floats, drawn: Floats) -> float:
    means, spreads = [x.mean(0) for x in (real, drawn)], [np.cov(x.T) for x in (real, drawn)]
    # eigenvalues of the product, because sqrtm warns about singular covariances
    root = np.sqrt(np.maximum(np.real(np.linalg.eigvals(spreads[0] @ spreads[1])), 0)).sum()
    return float(np.square(means[0] - means[1]).sum() + np.trace(spreads[0] + spreads[1]) - 2 * root)


def _kernel(real: Floats, drawn: Floats) -> float:
    own_real, own_drawn, across = (
        (x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((real, real), (drawn, drawn), (real, drawn))
    )
    own = [k[~np.eye(len(k), dtype=bool)].mean() for k in (own_real, own_drawn)]
    return float(sum(own) - 2 * across.mean())


def _realism(case: Case) -> Floats:
    """Distance of rendered edits to the originals of their class; at the end, of as many copies of the mean image."""
    if case.subject.judge is None:
        return case.ends(math.nan, math.nan)
    distance, references = _frechet if case.value.endswith("frechet") else _kernel, references_of(case)
    ends: list[list[float]] = [[], []]
    real, mean = _features(case, with_classes(case)), _features(case, references.mean_image[None])
    for name in case.names:
        then, classes = case.subject.target_class(name).numpy(), references.classes[:, references.block(name).place]
        edited = _features(case, with_classes(case, **{name: then}))
        pairs = [(np.flatnonzero(then == k), np.flatnonzero(classes == k)) for k in np.unique(classes)]
        pairs = [(to, of) for to, of in pairs if min(len(to), len(of)) >= LEAST_PER_CLASS]
        if pairs:
            ends[0].append(mean_of([distance(real[of], edited[to]) for to, of in pairs]))
            ends[1].append(mean_of([distance(real[of], mean.repeat(len(to), 0)) for to, of in pairs]))
    return case.ends(*map(mean_of, ends))


def _minimality(case: Case) -> Floats:
    """Divergence of rendered edits; at the end, of edits that change every other label, too."""
    if case.subject.judge is None:
        return case.ends(math.nan, math.nan)
    references, real = references_of(case), _features(case, with_classes(case))
    ends: list[list[float]] = [[], []]
    apart = np.abs(real[:, None] - real).mean(2)
    for name in case.names:
        place, then = references.block(name).place, case.subject.target_class(name).numpy()
        now, classes = references.classes[:, place], references.classes.copy()
        classes[:, place] = then
        counts = {k: int((now == k).sum()) for k in np.unique(now)}
        rows = [i for i in range(len(now)) if min(counts[now[i]], counts.get(then[i], 0)) >= LEAST_PER_CLASS]
        for found, chosen in zip(ends, (classes, _others_changed(references, classes, place)), strict=True):
            edited = _features(case, references.draw(references.factors, chosen))
            divergences = []
            for i in rows:
                moved, own = np.abs(edited[i] - real[i]).mean(), now == now[i]
                own[i] = False
                near, far = (apart[i, now == then[i]] <= moved).mean(), (apart[i, own] >= moved).mean()
                divergences.append(math.log(0.8 * math.exp(near) + 0.2 * math.exp(far)))
            if divergences:
                found.append(mean_of(divergences))
    return case.ends(*map(mean_of, ends))


def _feature_score(case: Case, real: Floats, drawn: Floats) -> float:
    """The score of two sets of features, by its formula."""
    if case.value in ("frechet", "kernel"):
        return (_frechet if case.value == "frechet" else _kernel)(real, drawn)
    k = getattr(case.metric, "neighbour", 5)
    radius, drawn_radius = (np.sort(cdist(x, x), axis=1)[:, k] for x in (real, drawn))
    distances = cdist(drawn, real)
    inside = distances <= radius
    return float({
        "prdc_precision": inside.any(1).mean(), "prdc_density": inside.sum(1).mean() / k,
        "prdc_coverage": inside.any(0).mean(), "prdc_recall": (distances <= drawn_radius[:, None]).any(0).mean(),
    }[case.value])  # fmt: skip


def _active_share(case: Case) -> Floats:
    """Share of the interventions that have an effect."""
    return 1 - case.positions


EDITED: Mapping[tuple[str, str, str], ExpectedValues] = {
    ("intervention", "effect", "idle"): _effect,
    ("intervention", "transfer", "idle"): _transfer,
    ("intervention", "kept", "leak"): _kept,
    ("intervention", "obeyed", "idle"): _assignment,
    ("intervention", "identity", "warp"): _identity,
    ("intervention", "fidelity", "idle"): lambda case: case.ends(0.0, case.chance()),
    ("intervention", "composition", "fade"): _fade_distance,
    ("intervention", "reversibility", "fade"): _reversibility,
    ("intervention", "error", "idle"): _idle_error,
    ("intervention", "error", "leak"): _leak_error,
    ("intervention", "energy", "collapse"): _energy,
    ("intervention", "realism", "fade"): _realism,
    ("intervention", "realism_frechet", "fade"): _realism,
    ("intervention", "minimality", "leak"): _minimality,
    ("intervention", "obeyed_together", "idle"): _together,
    ("intervention", "unfairness", "bias"): _unfairness,
    **{("generation", value, "fade"): _sample_ends for value in ("frechet", "kernel", "prdc_recall", "prdc_coverage")},
    **{("generation", value, "dim"): _sample_ends for value in ("prdc_precision", "prdc_density")},
    ("generation", "obeyed", "idle"): lambda case: case.ends(case.reference(), case.chance()),
    **{(metric, "changed", "idle"): _active_share for metric in ("locality", "drift")},
}
"""By (metric, value, perturbation)."""
