"""Diversity: is there variety in what a characteristic looks like?

How far drawn looks of a characteristic lie apart in features, in deviations of real images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.errors import UndefinedError, UnsupportedError, UsageError
from ccvae_eval.core.results import Measurement, ValueSpec
from ccvae_eval.core.types import Bools, Floats, Ids, Images
from ccvae_eval.data.interface import HasRedraws
from ccvae_eval.evaluation.interventions import PriorDraw
from ccvae_eval.evaluation.judge_scores import ANOTHER, JudgeReliability, kept_share, seen_as
from ccvae_eval.evaluation.metric import LAWS, Decoded, Needs
from ccvae_eval.evaluation.pictures import PICTURED, MeanPictures, as_bytes
from ccvae_eval.evaluation.result_table import (
    ImageStatistic,
    Mean,
    MeanProportion,
    RatioOfSums,
    ResultTable,
    among,
    mean_of,
    sentence,
)
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.shared.features import Features, extractor_named, require_features
from ccvae_eval.metrics.shared.image_change import mean_variance, pairwise_spread, recall, rows_of
from ccvae_eval.model.interface import HasConditionalPrior
from ccvae_eval.statistics.intervals import Resampled, resampled
from ccvae_eval.statistics.resampling import ResampleWeights

REAL_IMAGES = 256
"""Real images, from the first, whose deviations are the unit."""

STILL = 1e-6
"""A feature that deviates less over the real images says nothing."""


class FeatureSpread:
    r"""The root mean squared difference of two draws in features, each in deviations of real images.

    .. math:: \sqrt{\frac{2}{F} \sum_f \operatorname{var}_s f(x_s) / \sigma_f^2}

    over the F features that vary among real images. Inside a region: all pixels outside it are taken from the
    reconstruction, so that what differs lies inside.

    Args:
        name: of the features.
        subject: whose images are the real ones.
    """

    def __init__(self, name: str, subject: Subject) -> None:
        self.name = name
        self.extractor: Features = extractor_named(name, subject)
        parts = []
        for chunk in subject.chunks():
            if chunk.rows.start >= REAL_IMAGES:
                break
            parts.append(self._features(chunk.images))
        deviation = torch.cat(parts).std(0, correction=0)
        self.varies = deviation > STILL
        self.scale = deviation[self.varies]

    def _features(self, images: Images) -> Tensor:
        with torch.no_grad():
            return self.extractor.features(images).double().cpu()

    def of(self, draws: Sequence[Images], reconstruction: Images | None = None, region: Bools | None = None) -> Floats:
        """One number for each image, shape (n,); NaN where the region is empty or no feature varies.

        Args:
            draws: S images of each row, each of shape (n, C, H, W).
            reconstruction, region: to look inside the region only, shape (n, H W).
        """
        count = len(draws[0])
        if not len(self.scale):
            return np.full(count, np.nan)
        images = list(draws)
        applies: Bools = np.ones(count, bool)
        if region is not None:
            assert reconstruction is not None
            mask = torch.from_numpy(region).reshape(count, 1, *draws[0].shape[2:]).to(reconstruction.device)
            images = [torch.where(mask, x, reconstruction) for x in draws]
            applies = np.asarray(region.any(1))
        found = torch.stack([self._features(x)[:, self.varies] / self.scale for x in images])
        spread = (2 * found.var(0, correction=1).mean(1)).sqrt().numpy()
        return np.where(applies, spread, np.nan)


WHOLE = {"where": "image"}
"""The rows that look at the whole image: all there is where a characteristic has no region."""

EMPTY = "the region is empty or too large in every image"
REDRAWN = "as many of the data's own re-draws"
POINT_MASS = "by construction: p(z_c|y) is a point mass"


@dataclass(frozen=True, slots=True)
class Diversity:
    r"""How much variety there is in a characteristic once its class is decided.

    S codes z_c are drawn from p(z_c|y_c=v), all other columns fixed, and decoded. With the variance of each pixel
    over the S images (divisor S - 1), ``spread`` is the root mean squared difference of two draws, per pixel, inside
    the region A of the characteristic:

    .. math:: spread = \sqrt{\frac{2}{|A|} \sum_{p \in A} \operatorname{var}_s x_{s,p}}

    which equals the root mean square over all pairs s != s' without forming one. ``spread_outside`` is the same
    outside A. The rows at ``where=image`` are over the whole image and need no region.

    With the judge: ``obeyed`` = share of draws in which it sees v; ``kept`` = share of (draw, other label) where it
    sees what it saw in the reconstruction, labels left out that also change in the data's own re-draws;
    ``spread_valid`` = (spread over the obeyed draws) x (share obeyed), image by image: noise that destroys the
    characteristic does not count as variety. Fewer than two obeyed draws have no spread between them and count as 0.

    Where the data can re-draw a characteristic's variety (faces), on the first ``redrawn`` images: ``spread_ratio`` =
    sum of the spreads over the sum of those of as many true re-draws, ``spread_score`` = min(r, 1/r), and ``recall`` =
    the share of true re-draws that lie closer to some draw, inside A, than to their third neighbour among themselves.

    ``features="edges"``, ``"variety"`` or an extractor of yours (``--plugin FILE``): ``feature_spread``, the same in
    features, each divided by its deviation over 256 real images; pixels outside the region are the reconstruction's.
    Edges are colours and oriented gradients of 8 x 8 squares, for any images; ``variety`` are the drawn images' variety
    parameters as a regression reads them. A classifier's features would discard variety: the judge's are not offered.

    A point mass p(z_c|y) (a label column) scores 0: one class has one look.
    Range: 0 to 1; spread_ratio and feature_spread 0 and up. Direction: higher is better for spread_valid, obeyed, kept,
    spread_score, recall. Chance: 0; none for recall (one good draw may lie near many); for obeyed, how often the judge
    sees v in the reconstructions. Cost: ``draws`` images decoded for each image and characteristic.
    Pitfalls: to pixels a shift is more than a change of colour; without a region, spread may lie anywhere. A spread
    above the data's own is no virtue: see spread_score, of a ratio with an error, and so a little below 1 (by .8
    standard errors of the ratio) where the truth is 1.
    Reference: docs/metrics.md, section 4; Joy et al. (ICLR 2021), figure of per-pixel variance.

    Args:
        draws: S, at least 2.
        value: the class that is drawn: present (categorical: another one than now), or the image's own.
        redrawn: images for which the data's own re-draws are made.
        neighbour: which true neighbour recall compares with.
        largest_region: the largest share of the image that a region may cover.
        allowed_change: a label that the judge sees change in a larger share of the data's re-draws may change too.
        features: "edges", "variety" or a registered extractor; "" for pixels alone.
    """

    name: ClassVar[str] = "diversity"
    version: ClassVar[int] = 2
    headline: ClassVar[str] = "spread_valid"
    default_sample: ClassVar[int] = 2000
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label"}
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "spread_valid": ValueSpec(
            "spread over the draws that the judge accepts, times their share", "intensity", True, (0.0, 1.0),
            "no variety", True, ("collapse",),
        ),
        "spread": ValueSpec(
            "root mean squared difference of two draws inside the region", "intensity", None, (0.0, 1.0),
            "no variety", dials=("collapse",), reference=REDRAWN,
        ),
        "spread_outside": ValueSpec("the same outside the region", "intensity", None, (0.0, 1.0), "no variety"),
        "obeyed": ValueSpec(
            "share of draws in which the judge sees the class", "share", True, (0.0, 1.0), "the reconstruction", True,
            ("idle",),
        ),
        "kept": ValueSpec(
            "share of draws in which the judge sees another label as before", "share", True, (0.0, 1.0), ANOTHER, True,
            ("leak",), reference=REDRAWN,
        ),
        "spread_ratio": ValueSpec(
            "spread over that of the data's own re-draws", "", None, (0.0, None), "no variety", dials=("collapse",)
        ),
        "spread_score": ValueSpec(
            "spread_ratio or its inverse, whichever is below 1", "", True, (0.0, 1.0), "no variety",
            dials=("collapse",),
        ),
        "recall": ValueSpec(
            "share of the data's own re-draws that lie near a draw", "share", True, (0.0, 1.0), dials=("collapse",),
            no_chance="a single good draw may lie near many re-draws",
        ),
        "feature_spread": ValueSpec(
            "spread in features; with features= only", "deviations", None, (0.0, None), "no variety",
            dials=("collapse",), reference=REDRAWN,
        ),
    }  # fmt: skip

    draws: int = 8
    value: Literal["present", "now"] = "present"
    redrawn: int = 64
    neighbour: int = 3
    largest_region: float = 0.6
    allowed_change: float = 0.05
    features: str = ""

    def __post_init__(self) -> None:
        require_features(self.features, ("",), "diversity.features")
        if self.draws <= max(self.neighbour, 1):
            raise UsageError(
                f"{self.draws} draws are too few", where="diversity.draws",
                hint=f"Two at least, and more than the neighbour that recall looks for ({self.neighbour}).",
            )  # fmt: skip

    def draws_of(self, characteristic: str) -> tuple[PriorDraw, ...]:
        """The interventions on one characteristic."""
        return tuple(PriorDraw(characteristic, draw, self.value) for draw in range(self.draws))

    def needs(self, subject: Subject) -> Needs:
        names, _ = _drawable(self, subject)
        draws = tuple(draw for name in names for draw in self.draws_of(name))
        reconstruction = subject.judge is not None or bool(self.features)
        return Needs(draws, reconstruction=reconstruction, judge=True, regions=True)

    def start(self, subject: Subject) -> DiversityAccumulator:
        return DiversityAccumulator(self, subject)


def _drawable(metric: Diversity, subject: Subject) -> tuple[list[str], dict[str, str]]:
    """The characteristics that can be drawn, and why the others can't.

    Raises:
        UnsupportedError: if the model has no p(z_c|y).
        UndefinedError: if there is no characteristic.
    """
    if not isinstance(subject.model, HasConditionalPrior):
        raise UnsupportedError(f"{type(subject.model).__name__} has no p(z_c|y)")
    if not subject.characteristics:
        raise UndefinedError("no label has columns of its own")
    names, reasons = [], {}
    for name in subject.characteristics:
        if subject.schema[name].kind == "continuous":
            reasons[name] = "a continuous label has no class to draw from"
            continue
        subject.prior_of(name)
        if metric.value == "now" and not bool((subject.current_class(name) >= 0).any()):
            reasons[name] = "no image has this label"
        else:
            names.append(name)
    return names, reasons


class DiversityAccumulator:
    """The accumulator: for each characteristic one row of numbers per image, NaN where they do not apply."""

    def __init__(self, metric: Diversity, subject: Subject) -> None:
        self.metric, self.subject = metric, subject
        self.names, self.reasons = _drawable(metric, subject)
        self.seen: dict[str, dict[str, Floats]] = {name: {} for name in self.names}
        self.agreement = JudgeReliability(subject)
        self.pictures = MeanPictures()
        self.by_features = FeatureSpread(metric.features, subject) if metric.features else None

    def update(self, batch: Decoded) -> None:
        self.agreement.update(batch)
        name, chunk = batch.characteristic, batch.chunk
        asked = self.metric.draws_of(name)
        classes = asked[0].classes(self.subject, chunk)
        draws = [batch.images[draw] for draw in asked]
        variance = mean_variance(draws).float().cpu().numpy()
        places = self._places(batch)
        spreads = {where: pairwise_spread(variance.astype(np.float64), place) for where, place in places.items()}
        found = {f"spread/{where}": spread for where, spread in spreads.items()}
        found["applies"] = (classes >= 0).double().numpy()
        if self.by_features is not None:
            found["features/image"] = self.by_features.of(draws)
            if "region" in places:
                found["features/region"] = self.by_features.of(draws, batch.reconstruction, places["region"])
        if self.subject.judge is not None:
            found |= self._judged(batch, draws, classes, places, spreads)
        self._put(name, chunk.rows, found)
        self._redraw(batch, draws, classes, places)
        height, width = draws[0].shape[2:]
        self.pictures.add(f"variance/{name}", torch.from_numpy(variance.reshape(-1, height, width)))
        wanted = PICTURED - chunk.rows.start
        if wanted > 0:
            self.pictures.keep(f"strip/{name}", torch.stack([as_bytes(x[:wanted]) for x in draws], 1))

    def _put(self, name: str, rows: slice | Ids, found: Mapping[str, Floats]) -> None:
        for key, column in found.items():
            self.seen[name].setdefault(key, np.full(len(self.subject), np.nan))[rows] = column

    def _places(self, batch: Decoded) -> dict[str, Bools]:
        """The pixels to look at, by place; empty inside and outside for an image whose region is too large or none."""
        height, width = batch.chunk.images.shape[2:]
        places = {"image": np.ones((len(batch.chunk), height * width), bool)}
        if batch.region is not None:
            region: Bools = batch.region.flatten(1).numpy()
            share = region.mean(1, keepdims=True)
            usable = (share > 0) & (share <= self.metric.largest_region)
            places |= {"region": region & usable, "outside": ~region & usable}
        return places

    def _judged(
        self,
        batch: Decoded,
        draws: Sequence[Images],
        classes: Tensor,
        places: Mapping[str, Bools],
        spreads: Mapping[str, Floats],
    ) -> dict[str, Floats]:
        before, told = batch.judged(None), [batch.judged(d) for d in self.metric.draws_of(batch.characteristic)]
        found = {f"kept/{j}": kept_share(before[j], [at[j] for at in told]) for j in before}
        if batch.characteristic not in before:
            return found
        obeyed = np.stack([seen_as(at[batch.characteristic], classes) for at in told], 1)
        found["obeyed"] = obeyed.mean(1)
        found["obeyed before"] = seen_as(before[batch.characteristic], classes).astype(np.float64)
        valid = {where: spread.copy() for where, spread in spreads.items() if where != "outside"}
        some = np.flatnonzero(~obeyed.all(1))  # where all draws are obeyed, the spread is known
        if len(some):
            rows = torch.from_numpy(some).to(draws[0].device)
            chosen = torch.from_numpy(obeyed[some]).to(rows.device)
            variance = mean_variance([x[rows] for x in draws], chosen).double().cpu().numpy()
            for where, spread in valid.items():
                spread[some] = pairwise_spread(variance, places[where][some])
        return found | {f"valid/{where}": found["obeyed"] * spread for where, spread in valid.items()}

    def _redraw(self, batch: Decoded, draws: Sequence[Images], classes: Tensor, places: Mapping[str, Bools]) -> None:
        """Sets the draws beside as many of the data's own, on some of the images."""
        data, chunk, name = self.subject.data, batch.chunk, batch.characteristic
        first = np.arange(len(chunk)) + chunk.rows.start < self.metric.redrawn
        here = np.flatnonzero(first & (classes >= 0).numpy())
        if not isinstance(data, HasRedraws) or "region" not in places or len(here) == 0:
            return
        value = classes[here].numpy().astype(np.float32)
        true = [data.redraw(chunk.ids[here], name, value, draw) for draw in range(self.metric.draws)]
        variance = mean_variance(true).double().numpy()
        inside = places["region"][here]
        found = {"true spread": pairwise_spread(variance, inside)}
        found["recall"] = np.where(
            inside.any(1),
            recall(_pixels(true, inside), _pixels([x[here].cpu() for x in draws], inside), self.metric.neighbour),
            np.nan,
        )
        if self.by_features is not None:
            images = chunk.images[here]
            shown = [x.to(self.subject.device) for x in true]
            found["true features"] = self.by_features.of(shown, images, inside)
        judge = self.subject.judge
        if judge is not None:
            told = [judge.log_probabilities(x.to(self.subject.device)) for x in true]
            before = judge.log_probabilities(chunk.images[here])
            found |= {f"true kept/{j}": kept_share(before[j], [at[j] for at in told]) for j in before}
        self._put(name, here + chunk.rows.start, found)

    def compute(self, weights: ResampleWeights) -> Measurement:
        tally = ResultTable(self.metric, self.subject, weights)
        notes = self.agreement.notes()
        for name, reason in self.reasons.items():
            tally.undefined(name, reason)
        points = [name for name in self.names if not bool(self.subject.prior_of(name).scale.any())]
        for name in self.names:
            self._count_spreads(tally, name, POINT_MASS if name in points else "")
            self._count_redraws(tally, name)
            notes += self._count_judged(tally, name)
        found = tally.measurement(notes, self.pictures.arrays())
        return _explained(found) if points and points == self.names else found

    def _numbers(self, name: str, key: str) -> Floats:
        """One number of each image the draws apply to, NaN where it is unknown."""
        seen = self.seen[name]
        return among(seen["applies"] == 1, seen.get(key, np.full(len(self.subject), np.nan)))

    def _no_region(self, name: str) -> str:
        return EMPTY if "spread/region" in self.seen[name] else "has no region"

    def _count_spreads(self, tally: ResultTable, name: str, note: str) -> None:
        why = self._no_region(name)
        true = self._numbers(name, "true spread")
        tally.add(
            "spread", name, Mean(self._numbers(name, "spread/region")), chance=0.0,
            reference=mean_of(true, ~np.isnan(true)), why=why, note=note,
        )  # fmt: skip
        tally.add(
            "spread", name, Mean(self._numbers(name, "spread/image")), WHOLE, mean_at=WHOLE, chance=0.0, note=note
        )
        outside = Mean(self._numbers(name, "spread/outside"))
        tally.add("spread_outside", name, outside, chance=0.0, why=why, note=note)
        if self.by_features is not None:
            self._count_features(tally, name, note)
        unknown = self.agreement.why_not(name)
        for where, at in {"region": {}, "image": WHOLE}.items():
            valid: ImageStatistic | str = unknown or Mean(self._numbers(name, f"valid/{where}"))
            tally.add("spread_valid", name, valid, at, mean_at=at, chance=0.0, why=why, note=note)

    def _count_features(self, tally: ResultTable, name: str, note: str) -> None:
        at, true = {"features": self.metric.features}, self._numbers(name, "true features")
        inside, image = (Mean(self._numbers(name, f"features/{where}")) for where in ("region", "image"))
        reference, why = mean_of(true, ~np.isnan(true)), self._no_region(name)
        tally.add("feature_spread", name, inside, at, mean_at=at, chance=0.0, reference=reference, why=why, note=note)
        whole = {**at, **WHOLE}
        tally.add("feature_spread", name, image, whole, mean_at=whole, chance=0.0, note=note)

    def _count_judged(self, tally: ResultTable, name: str) -> list[str]:
        """Enters ``obeyed`` and ``kept``; returns a sentence about labels that may change."""
        unknown, before = self.agreement.why_not(name), self._numbers(name, "obeyed before")
        obeyed: ImageStatistic | str = unknown or MeanProportion(self._numbers(name, "obeyed"))
        tally.add("obeyed", name, obeyed, chance=mean_of(before, ~np.isnan(before)))
        if self.subject.judge is None:
            tally.add("kept", name, unknown)
            return []
        others = [j for j in self.agreement.trusted if j != name]
        true = {j: self._numbers(name, f"true kept/{j}") for j in others}
        reference = {j: mean_of(kept, ~np.isnan(kept)) for j, kept in true.items()}
        allowed = [j for j, share in reference.items() if share is not None and 1 - share > self.metric.allowed_change]
        held = [self._numbers(name, f"kept/{j}") for j in others if j not in allowed]
        shares = [share for j, share in reference.items() if share is not None and j not in allowed]
        kept: ImageStatistic | str = (
            MeanProportion(np.mean(held, axis=0)) if held else "there is no label that should stay"
        )
        alike = {j: self.agreement.alike(j) for j in others}
        chance = float(np.mean([alike[j] for j in others if j not in allowed])) if held else None
        tally.add("kept", name, kept, chance=chance, reference=float(np.mean(shares)) if shares else None)
        for j in others:
            note = "changes in the data's own re-draws too" if j in allowed else ""
            column = MeanProportion(self._numbers(name, f"kept/{j}"))
            tally.add(
                "kept", name, column, {"judged": j}, mean_at=None, chance=alike[j], reference=reference[j], note=note
            )
        return [f"{name}: {', '.join(allowed)} may change, as in the data's own re-draws"] if allowed else []

    def _count_redraws(self, tally: ResultTable, name: str) -> None:
        names = ("spread_ratio", "spread_score", "recall")
        if "true spread" not in self.seen[name]:
            redraws = isinstance(self.subject.data, HasRedraws)
            for value in names:
                tally.add(value, name, self._no_region(name) if redraws else "the data cannot re-draw a variety")
            return
        true = self._numbers(name, "true spread")
        both = RatioOfSums(among(~np.isnan(true), self._numbers(name, "spread/region")), true)
        why = EMPTY if np.isnan(true).all() else "the data's own re-draws do not differ"
        ratio = tally.add("spread_ratio", name, both, chance=0.0, why=why)
        tally.add("spread_score", name, _score(ratio, tally.weights.level), chance=0.0, why=why)
        tally.add("recall", name, Mean(self._numbers(name, "recall")), why=why)


def _explained(found: Measurement) -> Measurement:
    """The means say why they are 0, where that holds for every characteristic."""
    values = tuple(
        replace(value, note=sentence(POINT_MASS, value.note))
        if value.characteristic is None and value.name in ("spread", "spread_valid")
        else value
        for value in found.values
    )
    return replace(found, values=values)


def _score(ratio: Resampled, level: float) -> Resampled:
    """min(r, 1/r) of a ratio, resample by resample."""
    if not ratio.defined:
        return ratio
    without = None if ratio.leave_one_out is None else _below_one(ratio.leave_one_out)
    score = float(_below_one(np.array([ratio.value]))[0])
    return resampled(score, _below_one(ratio.draws), ratio.estimate.n, level, without)


def _below_one(ratio: Floats) -> Floats:
    return np.where(ratio > 1, 1 / np.maximum(ratio, 1.0), ratio)


def _pixels(images: Sequence[Images], inside: Bools) -> Tensor:
    r"""The pixels inside, zero outside, shape :math:`(N, S, Q)`: those that lie inside in some row."""
    mask = torch.from_numpy(inside).repeat_interleave(images[0].shape[1], 1)
    somewhere = mask.any(0)
    return torch.stack([(rows_of(x) * mask)[:, somewhere] for x in images], 1)
