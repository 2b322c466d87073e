"""The metric ``diversity``: variation among images decoded from samples of p(z_c|y), in pixels and in features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.errors import UndefinedError, UnsupportedError
from ccvae_eval.core.results import Measurement
from ccvae_eval.core.types import Bools, Floats, Images
from ccvae_eval.data.interface import HasRedraws
from ccvae_eval.evaluation.accumulator import ImageAccumulator, first_chunks
from ccvae_eval.evaluation.judge_scores import classified_as, judged, unchanged_share
from ccvae_eval.evaluation.metric import Decoded, Needs
from ccvae_eval.evaluation.result_table import (
    NO_LABEL,
    NO_OTHER_LABEL,
    NO_REGION,
    REGIONLESS,
    Mean,
    MeanProportion,
    RatioOfSums,
    ResultTable,
    Undefined,
    among,
    joined_notes,
    mean_of,
    unless,
)
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.diversity.settings import Diversity
from ccvae_eval.metrics.shared.features import Features, extractor_named
from ccvae_eval.metrics.shared.image_change import mean_variance, pairwise_spread, pixel_rows, recall
from ccvae_eval.metrics.shared.region_masks import region_pixels
from ccvae_eval.model.interface import HasConditionalPrior, supports
from ccvae_eval.statistics.intervals import Resampled, estimate_from_draws
from ccvae_eval.statistics.resampling import ResampleWeights

REAL_IMAGES = 256
"""Number of real images, from the first, whose standard deviations scale the features."""

CONSTANT = 1e-6
"""Standard deviation over the real images below which a feature is ignored."""

WHOLE = {"where": "image"}
"""Rows over the whole image, which also exist if a characteristic has no region."""

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
        parts = [self._features(chunk.images) for chunk in first_chunks(subject, REAL_IMAGES)]
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


def needs(metric: Diversity, subject: Subject) -> Needs:
    names, _ = _drawable(metric, subject)
    draws = tuple(draw for name in names for draw in metric.draws_of(name))
    reconstruction = subject.judge_source.possible or bool(metric.features)
    return Needs(draws, reconstruction=reconstruction, judge=True, regions=True)


def _drawable(metric: Diversity, subject: Subject) -> tuple[list[str], dict[str, str]]:
    """Return the characteristics that can be sampled, and the reason for each of the others.

    Raises:
        UnsupportedError: if the model has no p(z_c|y).
        UndefinedError: if no label has latent dimensions of its own.
    """
    if not supports(subject.model, HasConditionalPrior):
        raise UnsupportedError(subject.no_prior)
    if not subject.characteristics:
        raise UndefinedError("no label has latent dimensions of its own")
    names, reasons = [], {}
    for name in subject.characteristics:
        if not subject.cardinality(name):  # a continuous label without values has no levels
            reasons[name] = NO_LABEL
            continue
        subject.prior_of(name)
        if metric.value == "now" and not bool((subject.current_class(name) >= 0).any()):
            reasons[name] = "no image's class is known"
        else:
            names.append(name)
    return names, reasons


class DiversityAccumulator(ImageAccumulator[Diversity]):
    """Collects one number per image, characteristic and key; NaN where it does not apply."""

    def __init__(self, metric: Diversity, subject: Subject) -> None:
        super().__init__(metric, subject)
        self.names, self.reasons = _drawable(metric, subject)
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
        self.keep_images(f"strip/{name}", chunk, draws, axis=1)

    def _masks(self, batch: Decoded) -> dict[str, Bools]:
        """Return pixel masks "image", "region" and "outside"; the last two are empty if a region is unusable."""
        height, width = batch.chunk.images.shape[2:]
        masks = {"image": np.ones((len(batch.chunk), height * width), bool)}
        region = region_pixels(batch.region, self.metric.largest_region)
        if region is not None:
            masks |= {"region": region, "outside": ~region & region.any(1, keepdims=True)}
        return masks

    def _judged(
        self, batch: Decoded, draws: Sequence[Images], classes: Tensor, masks: Mapping[str, Bools],
        spreads: Mapping[str, Floats],
    ) -> dict[str, Floats]:  # fmt: skip
        before = batch.judged(None)
        after = batch.judged_all(self.metric.draws_of(batch.characteristic))
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
        if not supports(data, HasRedraws) or "region" not in masks or len(here) == 0:
            return
        value = self.subject.class_values(name, classes[here]).float().numpy()
        true = [data.redraw(chunk.ids[here], name, value, draw) for draw in range(self.metric.draws)]
        variance = mean_variance(true).double().numpy()
        inside = masks["region"][here]
        near = recall(
            _pixels(true, inside),
            _pixels(list(torch.stack([x[here] for x in draws]).cpu()), inside),
            self.metric.neighbour,
        )
        found = {"true spread": pairwise_spread(variance, inside), "recall": among(np.asarray(inside.any(1)), near)}
        if self.feature_spread is not None:
            images = chunk.images[here]
            shown = [x.to(self.subject.device) for x in true]
            found["true features"] = self.feature_spread.of(shown, images, inside)
        if self.subject.judge is not None:
            shown = [chunk.images[here], *(x.to(self.subject.device) for x in true)]
            before, *after = judged(self.subject, shown)
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
        return NO_REGION if (name, "spread/region") in self.columns else REGIONLESS

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
            table.add("spread_valid", name, unless(unknown, valid), at, mean_at=at, chance=0.0, why=why, note=note)

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
        table.add("obeyed", name, unless(unknown, obeyed), chance=mean_of(self._numbers(name, "obeyed before")))
        if self.subject.judge is None:
            table.add("kept", name, Undefined(unknown))
            return []
        others = [j for j in self.reliability.trusted if j != name]
        reference = {j: mean_of(self._numbers(name, f"true kept/{j}")) for j in others}
        allowed = [j for j, share in reference.items() if share is not None and 1 - share > self.metric.allowed_change]
        columns = [self._numbers(name, f"kept/{j}") for j in others if j not in allowed]
        shares = [share for j, share in reference.items() if share is not None and j not in allowed]
        kept = MeanProportion(np.mean(columns, axis=0)) if columns else NO_OTHER_LABEL
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
        if (name, "true spread") not in self.columns:
            redraws = supports(self.subject.data, HasRedraws)
            why = self._no_region(name) if redraws else "the data set cannot redraw a variety"
            table.undefined(name, why, ("spread_ratio", "spread_score", "recall"))
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
