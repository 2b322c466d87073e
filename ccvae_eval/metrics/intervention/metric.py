"""Intervention: effect of edits do(c = v) and swaps on the edited label, on all other labels, and on the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.errors import UndefinedError
from ccvae_eval.core.results import Measurement
from ccvae_eval.core.types import Bools, Floats, Images
from ccvae_eval.data.interface import HasCounterfactuals, HasRedraws, HasVariety
from ccvae_eval.data.labels.relabel import label_columns
from ccvae_eval.evaluation.accumulator import ImageAccumulator
from ccvae_eval.evaluation.interventions import (
    CLIPPED_WARNING,
    Assign,
    Do,
    Intervention,
    PriorDraw,
    Swap,
    Together,
    donor_rows,
    why_not,
)
from ccvae_eval.evaluation.judge_scores import classified_as, judged_change, judged_position
from ccvae_eval.evaluation.metric import CodeSource, Decoded, Mode, Needs
from ccvae_eval.evaluation.result_table import NO_CHARACTERISTIC, REGIONLESS, ResultTable, Undefined
from ccvae_eval.evaluation.subject import Subject, once_per_subject
from ccvae_eval.metrics.intervention import counterfactuals
from ccvae_eval.metrics.intervention.realism import FeatureValues
from ccvae_eval.metrics.intervention.rows import InterventionRows
from ccvae_eval.metrics.intervention.settings import Interventions
from ccvae_eval.metrics.matchers.interface import grey
from ccvae_eval.metrics.shared.assignments import assignment_text, obeys
from ccvae_eval.metrics.shared.image_change import dissimilarity, moments
from ccvae_eval.metrics.shared.region_masks import OUTSIDE, RegionMasks, masks_of, region_pixels
from ccvae_eval.model.fixed_batches import Chunk
from ccvae_eval.model.interface import HasConditionalPrior, supports
from ccvae_eval.statistics.ratios import safe_ratio
from ccvae_eval.statistics.resampling import ResampleWeights


@dataclass(frozen=True, slots=True)
class Edit:
    """The edits of one characteristic.

    Args:
        characteristic: the characteristic that is edited.
        do, swap: the interventions; None where they are undefined.
        no_do, no_swap: the reason where they are undefined.
    """

    characteristic: str
    do: Do | None
    swap: Swap | None
    no_do: str = ""
    no_swap: str = ""

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        return tuple(i for i in (self.do, self.swap) if i is not None)


@once_per_subject
def edits_for(subject: Subject, mode: Mode, source: CodeSource) -> list[Edit]:
    """The edits of each characteristic, with the reason where they are undefined."""
    edits = []
    for name in subject.characteristics:
        do = Do(name, mode, source)
        no_do = why_not(do, subject)
        if not no_do and not bool((subject.target_class(name) >= 0).any()):
            no_do = "no image's class is known"
        no_swap = "" if bool((donor_rows(subject, name) >= 0).any()) else "no image has another class"
        edits.append(Edit(name, None if no_do else do, None if no_swap else Swap(name), no_do, no_swap))
    return edits


WINDOW = 7
"""Side of the SSIM window in pixels, as in drift."""


def needs(metric: Interventions, subject: Subject) -> Needs:
    """The edits of each characteristic, and the assignment.

    Raises:
        UndefinedError: the model assigns latent dimensions to no label.
    """
    if not subject.characteristics:
        raise UndefinedError("the model assigns latent dimensions to no label")
    edits, count = edits_for(subject, metric.mode, metric.source), len(subject)
    wanted: list[Intervention] = [i for edit in edits for i in edit.interventions]
    if metric.assign:
        wanted.append(metric.assigned(subject))
    wanted += sets_of_labels(metric, subject)
    axioms = min(metric.axiom_images, count) * max(metric.repeats) * (1 + 2 * len(edits))
    rendered = min(metric.rendered, count) if supports(subject.data, HasVariety) else 0
    own = -(-(axioms + rendered * len(edits) * (1 + metric.draws)) // max(count, 1))
    return Needs(tuple(wanted), reconstruction=True, judge=True, regions=True, own=own)


def sets_of_labels(metric: Interventions, subject: Subject) -> list[Together]:
    """The interventions that set 1, 2, ... labels at once, up to ``together`` or the number of editable labels.

    Continuous labels have no class that the judge could find, and are not set.
    """
    edited = [edit.characteristic for edit in edits_for(subject, metric.mode, metric.source) if edit.do is not None]
    names = tuple(sorted(name for name in edited if subject.schema[name].kind != "continuous"))
    most = min(metric.together, len(names))
    return [Together(count, names, metric.mode, metric.source) for count in range(1, most + 1)]


def training_images(subject: Subject) -> Callable[[dict[str, Tensor]], Floats] | None:
    """Counts training images by their combination of labels; None if the training images are unknown.

    The function takes the class of each label in each image, shape (N,), -1 = unknown. It returns the number of
    training images with that combination, shape (N,), NaN where a class is unknown.
    """
    if subject.trained_on is None:
        return None
    schema = subject.schema
    columns = label_columns(subject.data, schema, subject.trained_on)

    def count(classes: dict[str, Tensor]) -> Floats:
        asked = np.stack([found.numpy() for found in classes.values()], axis=1)
        table = np.nan_to_num(columns[:, [schema.index(name) for name in classes]], nan=-1.0).astype(np.int64)
        combinations, places = np.unique(np.concatenate([asked, table]), axis=0, return_inverse=True)
        counts = np.bincount(places.ravel()[len(asked) :], minlength=len(combinations))
        return np.where((asked >= 0).all(1), counts[places.ravel()[: len(asked)]], np.nan)

    return count


class InterventionAccumulator(ImageAccumulator[Interventions]):
    """One score per image and characteristic, NaN where it is undefined."""

    def __init__(self, metric: Interventions, subject: Subject) -> None:
        super().__init__(metric, subject)
        self.edits = {edit.characteristic: edit for edit in edits_for(subject, metric.mode, metric.source)}
        self.assigned = metric.assigned(subject) if metric.assign else None
        self.of_features: FeatureValues | None = None
        if metric.feature_images:
            self.of_features = FeatureValues(metric.features, metric.feature_images, subject, self.columns)
        self.sets = sets_of_labels(metric, subject)
        self._other: tuple[int, Tensor] | None = None

    def update(self, batch: Decoded) -> None:
        self.reliability.update(batch)
        rows, first = batch.chunk.rows, batch.within(self.metric.rendered)
        if not batch.characteristic:
            if self.assigned is not None:
                self._judge_assignment(batch, self.assigned)
            for several in self.sets:
                after = batch.judged(several)
                found = {f"together/{several.count}/{j}": after[j].argmax(1).double().numpy() for j in after}
                self.columns.put(NO_CHARACTERISTIC, rows, found)
            return
        edit = self.edits[batch.characteristic]
        if (few := batch.within(self.metric.axiom_images)) is not None:
            self._check_axioms(edit, few)
        region = region_pixels(batch.region, self.metric.largest_region)
        if edit.do is not None:
            self.columns.put(edit.characteristic, rows, self._judge_edit(edit, batch, edit.do))
            if self.of_features is not None:
                self.of_features.update(batch, edit.do)
        outside = None if edit.swap is None or region is None else self._outside_of_swap(batch, edit.swap, region)
        if edit.swap is not None:
            self.columns.put(edit.characteristic, rows, self._score_swap(batch, edit.swap, outside))
        if first is not None and region is not None:
            self._compare_with_renderings(edit, first, region[: len(first.chunk)], outside)
        self._keep(f"edits/{edit.characteristic}", batch, edit.interventions)

    def _compare_with_renderings(self, edit: Edit, batch: Decoded, region: Bools, outside: RegionMasks | None) -> None:
        if edit.do is not None:
            self._compare_removal(batch, edit.do, region)
        self._compare_samples(batch, region)
        if edit.swap is not None and outside is not None:
            self._compare_swap(batch, edit.swap, region, RegionMasks(outside.masks[: len(region)]))

    def _judge_edit(self, edit: Edit, batch: Decoded, do: Do) -> dict[str, Floats]:
        """Judged effect of do(c = v)."""
        name, chunk = edit.characteristic, batch.chunk
        then = self.subject.target_class(name)[chunk.rows]
        clipped = do.applied(self.subject, chunk)[1]
        found = {"do/applies": (then >= 0).double().numpy(), "clipped": clipped.double().numpy()}
        before, after = batch.judged(None), batch.judged(do)
        found |= judged_change(before, after, "do")
        if name in after:
            found["effect"] = classified_as(after[name], then).astype(np.float64)
            found["effect before"] = classified_as(before[name], then).astype(np.float64)
            if self.subject.schema[name].kind == "continuous":
                found["asked value"] = self.subject.class_values(name, then).numpy()
                found |= {key: judged_position(at[name]) for key, at in (("value", after), ("value before", before))}
        if name == self.subject.by:
            found |= {f"do/class/{j}": after[j].argmax(1).double().numpy() for j in after}
        return found

    def _score_swap(self, batch: Decoded, swap: Swap, outside: RegionMasks | None) -> dict[str, Floats]:
        """Judged class, and change outside the regions."""
        name, chunk = swap.characteristic, batch.chunk
        donors = donor_rows(self.subject, name)[chunk.rows]
        given = torch.where(donors >= 0, self.subject.current_class(name)[donors.clamp_min(0)], -1)
        found = {"swap/applies": (donors >= 0).double().numpy()}
        before, after = batch.judged(None), batch.judged(swap)
        if name in after:
            swapped, unswapped = (classified_as(judged[name], given).astype(np.float64) for judged in (after, before))
            found["transfer"] = swapped - unswapped
        if outside is not None:
            r, image = batch.reconstruction, batch.images[swap]
            assert r is not None, "asked for in needs()"
            ssim = dissimilarity(moments(grey(r), WINDOW), moments(grey(image), WINDOW))
            found["identity"] = _mean_outside(outside, ssim)
        return found

    def _outside_of_swap(self, batch: Decoded, swap: Swap, region: Bools) -> RegionMasks | None:
        """Masks of the regions of recipients and donors, empty where one has none; None if the data have no regions."""
        donors = donor_rows(self.subject, swap.characteristic)[batch.chunk.rows]
        donor_ids = self.subject.ids[donors.clamp_min(0).numpy()]
        donor_region = region_pixels(self.region(donor_ids, swap.characteristic), self.metric.largest_region)
        if donor_region is None:
            return None
        r = batch.images[swap]
        usable: Bools = np.asarray(region.any(1) & donor_region.any(1))
        both = torch.from_numpy(np.logical_or(region, donor_region) & usable[:, None]).reshape(len(r), *r.shape[2:])
        return masks_of(both, WINDOW // 2, r)

    def _compare_swap(self, batch: Decoded, swap: Swap, region: Bools, outside: RegionMasks) -> None:
        """Compare the swap with its rendering, and the reconstruction with another image outside the regions."""
        name, chunk, r = swap.characteristic, batch.chunk, batch.reconstruction
        assert r is not None, "asked for in needs()"
        found: dict[str, Floats] = {}
        other = self._other_image(chunk, r)
        if other is not None:
            found["identity before"] = _mean_outside(outside, other)
        rows = (donor_rows(self.subject, name)[chunk.rows] >= 0).numpy() & region.any(1)
        if rows.any() and self._has_variety(name):
            truth = counterfactuals.render_swap(self.subject, name, chunk, rows)
            own = counterfactuals.distance(r[rows], chunk.images[rows], region[rows])
            for key, shown in (("fidelity", batch.images[swap]), ("fidelity before", r)):
                found[key] = _column(counterfactuals.distance(shown[rows], truth, region[rows]) - own, rows)
        self.columns.put(name, chunk.rows, found)

    def _other_image(self, chunk: Chunk, r: Images) -> Tensor | None:
        """1 - SSIM of each reconstruction and another one of its chunk, shape (n, H, W); None of a single image."""
        if len(chunk) < 2:
            return None
        if self._other is None or self._other[0] != chunk.rows.start:
            own = moments(grey(r), WINDOW)
            self._other = chunk.rows.start, dissimilarity(own, moments(grey(r.roll(1, 0)), WINDOW))
        return self._other[1]

    def _has_variety(self, name: str) -> bool:
        data = self.subject.data
        return supports(data, HasVariety) and name in data.schema and bool(data.variety_names(name))

    def _compare_removal(self, batch: Decoded, do: Do, region: Bools) -> None:
        """Compare edited images with renderings without the attribute, for images that have a binary attribute.

        Or with the value that was set, for a continuous label.
        """
        name, chunk, subject = do.characteristic, batch.chunk, self.subject
        kind, then = subject.schema[name].kind, subject.target_class(name)[chunk.rows]
        applies = then >= 0 if kind == "continuous" else subject.classes(name)[chunk.rows] == 1
        rows: Bools = applies.numpy() & region.any(1)
        if kind == "categorical" or not rows.any():
            return
        if not supports(subject.data, HasCounterfactuals) or name not in subject.data.schema:
            return
        chosen = then[torch.from_numpy(rows)]
        values = subject.class_values(name, chosen) if kind == "continuous" else torch.zeros(len(chosen))
        truth = counterfactuals.render_with(subject, name, chunk, rows, values)
        rebuilt = counterfactuals.reconstruct(subject, name, chunk, rows, truth, values)
        edited, r = batch.images[do][rows], batch.reconstruction
        assert r is not None, "asked for in needs()"
        for place, where in (("inside", region[rows]), ("outside", ~region[rows])):
            own = counterfactuals.distance(rebuilt, truth, where)
            for key, image in (("error", edited), ("error before", r[rows])):
                error = counterfactuals.distance(image, truth, where) - own
                self.columns.put(name, chunk.rows, {f"{key}/{place}": _column(error, rows)})

    def _compare_samples(self, batch: Decoded, region: Bools) -> None:
        """Compare samples of p(z_c|y) with renderings of resampled variety, for images of another class."""
        name, chunk, subject = batch.characteristic, batch.chunk, self.subject
        draws = [PriorDraw(name, draw) for draw in range(self.metric.draws)]
        can_resample = supports(subject.data, HasRedraws) and name in subject.data.schema
        has_prior = supports(subject.model, HasConditionalPrior)
        if not (can_resample and has_prior and subject.cardinality(name)):
            return
        classes = draws[0].classes(subject, chunk)
        rows: Bools = ((classes >= 0) & (subject.current_class(name)[chunk.rows] != classes)).numpy() & region.any(1)
        if not rows.any():
            return
        assert supports(subject.data, HasRedraws)
        value = subject.class_values(name, classes[torch.from_numpy(rows)]).float().numpy()
        sampled = [subject.decode(draw.codes(subject, chunk))[rows] for draw in draws]
        true = [subject.data.redraw(chunk.ids[rows], name, value, d).to(subject.device) for d in range(len(draws))]
        assert batch.reconstruction is not None, "asked for in needs()"
        still = [batch.reconstruction[rows]] * 2  # the same appearance in every sample
        for key, samples in (("energy", sampled), ("energy before", still)):
            distances = counterfactuals.energy_distance(samples, true, region[rows])
            self.columns.put(name, chunk.rows, {key: _column(distances, rows)})

    def _check_axioms(self, edit: Edit, batch: Decoded) -> None:
        """Axioms; composition once per chunk, with the distance to another image of the chunk as its chance level."""
        chunk, repeats = batch.chunk, self.metric.repeats
        if edit.characteristic == next(iter(self.edits)):
            again = counterfactuals.composition(self.subject, chunk, repeats)
            self.columns.put(NO_CHARACTERISTIC, chunk.rows, {f"composition/{m}": column for m, column in again.items()})
            if len(chunk) > 1:
                another = counterfactuals.distance(chunk.images, chunk.images.roll(1, 0))
                self.columns.put(NO_CHARACTERISTIC, chunk.rows, {"another": another})
        if edit.do is not None:
            back = counterfactuals.reversibility(self.subject, chunk, edit.do, repeats)
            self.columns.put(edit.characteristic, chunk.rows, {f"reversibility/{m}": d for m, d in back.items()})

    def _judge_assignment(self, batch: Decoded, assigned: Assign) -> None:
        """Judged effect of the assignment."""
        before, after = batch.judged(None), batch.judged(assigned)
        found = judged_change(before, after, "assigned")
        for name, value in assigned.assignment:
            if name in after:
                found[f"obeyed/{name}"] = obeys(self.subject, after[name], name, value)
                found[f"obeyed before/{name}"] = obeys(self.subject, before[name], name, value)
        self.columns.put(NO_CHARACTERISTIC, batch.chunk.rows, found)
        self._keep("assigned", batch, (assigned,))

    def _keep(self, name: str, batch: Decoded, interventions: Sequence[Intervention]) -> None:
        assert batch.reconstruction is not None, "asked for in needs()"
        edited = (batch.images[intervention] for intervention in interventions)
        self.keep_images(name, batch.chunk, (batch.chunk.images, batch.reconstruction, *edited))

    def compute(self, weights: ResampleWeights) -> Measurement:
        table = ResultTable(self.metric, self.subject, weights)
        rows = InterventionRows(table, self.columns, self.reliability)
        notes = self.reliability.notes()
        for name, edit in self.edits.items():
            no_region = "" if self.region(self.subject.ids[:1], name) is not None else REGIONLESS
            rows.add_judged(name, edit.no_do)
            rows.add_swaps(name, edit.no_swap, no_region)
            rows.add_ground_truth(name, edit.no_do, no_region)
            clipped = float(np.nan_to_num(self.columns.get(name, "clipped")).mean())
            if clipped > CLIPPED_WARNING:
                outside = "of the codes lie outside the quantiles 0.005 to 0.995 of their class"
                notes.append(f"{name}: {clipped:.0%} {outside}")
        no_do = {name: edit.no_do for name, edit in self.edits.items()}
        if self.subject.by is not None:
            by, no_edit = self.subject.by, "the label of --by is not edited"
            rows.add_unfairness(by, self.edits[by].no_do if by in self.edits else no_edit)
        if self.metric.axiom_images:
            rows.add_axioms(no_do, self.metric.repeats)
        if self.of_features is not None:
            self.of_features.add(table, no_do)
        if self.assigned is not None:
            assignment = self.assigned.assignment
            rows.add_assignment(assignment_text(assignment, self.subject), [name for name, _ in assignment])
        if self.metric.together:
            counted = training_images(self.subject)
            with_classes = [label.name for label in self.subject.schema if label.kind != "continuous"]
            current = {name: self.subject.current_class(name) for name in with_classes}
            for several in self.sets:
                targets = several.targets(self.subject)
                changed = {name: torch.where(set_to < 0, current[name], set_to) for name, set_to in targets.items()}
                asked = current | changed
                rows.add_together(several.count, targets, None if counted is None else counted(asked))
            for count in range(len(self.sets) + 1, self.metric.together + 1):
                table.add("obeyed_together", None, Undefined(f"{len(self.sets)} labels can be set"), {"set": count})
        return table.measurement(notes, self.pictures.arrays())


def _mean_outside(masks: RegionMasks, apart: Tensor) -> Floats:
    """Mean of a map over the pixels outside of the regions, shape (n,); NaN without such pixels."""
    size = masks.sizes()[:, OUTSIDE].double().cpu().numpy()
    return safe_ratio(masks.pixel_sums(apart)[:, OUTSIDE].double().cpu().numpy(), size)


def _column(values: Floats, rows: Bools) -> Floats:
    """A column with the values at the given rows, NaN elsewhere."""
    column = np.full(len(rows), np.nan)
    column[rows] = values
    return column
