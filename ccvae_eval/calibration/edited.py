"""Known values of edited, rebuilt and drawn pictures, from the renderer and what others have written.

SSIM is kornia's, correspondence OpenCV's template matching, densities SciPy's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from kornia.metrics import ssim
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from scipy.stats import norm

from ccvae_eval.calibration.coding import DEVIATION
from ccvae_eval.calibration.known import Case, Known
from ccvae_eval.calibration.originals import Originals
from ccvae_eval.calibration.spoilt import class_shares
from ccvae_eval.interventions import donor_rows
from ccvae_eval.streams import numpy_stream
from ccvae_eval.types import Bools, Floats, Images

LEAST_ERROR = (1 / 255) ** 2 / 12
LEAST_LOG = -100.0
REPEATS = 3
"""Fresh noise behind the expectations of sampled values."""

CENTRES, PATCH, REACH = range(7, 56, 4), 4, 3
"""Of the lattice that ``grid`` lays over 64 pixels: docs/metrics.md, section 3."""


def _originals(case: Case) -> Originals:
    return case.cells[0].bench.originals


def _with(case: Case, **classes: Any) -> Images:
    """The originals with other classes of some labels."""
    originals = _originals(case)
    chosen = originals.classes.copy()
    for name, value in classes.items():
        chosen[:, originals.block(name).place] = value
    return originals.draw(originals.factors, chosen)


def _mean(parts: list[float]) -> float:
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
        then = case.subject.targets(name).numpy()
        here = then >= 0
        found.append(float((_seen(case, _with(case, **{name: then}), name) == then)[here].mean()))
    return _line(case, _mean(found), case.chance())


def _transfer(case: Case) -> Floats:
    """The donor's class in the donor's look; idle, nothing."""
    found, originals = [], _originals(case)
    for name in case.names:
        block, donors = originals.block(name), donor_rows(case.subject, name).numpy()
        here, places = donors >= 0, list(block.factors)
        factors, classes = originals.factors.copy(), originals.classes.copy()
        factors[:, places] = originals.factors[donors][:, places]
        classes[:, block.place] = originals.classes[donors, block.place]
        theirs = classes[:, block.place]
        after, before = (_seen(case, originals.draw(f, c), name) == theirs for f, c in (
            (factors, classes), (originals.factors, originals.classes)))  # fmt: skip
        found.append(float((after.astype(float) - before)[here].mean()))
    return _line(case, _mean(found), 0.0)


def _flipped(originals: Originals, classes: Any, place: int) -> Any:
    """All other labels turned over."""
    sizes = np.array([block.label.cardinality for block in originals.coding.blocks])
    over = (classes + 1) % sizes
    over[:, place] = classes[:, place]
    return over


def _kept(case: Case) -> Floats:
    """Labels of which the judge sees the same in the renderer's edits, with the others as they were and turned over."""
    judge, originals = case.subject.judge, _originals(case)
    if judge is None:
        return case.ends(math.nan, math.nan)
    before = {j: p.argmax(1).numpy() for j, p in judge.log_probabilities(_with(case)).items()}
    ends: list[list[float]] = [[], []]
    for name in case.names:
        place, then = originals.block(name).place, case.subject.targets(name).numpy()
        classes = originals.classes.copy()
        classes[:, place] = then
        for found, chosen in zip(ends, (classes, _flipped(originals, classes, place)), strict=True):
            after = judge.log_probabilities(originals.draw(originals.factors, chosen))
            same = [(p.argmax(1).numpy() == before[j])[then >= 0].mean() for j, p in after.items() if j != name]
            found.append(float(np.mean(same)))
    return case.ends(*(_mean(found) for found in ends))


def _assigned(case: Case) -> Floats:
    """The judge on renderings of the assignment; idle, on the originals."""
    wanted = dict(part.split("=") for part in getattr(case.metric, "assign", "").split(",") if part)
    if not wanted:
        return case.ends(math.nan, math.nan)
    values = {name: int(value) for name, value in wanted.items()}
    images = _with(case, **values)
    together = np.all([_seen(case, images, name) == value for name, value in values.items()], axis=0)
    return _line(case, float(together.mean()), case.chance())


def _faded_distance(case: Case) -> Floats:
    """Each pixel goes l of its way to the mean image."""
    x, mean = _with(case).double(), _originals(case).mean_image.double()
    return _line(case, 0.0, float((x - mean).abs().mean()))


def _there_and_back(case: Case) -> Floats:
    """Only the end: transport is fitted, and a look that was out of sight comes back a little changed."""
    return case.ends(math.nan, float(_faded_distance(case)[-1]))


def _region(case: Case, name: str) -> Bools:
    data: Any = case.subject.data
    region: Bools = data.region(case.subject.ids, name)
    share = region.mean((1, 2))
    region[(share == 0) | (share > getattr(case.metric, "largest_region", 1.0))] = False
    return region


def _errors(case: Case, spoil: Callable[[Any, int], Any]) -> Floats:
    """From the image without an attribute to what stands in its place in the end, inside or outside the region."""
    originals, inside = _originals(case), case.told_apart("where") == "inside"
    found = []
    for name in case.names:
        block, region = originals.block(name), _region(case, name)
        rows = np.flatnonzero((originals.classes[:, block.place] == 1) & region.any((1, 2)))
        absent = originals.classes[rows].copy()
        absent[:, block.place] = 0
        own = originals.factors[rows]
        truth, shown = (originals.draw(own, classes) for classes in (absent, spoil(absent, block.place)))
        change = (shown - truth).abs().mean(1).double().numpy()
        where = region[rows] if inside else ~region[rows]
        found.append(float(((change * where).sum((1, 2)) / where.sum((1, 2))).mean()))
    return case.ends(0.0, _mean(found))


def _left(case: Case) -> Floats:
    """Idle, the attribute is still there."""

    def present(classes: Any, place: int) -> Any:
        found = classes.copy()
        found[:, place] = 1
        return found

    return _errors(case, present)


def _leaked(case: Case) -> Floats:
    """All other attributes are turned over."""
    return _errors(case, lambda classes, place: _flipped(_originals(case), classes, place))


def _energy(case: Case) -> Floats:
    """The look in the middle, as often as it is drawn, beside as many true looks."""
    data: Any = case.subject.data
    originals, draws, found = _originals(case), getattr(case.metric, "draws", 2), []
    for name in case.names:
        block, region = originals.block(name), _region(case, name)
        kind, asked = case.subject.schema[name].kind, case.subject.targets(name).numpy()
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
    return case.ends(0.0, _mean(found))


def _nats(images: Images, means: Images) -> Floats:
    """Minus the Bernoulli cross-entropy of each image."""
    x, m = images.double().numpy(), means.double().numpy()
    with np.errstate(divide="ignore"):
        bright, dark = (np.maximum(np.log(part), LEAST_LOG) for part in (m, 1 - m))
    return np.asarray((x * bright + (1 - x) * dark).reshape(len(x), -1).sum(1), dtype=np.float64)


def _rebuilt(case: Case) -> Floats:
    """Of the originals and the same, faded by formula."""
    x, mean = _with(case), _originals(case).mean_image
    found = []
    for share in case.positions:
        faded = x.lerp(mean, float(share))
        if case.value == "ssim":
            window = getattr(case.metric, "window", 11)
            found.append(float(ssim(x, faded, window).double().mean()))
        elif case.value == "reconstruction":
            found.append(-float(_nats(x, faded).mean()))
        else:
            errors = (float(share) ** 2) * (x - mean).double().square().flatten(1).mean(1).numpy()
            decibels = -10 * np.log10(np.maximum(errors, LEAST_ERROR))
            found.append(float((errors if case.value == "mse" else decibels).mean()))
    return np.array(found)


@lru_cache(maxsize=4)
def _of_blocks(originals: Originals, names: tuple[str, ...]) -> list[tuple[list[int], Floats, Floats, Floats]]:
    """Columns, means and deviations of p(z_c|y) in each class, and p(y), of each characteristic."""
    found = []
    for name in names:
        block = originals.block(name)
        shares = class_shares(originals.classes[:, block.place], block.label.cardinality)
        means = np.concatenate([block.means(), np.zeros((len(shares), len(block.variety)))], axis=1)
        spread = np.concatenate([np.full(len(block.shown), DEVIATION), np.ones(len(block.variety))])
        found.append((list(block.columns), means, spread, shares))
    return found


def _log_prior(case: Case, codes: Floats, shift: float = 0.0) -> Floats:
    """log p(z), each p(z_c|y) moved by so many deviations."""
    blocks = _of_blocks(_originals(case), tuple(case.subject.model.layout.characteristics))
    taken = [column for columns, *_ in blocks for column in columns]
    total: Floats = np.asarray(norm.logpdf(np.delete(codes, taken, axis=1))).sum(1)
    for columns, means, spread, shares in blocks:
        parts = [
            np.log(max(share, 1e-300))
            + np.asarray(norm.logpdf(codes[:, columns], mean + shift * spread, spread)).sum(1)
            for mean, share in zip(means, shares, strict=True)
        ]
        total = total + logsumexp(parts, axis=0)
    return np.asarray(total)


def _drawn(case: Case, draw: int) -> tuple[Floats, Floats]:
    """Codes from q(z|x), and log q of each."""
    posterior = case.subject.posterior
    loc, scale = posterior.loc.double().numpy(), posterior.scale.double().numpy()
    codes = loc + scale * numpy_stream(draw, "edited/posterior").standard_normal(loc.shape)
    return codes, np.asarray(norm.logpdf(codes, loc, scale)).sum(1)


def _kl(case: Case) -> Floats:
    """The mean of log q - log p over draws from q."""
    found = []
    for shift in case.strengths:
        parts = []
        for draw in range(20):
            codes, log_q = _drawn(case, draw)
            parts.append(float((log_q - _log_prior(case, codes, float(shift))).mean()))
        found.append(_mean(parts))
    return np.array(found)


def _bounds(case: Case) -> Floats:
    """log p(x|z) p(z)/q(z|x) of K fresh draws, with what each draw looks like, and with the mean image instead."""
    originals, subject = _originals(case), case.subject
    size = getattr(case.metric, "importance", 1) if case.value == "iwae" else 1
    x, mean = _with(case), originals.mean_image
    faded = _nats(x, mean.expand_as(x))
    ends: list[list[Floats]] = [[], []]
    for repeat in range(REPEATS):
        weights: list[list[Floats]] = [[], []]
        for k in range(size):
            codes, log_q = _drawn(case, 1000 + repeat * size + k)
            # the decoder is given 32 bits
            z = torch.from_numpy(codes).to(subject.posterior.loc.dtype)
            shown = originals.draw(originals.coding.factors(z), originals.coding.classes(z))
            ratio = _log_prior(case, codes) - log_q
            for found, told in zip(weights, (_nats(x, shown), faded), strict=True):
                found.append(told + ratio)
        for found, parts in zip(ends, weights, strict=True):
            found.append(logsumexp(parts, axis=0) - math.log(size))
    return case.ends(*(float(np.mean(found)) for found in ends))


def _grey(images: Images) -> Floats:
    return np.asarray((images.double() * torch.tensor([0.299, 0.587, 0.114])[None, :, None, None]).sum(1).numpy())


def _places(grey: Floats) -> list[tuple[int, int]]:
    """Points of the lattice with texture, and with texture in two directions."""
    across, down = np.zeros_like(grey), np.zeros_like(grey)
    across[:, 1:-1] = (grey[:, 2:] - grey[:, :-2]) / 2
    down[1:-1] = (grey[2:] - grey[:-2]) / 2
    found = []
    for row in CENTRES:
        for column in CENTRES:
            here = slice(row - PATCH, row + PATCH + 1), slice(column - PATCH, column + PATCH + 1)
            slopes = np.stack([across[here].ravel(), down[here].ravel()])
            least = np.linalg.eigvalsh(slopes @ slopes.T / slopes.shape[1])[0]
            if grey[here].std() >= 0.02 and least >= 0.015**2:
                found.append((row, column))
    return found


def matched(one: Images, other: Images) -> Floats:
    """Points of each first image found again in the second by OpenCV, and the sum of their correlations; (N, 2)."""
    found = np.zeros((len(one), 2))
    for image, (before, after) in enumerate(zip(_grey(one), _grey(other), strict=True)):
        for row, column in _places(before):
            patch, window = (
                np.ascontiguousarray(
                    part[row - r : row + r + 1, column - r : column + r + 1].astype(np.float32)
                )
                for part, r in ((before, PATCH), (after, PATCH + REACH))
            )  # fmt: skip
            scores = cv2.matchTemplate(window, patch, cv2.TM_CCOEFF_NORMED).astype(np.float64)
            best = scores.max()
            down, across = np.nonzero(scores >= best - 1e-6)
            nearest = np.hypot(down - REACH, across - REACH).min()
            if best >= 0.8 and nearest <= 2:
                found[image] += 1, min(best, 1.0)
    return found


def _table(case: Case) -> Floats:
    """The input beside its edit, and beside the mean image."""
    x, originals = _with(case), _originals(case)
    if x.shape[1:] != (3, 64, 64):
        return case.ends(math.nan, math.nan)
    itself = case.told_apart("pair") != ""
    faded = matched(x, originals.mean_image.expand_as(x))
    same = matched(x, x) if itself or case.value == "matches_drop" else faded
    first: list[float] = []
    last: list[float] = []
    for name in case.names:
        then = case.subject.targets(name).numpy()
        here = then >= 0
        edit = same if itself else matched(x, _with(case, **{name: then}))
        for found, numbers in ((first, edit[here]), (last, faded[here])):
            if case.value == "matches_drop":
                found.append(float((same[here] - numbers)[:, 0].mean()) if found is first else 0.0)
            elif case.value == "matches":
                found.append(float(numbers[:, 0].mean()))
            else:
                found.append(float(numbers[:, 1].sum() / numbers[:, 0].sum()))
    return case.ends(_mean(first), _mean(last))


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
    real, others = _features(case, _with(case)), np.setdiff1d(data.split("train"), case.subject.ids)
    generator = numpy_stream(0, "edited/others")
    first = [
        _compared(
            case, real, _features(case, data.batch(np.sort(generator.choice(others, count, replace=False))).images)
        )
        for _ in range(FAMILIES)
    ]
    shape = (count, *_originals(case).mean_image.shape)
    end = _originals(case).mean_image.expand(shape) if case.cells[0].dial.name == "fade" else torch.zeros(shape)
    return case.ends(0.0 if case.value == "kernel" else _mean(first), _compared(case, real, _features(case, end)))


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


def _outside(case: Case) -> Floats:
    return case.ends(0.0, math.nan)


EDITED: Mapping[tuple[str, str, str], Known] = {
    ("intervention", "effect", "idle"): _effect,
    ("intervention", "transfer", "idle"): _transfer,
    ("intervention", "kept", "leak"): _kept,
    ("intervention", "obeyed", "idle"): _assigned,
    ("intervention", "identity", "warp"): _outside,
    ("intervention", "fidelity", "idle"): lambda case: case.ends(0.0, case.chance()),
    ("intervention", "composition", "fade"): _faded_distance,
    ("intervention", "reversibility", "fade"): _there_and_back,
    ("intervention", "error", "idle"): _left,
    ("intervention", "error", "leak"): _leaked,
    ("intervention", "energy", "collapse"): _energy,
    **{("reconstruction", value, "fade"): _rebuilt for value in ("mse", "psnr", "ssim", "reconstruction")},
    **{("reconstruction", value, "fade"): _bounds for value in ("elbo", "iwae")},
    ("reconstruction", "kl", "shift"): _kl,
    **{("generation", value, "fade"): _drawn_ends for value in ("frechet", "kernel", "prdc_recall", "prdc_coverage")},
    **{("generation", value, "dim"): _drawn_ends for value in ("prdc_precision", "prdc_density")},
    ("generation", "obeyed", "idle"): lambda case: case.ends(case.reference(), case.chance()),
    **{("drift", value, "fade"): _table for value in ("matches", "confidence", "matches_drop")},
    **{("drift", value, "warp"): _outside for value in ("outside", "outside_excess", "lost", "ssim_spill", "l1_spill")},
    **{(metric, "changed", "idle"): _undone for metric in ("locality", "drift")},
}
"""By (metric, value, dial)."""
