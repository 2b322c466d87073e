"""The metric ``diversity``: variation among images decoded from samples of p(z_c|y), in pixels and in features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.errors import UndefinedError, UnsupportedError, UsageError
from ccvae_eval.core.results import Measurement, ValueSpec
from ccvae_eval.core.types import Bools, Floats, Images
from ccvae_eval.data.interface import HasRedraws
from ccvae_eval.evaluation.interventions import PriorDraw
from ccvae_eval.evaluation.judge_scores import ANOTHER, JudgeReliability, classified_as, unchanged_share
from ccvae_eval.evaluation.metric import LAWS, Decoded, Needs
from ccvae_eval.evaluation.pictures import PICTURED, MeanPictures, as_bytes
from ccvae_eval.evaluation.result_table import (
    NO_REGION,
    ColumnStore,
    Mean,
    MeanProportion,
    RatioOfSums,
    ResultTable,
    among,
    joined_notes,
    mean_of,
)
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.shared.features import Features, extractor_named, require_features
from ccvae_eval.metrics.shared.image_change import mean_variance, pairwise_spread, pixel_rows, recall
from ccvae_eval.model.interface import HasConditionalPrior
from ccvae_eval.statistics.intervals import Resampled, estimate_from_draws
from ccvae_eval.statistics.resampling import ResampleWeights

REAL_IMAGES = 256
"""Number of real images, from the first, whose standard deviations scale the features."""

CONSTANT = 1e-6
"""Standard deviation over the real images below which a feature is ignored."""

WHOLE = {"where": "image"}
"""Rows over the whole image, which also exist if a characteristic has no region."""

REDRAWN = "as many redraws of the data"
NO_VARIATION = "no variation"
POINT_MASS = "by construction: p(z_c|y) is a point mass"


class FeatureSpread:
    r"""Root mean squared difference between two images in features, scaled by their standard deviations in real images.

    .. math:: \sqrt{\frac{2}{F} \sum_f \operatorname{var}_s f(x_s) / \sigma_f^2}

    over the F features that vary among real images. To restrict it to a region, all pixels outside are replaced by
    those of the reconstruction.

    Args:
        name: name of the features.
        subject: provides the real images.
    """

    def __init__(self, name: str, subject: Subject) -> None:
        self.name = name
        self.extractor: Features = extractor_named(name, subject)
        first = takewhile(lambda chunk: chunk.rows.start < REAL_IMAGES, subject.chunks())
        parts = [self._features(chunk.images) for chunk in first]
        deviation = torch.cat(parts).std(0, correction=0)
        self.varies = deviation > CONSTANT
        self.scale = deviation[self.varies]

    def _features(self, images: Images) -> Tensor:
        with torch.no_grad():
            return self.extractor.features(images).double().cpu()

    def of(self, draws: Sequence[Images], reconstruction: Images | None = None, region: Bools | None = None) -> Floats:
        """Return the spread of each image, shape (n,); NaN if the region is empty or no feature varies.

        Args:
            draws: S batches of images, each of shape (n, C, H, W).
            reconstruction: shape (n, C, H, W); needed with a region.
            region: mask to which the spread is restricted, shape (n, H W).
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


@dataclass(frozen=True, slots=True)
class Diversity:
    r"""Variation of a characteristic's appearance within one class.

    S codes z_c are sampled from p(z_c|y_c=v), with all other latent dimensions fixed, and decoded. With the unbiased
    variance of each pixel over the S images, ``spread`` is the root mean squared difference of two of them, per pixel,
    inside the region A of the characteristic:

    .. math:: spread = \sqrt{\frac{2}{|A|} \sum_{p \in A} \operatorname{var}_s x_{s,p}}

    which equals the root mean square over all pairs s != s'. ``spread_outside`` is the same outside A. Rows at
    ``where=image`` cover the whole image and need no region.

    With the judge: ``obeyed`` = share of samples classified as v; ``kept`` = share of (sample, other label) classified
    as in the reconstruction, without labels that also change in the data's own redraws; ``spread_valid`` = (spread over
    the obeyed samples) x (share obeyed), image by image, so that noise that destroys the characteristic does not count
    as variation. With fewer than two obeyed samples it is 0.

    If the data set can redraw a characteristic's variety (faces), on the first ``redrawn`` images: ``spread_ratio`` =
    sum of the spreads / sum of the spreads of as many true redraws; ``spread_score`` = min(r, 1/r) of it; ``recall`` =
    share of true redraws that lie closer, inside A, to some sample than to their third nearest true redraw.

    ``features="edges"``, ``"variety"`` or an extractor of a plugin (``--plugin FILE``): ``feature_spread``, the same in
    features, each divided by its standard deviation over 256 real images; pixels outside the region are the
    reconstruction's. "edges" are colours and oriented gradients of 8 x 8 cells, for any images; "variety" are the
    variety parameters of drawn images as predicted by a regression. The judge's features are not offered, because a
    classifier discards variation within classes.

    A point mass p(z_c|y), as in a latent dimension that equals the label, scores 0.
    Range: 0 to 1; spread_ratio and feature_spread 0 and up. Direction: higher is better for spread_valid, obeyed, kept,
    spread_score and recall. Chance: 0, no variation; for obeyed, the share of reconstructions classified as v; for
    kept, how often two reconstructions are classified alike; none for recall (a single good sample may lie near many
    redraws).
    Cost: ``draws`` images decoded for each image and characteristic.
    Pitfalls: a shift changes pixels more than a new colour does; without a region, the spread may lie anywhere. A
    spread above that of the data is not better: compare spread_score, whose expectation is slightly below 1 (by .8
    standard errors of the ratio) if the true ratio is 1.
    Reference: docs/metrics.md, section 4; Joy et al. (ICLR 2021), figure of per-pixel variance.

    Args:
        draws: number S of samples, at least 2 and more than ``neighbour``.
        value: class to sample: present (categorical labels: another class than the image's) or now (the image's own).
        redrawn: number of images for which the data set redraws the variety.
        neighbour: index k of the nearest true redraw that recall compares with.
        largest_region: largest share of an image that a region may cover; larger regions are ignored.
        allowed_change: share of the data's redraws above which a label that the judge sees change is left out of kept.
        features: "edges", "variety" or a registered extractor; "" for pixels only.
    """

    name: ClassVar[str] = "diversity"
    version: ClassVar[int] = 2
    headline: ClassVar[str] = "spread_valid"
    default_sample: ClassVar[int] = 2000
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label"}
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "spread_valid": ValueSpec(
            "spread of the samples that the judge assigns to the sampled class, times their share", "intensity", True,
            (0.0, 1.0), NO_VARIATION, True, ("collapse",),
        ),
        "spread": ValueSpec(
            "root mean squared difference of two samples inside the region", "intensity", None, (0.0, 1.0),
            NO_VARIATION, dials=("collapse",), reference=REDRAWN,
        ),
        "spread_outside": ValueSpec(
            "root mean squared difference of two samples outside the region", "intensity", None, (0.0, 1.0),
            NO_VARIATION,
        ),
        "obeyed": ValueSpec(
            "share of samples that the judge assigns to the sampled class", "share", True, (0.0, 1.0),
            "the reconstruction", True, ("idle",),
        ),
        "kept": ValueSpec(
            "share of samples in which the judge sees another label unchanged", "share", True, (0.0, 1.0), ANOTHER,
            True, ("leak",), reference=REDRAWN,
        ),
        "spread_ratio": ValueSpec(
            "spread divided by that of the data's redraws", "", None, (0.0, None), NO_VARIATION, dials=("collapse",),
        ),
        "spread_score": ValueSpec(
            "spread_ratio or its inverse, whichever is below 1", "", True, (0.0, 1.0), NO_VARIATION,
            dials=("collapse",),
        ),
        "recall": ValueSpec(
            "share of the data's redraws that lie near a sample", "share", True, (0.0, 1.0), dials=("collapse",),
            no_chance="a single good sample may lie near many redraws",
        ),
        "feature_spread": ValueSpec(
            "root mean squared difference of two samples in features; only with features=", "standard deviations", None,
            (0.0, None), NO_VARIATION, dials=("collapse",), reference=REDRAWN,
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
            least = max(self.neighbour, 1) + 1
            hint = f"recall with neighbour={self.neighbour} needs more draws than that."
            raise UsageError(f"draws must be at least {least}, got {self.draws}", where="diversity.draws", hint=hint)

    def draws_of(self, characteristic: str) -> tuple[PriorDraw, ...]:
        """Return the interventions on one characteristic."""
        return tuple(PriorDraw(characteristic, draw, self.value) for draw in range(self.draws))

    def needs(self, subject: Subject) -> Needs:
        names, _ = _drawable(self, subject)
        draws = tuple(draw for name in names for draw in self.draws_of(name))
        reconstruction = subject.judge_source.possible or bool(self.features)
        return Needs(draws, reconstruction=reconstruction, judge=True, regions=True)

    def start(self, subject: Subject) -> DiversityAccumulator:
        return DiversityAccumulator(self, subject)


def _drawable(metric: Diversity, subject: Subject) -> tuple[list[str], dict[str, str]]:
    """Return the characteristics that can be sampled, and the reason for each of the others.

    Raises:
        UnsupportedError: if the model has no p(z_c|y).
        UndefinedError: if no label has latent dimensions of its own.
    """
    if not isinstance(subject.model, HasConditionalPrior):
        raise UnsupportedError(f"{type(subject.model).__name__} has no p(z_c|y)")
    if not subject.characteristics:
        raise UndefinedError("no label has latent dimensions of its own")
    names, reasons = [], {}
    for name in subject.characteristics:
        if subject.schema[name].kind == "continuous":
            reasons[name] = "a continuous label has no classes to sample"
            continue
        subject.prior_of(name)
        if metric.value == "now" and not bool((subject.current_class(name) >= 0).any()):
            reasons[name] = "no image has this label"
        else:
            names.append(name)
    return names, reasons


class DiversityAccumulator:
    """Collects one number per image, characteristic and key; NaN where it does not apply."""

    def __init__(self, metric: Diversity, subject: Subject) -> None:
        self.metric, self.subject = metric, subject
        self.names, self.reasons = _drawable(metric, subject)
        self.columns = ColumnStore(len(subject))
        self.reliability = JudgeReliability(subject)
        self.pictures = MeanPictures()
        self.feature_spread = FeatureSpread(metric.features, subject) if metric.features else None

    def update(self, batch: Decoded) -> None:
        self.reliability.update(batch)
        name, chunk = batch.characteristic, batch.chunk
        interventions = self.metric.draws_of(name)
        classes = interventions[0].classes(self.subject, chunk)
        draws = [batch.images[intervention] for intervention in interventions]
        variance = mean_variance(draws).float().cpu().numpy()
        masks = self._masks(batch)
        spreads = {where: pairwise_spread(variance.astype(np.float64), mask) for where, mask in masks.items()}
        found = {f"spread/{where}": spread for where, spread in spreads.items()}
        found["applies"] = (classes >= 0).double().numpy()
        if self.feature_spread is not None:
            found["features/image"] = self.feature_spread.of(draws)
            if "region" in masks:
                found["features/region"] = self.feature_spread.of(draws, batch.reconstruction, masks["region"])
        if self.subject.judge is not None:
            found |= self._judged(batch, draws, classes, masks, spreads)
        self.columns.put(name, chunk.rows, found)
        self._redraw(batch, draws, classes, masks)
        height, width = draws[0].shape[2:]
        self.pictures.add(f"variance/{name}", torch.from_numpy(variance.reshape(-1, height, width)))
        wanted = PICTURED - chunk.rows.start
        if wanted > 0:
            self.pictures.keep(f"strip/{name}", torch.stack([as_bytes(x[:wanted]) for x in draws], 1))

    def _masks(self, batch: Decoded) -> dict[str, Bools]:
        """Return pixel masks "image", "region" and "outside"; the last two are empty if a region is unusable."""
        height, width = batch.chunk.images.shape[2:]
        masks = {"image": np.ones((len(batch.chunk), height * width), bool)}
        if batch.region is not None:
            region: Bools = batch.region.flatten(1).numpy()
            share = region.mean(1, keepdims=True)
            usable = (share > 0) & (share <= self.metric.largest_region)
            masks |= {"region": region & usable, "outside": ~region & usable}
        return masks

    def _judged(
        self, batch: Decoded, draws: Sequence[Images], classes: Tensor, masks: Mapping[str, Bools],
        spreads: Mapping[str, Floats],
    ) -> dict[str, Floats]:  # fmt: skip
        before = batch.judged(None)
        after = [batch.judged(intervention) for intervention in self.metric.draws_of(batch.characteristic)]
        found = {f"kept/{j}": unchanged_share(before[j], [log_probs[j] for log_probs in after]) for j in before}
        if batch.characteristic not in before:
            return found
        obeyed = np.stack([classified_as(log_probs[batch.characteristic], classes) for log_probs in after], 1)
        found["obeyed"] = obeyed.mean(1)
        found["obeyed before"] = classified_as(before[batch.characteristic], classes).astype(np.float64)
        valid = {where: spread.copy() for where, spread in spreads.items() if where != "outside"}
        partly = np.flatnonzero(~obeyed.all(1))  # if all samples are obeyed, the spread is already known
        if len(partly):
            rows = torch.from_numpy(partly).to(draws[0].device)
            chosen = torch.from_numpy(obeyed[partly]).to(rows.device)
            variance = mean_variance([x[rows] for x in draws], chosen).double().cpu().numpy()
            for where, spread in valid.items():
                spread[partly] = pairwise_spread(variance, masks[where][partly])
        return found | {f"valid/{where}": found["obeyed"] * spread for where, spread in valid.items()}

    def _redraw(self, batch: Decoded, draws: Sequence[Images], classes: Tensor, masks: Mapping[str, Bools]) -> None:
        """Compare the samples of the first images with as many redraws of the data."""
        data, chunk, name = self.subject.data, batch.chunk, batch.characteristic
        first = np.arange(len(chunk)) + chunk.rows.start < self.metric.redrawn
        here = np.flatnonzero(first & (classes >= 0).numpy())
        if not isinstance(data, HasRedraws) or "region" not in masks or len(here) == 0:
            return
        value = classes[here].numpy().astype(np.float32)
        true = [data.redraw(chunk.ids[here], name, value, draw) for draw in range(self.metric.draws)]
        variance = mean_variance(true).double().numpy()
        inside = masks["region"][here]
        near = recall(_pixels(true, inside), _pixels([x[here].cpu() for x in draws], inside), self.metric.neighbour)
        found = {"true spread": pairwise_spread(variance, inside), "recall": among(np.asarray(inside.any(1)), near)}
        if self.feature_spread is not None:
            images = chunk.images[here]
            shown = [x.to(self.subject.device) for x in true]
            found["true features"] = self.feature_spread.of(shown, images, inside)
        judge = self.subject.judge
        if judge is not None:
            after = [judge.log_probabilities(x.to(self.subject.device)) for x in true]
            before = judge.log_probabilities(chunk.images[here])
            found |= {f"true kept/{j}": unchanged_share(before[j], [at[j] for at in after]) for j in before}
        self.columns.put(name, here + chunk.rows.start, found)

    def compute(self, weights: ResampleWeights) -> Measurement:
        table = ResultTable(self.metric, self.subject, weights)
        notes = self.reliability.notes()
        for name, reason in self.reasons.items():
            table.undefined(name, reason)
        points = [name for name in self.names if not bool(self.subject.prior_of(name).scale.any())]
        for name in self.names:
            self._add_spreads(table, name, POINT_MASS if name in points else "")
            self._add_redraws(table, name)
            notes += self._add_judged(table, name)
        found = table.measurement(notes, self.pictures.arrays())
        return _with_point_mass_note(found) if points and points == self.names else found

    def _numbers(self, name: str, key: str) -> Floats:
        """Return one number per image to which the samples apply, NaN elsewhere."""
        return among(self.columns.get(name, "applies") == 1, self.columns.get(name, key))

    def _no_region(self, name: str) -> str:
        return NO_REGION if (name, "spread/region") in self.columns else "has no region"

    def _add_spreads(self, table: ResultTable, name: str, note: str) -> None:
        why = self._no_region(name)
        reference = mean_of(self._numbers(name, "true spread"))
        inside, image, outside = (
            Mean(self._numbers(name, f"spread/{where}")) for where in ("region", "image", "outside")
        )
        table.add("spread", name, inside, chance=0.0, reference=reference, why=why, note=note)
        table.add("spread", name, image, WHOLE, mean_at=WHOLE, chance=0.0, note=note)
        table.add("spread_outside", name, outside, chance=0.0, why=why, note=note)
        if self.feature_spread is not None:
            self._add_features(table, name, note)
        unknown = self.reliability.why_not(name)
        for where, at in {"region": {}, "image": WHOLE}.items():
            valid = Mean(self._numbers(name, f"valid/{where}"))
            table.add("spread_valid", name, unknown or valid, at, mean_at=at, chance=0.0, why=why, note=note)

    def _add_features(self, table: ResultTable, name: str, note: str) -> None:
        at = {"features": self.metric.features}
        inside, image = (Mean(self._numbers(name, f"features/{where}")) for where in ("region", "image"))
        reference, why = mean_of(self._numbers(name, "true features")), self._no_region(name)
        table.add("feature_spread", name, inside, at, mean_at=at, chance=0.0, reference=reference, why=why, note=note)
        whole = {**at, **WHOLE}
        table.add("feature_spread", name, image, whole, mean_at=whole, chance=0.0, note=note)

    def _add_judged(self, table: ResultTable, name: str) -> list[str]:
        """Add ``obeyed`` and ``kept``; returns a note about labels that may change."""
        unknown = self.reliability.why_not(name)
        obeyed = MeanProportion(self._numbers(name, "obeyed"))
        table.add("obeyed", name, unknown or obeyed, chance=mean_of(self._numbers(name, "obeyed before")))
        if self.subject.judge is None:
            table.add("kept", name, unknown)
            return []
        others = [j for j in self.reliability.trusted if j != name]
        reference = {j: mean_of(self._numbers(name, f"true kept/{j}")) for j in others}
        allowed = [j for j, share in reference.items() if share is not None and 1 - share > self.metric.allowed_change]
        columns = [self._numbers(name, f"kept/{j}") for j in others if j not in allowed]
        shares = [share for j, share in reference.items() if share is not None and j not in allowed]
        kept = MeanProportion(np.mean(columns, axis=0)) if columns else "there is no other label to compare"
        alike = {j: self.reliability.same_class_rate(j) for j in others}
        chance = float(np.mean([alike[j] for j in others if j not in allowed])) if columns else None
        table.add("kept", name, kept, chance=chance, reference=float(np.mean(shares)) if shares else None)
        for j in others:
            note = "also changes in the data's redraws" if j in allowed else ""
            column = MeanProportion(self._numbers(name, f"kept/{j}"))
            table.add(
                "kept", name, column, {"judged": j}, mean_at=None, chance=alike[j], reference=reference[j], note=note
            )
        return [f"{name}: {', '.join(allowed)} may change, as in the data's redraws"] if allowed else []

    def _add_redraws(self, table: ResultTable, name: str) -> None:
        names = ("spread_ratio", "spread_score", "recall")
        if (name, "true spread") not in self.columns:
            redraws = isinstance(self.subject.data, HasRedraws)
            for value in names:
                table.add(value, name, self._no_region(name) if redraws else "the data set cannot redraw a variety")
            return
        true = self._numbers(name, "true spread")
        both = RatioOfSums(among(~np.isnan(true), self._numbers(name, "spread/region")), true)
        why = NO_REGION if np.isnan(true).all() else "the data's redraws do not differ"
        ratio = table.add("spread_ratio", name, both, chance=0.0, why=why)
        table.add("spread_score", name, _score(ratio, table.weights.level), chance=0.0, why=why)
        table.add("recall", name, Mean(self._numbers(name, "recall")), why=why)


def _with_point_mass_note(found: Measurement) -> Measurement:
    """Note at the means that they are 0 because every p(z_c|y) is a point mass."""
    values = tuple(
        replace(value, note=joined_notes(POINT_MASS, value.note))
        if value.characteristic is None and value.name in ("spread", "spread_valid")
        else value
        for value in found.values
    )
    return replace(found, values=values)


def _score(ratio: Resampled, level: float) -> Resampled:
    """Return min(r, 1/r) of a ratio, resample by resample."""
    if not ratio.defined:
        return ratio
    without = None if ratio.leave_one_out is None else _inverse_above_one(ratio.leave_one_out)
    score = float(_inverse_above_one(np.array([ratio.value]))[0])
    return estimate_from_draws(score, _inverse_above_one(ratio.draws), ratio.estimate.n, level, without)


def _inverse_above_one(ratio: Floats) -> Floats:
    return np.where(ratio > 1, 1 / np.maximum(ratio, 1.0), ratio)


def _pixels(images: Sequence[Images], inside: Bools) -> Tensor:
    r"""Return the pixels that lie inside in some row, zero where outside, shape :math:`(N, S, Q)`."""
    mask = torch.from_numpy(inside).repeat_interleave(images[0].shape[1], 1)
    used = mask.any(0)
    return torch.stack([(pixel_rows(x) * mask)[:, used] for x in images], 1)
