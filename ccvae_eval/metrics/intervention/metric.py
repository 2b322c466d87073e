"""Intervention: effect of edits do(c = v) and swaps on the edited label, on all other labels, and on the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.errors import UndefinedError, UsageError
from ccvae_eval.core.results import Measurement, ValueSpec
from ccvae_eval.core.types import Bools, Floats, Ids, Images
from ccvae_eval.data.interface import HasCounterfactuals, HasRedraws, HasRegions, HasVariety
from ccvae_eval.evaluation.interventions import (
    Assign,
    CodeSource,
    Do,
    Intervention,
    Mode,
    PriorDraw,
    Swap,
    donor_rows,
    why_not,
)
from ccvae_eval.evaluation.judge_scores import ANOTHER, JudgeReliability, classified_as, judged_change
from ccvae_eval.evaluation.metric import LAWS, Decoded, Needs, require_at_least
from ccvae_eval.evaluation.pictures import PICTURED, MeanPictures, as_bytes
from ccvae_eval.evaluation.result_table import NO_CHARACTERISTIC, ColumnStore, ResultTable
from ccvae_eval.evaluation.subject import Chunk, Subject
from ccvae_eval.metrics.intervention import counterfactuals
from ccvae_eval.metrics.matchers.interface import grey
from ccvae_eval.metrics.shared.image_change import dissimilarity, moments, ratio
from ccvae_eval.metrics.shared.judged_changes import InterventionRows, assignment_of, assignment_text
from ccvae_eval.metrics.shared.region_masks import OUTSIDE, masks_of
from ccvae_eval.model.interface import HasConditionalPrior, supports
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


def edits_for(subject: Subject, mode: Mode, source: CodeSource) -> list[Edit]:
    """The edits of each characteristic, with the reason where they are undefined."""
    edits = []
    for name in subject.characteristics:
        if subject.schema[name].kind == "continuous":
            why = "a continuous label has no other class"
            edits.append(Edit(name, None, None, why, why))
            continue
        do = Do(name, mode, source)
        no_do = why_not(do, subject)
        if not no_do and not bool((subject.target_class(name) >= 0).any()):
            no_do = "no image's class is known"
        no_swap = "" if bool((donor_rows(subject, name) >= 0).any()) else "no image has another class"
        edits.append(Edit(name, None if no_do else do, None if no_swap else Swap(name), no_do, no_swap))
    return edits


WINDOW = 7
"""Side of the SSIM window in pixels, as in drift."""

UNCHANGED = "the unedited reconstruction"
"""Chance level of values that compare an edit with a rendered counterfactual."""

CLIPPED_WARNING = 0.1
"""Share of clipped ranks above which a note is added."""


@dataclass(frozen=True, slots=True)
class Interventions:
    r"""Effect of interventions on a label: judged classes, distance to rendered counterfactuals, and axioms.

    Each image is decoded after do(c = v), v a class other than its own (``mode``: transport keeps its rank within the
    class). With the judge: ``effect`` = share of images that the judge classifies as v; ``kept`` = share whose judged
    class of another label is that of the reconstruction r, one row for each label at ``judged=`` and their mean;
    ``change`` = mean total variation of the judged probabilities of each label: the matrix of judged changes.

    Swap: the latent dimensions of c are copied from a random image of another class, the donor. ``transfer`` = share
    of images that the judge classifies as the donor's class, minus the same share for r; ``identity`` = 1 - SSIM of r
    and the swapped image outside both images' regions, a window away from them. ``fidelity`` (for data with a variety)
    = d(swapped, recipient rendered with the donor's variety) - d(r, x) inside the region, where d is the mean absolute
    difference of pixels.

    Formula: with f(x, c, v) = decode(do(c = v) on encode(x)) from posterior means, ``composition`` = d(f^m(x, c, own
    class), x), the same for every c, and ``reversibility`` = d(x after m edits to v and back, x), m in ``repeats``, on
    the first ``axiom_images`` images. With a renderer, on the first ``rendered`` images and with x* = x rendered
    without the attribute, ``error`` = d(f(x), x*) - d(decode(encode(x*)), x*) from present to absent, at
    ``where=inside`` and ``where=outside`` of the region. From absent to present many appearances are right, so
    ``energy`` = energy distance between ``draws`` samples from p(z_c|y) and as many renderings with resampled variety,
    inside the region.

    ``assign="Male=1,Heavy_Makeup=0"`` sets several labels at once: ``obeyed`` = share of images with the judged class
    assigned to each label, and to all together, with their ``kept``, at ``do=``.

    Range: 0 to 1; -1 to 1 for transfer, fidelity and error, 0 to 2 for identity; energy has no bounds.
    Direction: higher is better for effect, kept, transfer and obeyed; lower for identity, fidelity, composition,
    reversibility, error and energy.
    Chance: for effect and obeyed, the judged share of v in r; 0 for transfer; for fidelity, error and energy, the
    unedited reconstruction; for composition and reversibility, another image.
    Cost: 2 images decoded for each image and characteristic (do and swap), the reconstruction, ``draws`` more where
    the data can resample the variety, one for an assignment; for the axioms max(repeats) + 2 max(repeats) for each
    characteristic, encoded as well, on the first images.
    Pitfalls: judged values depend on the judge: labels that it does not recognise in this model's reconstructions are
    left out. error and fidelity subtract the model's reconstruction error and may be negative. do() by transport needs
    20 images of each class.
    Reference: docs/metrics.md, section 6; Monteiro et al. 2023 (axioms); Szekely and Rizzo 2013 (energy distance).

    Args:
        mode: code after do(c = v): transport (same rank within the class), mean (of the class), or sample (from
            p(z_c|y)).
        source: distribution of each class: fitted to the codes of other images, or p(z_c|y).
        assign: labels to set together, as LABEL=CLASS,LABEL=CLASS.
        repeats: repetitions of the edits behind the axioms.
        axiom_images: number of images for the axioms, from the first.
        draws: samples behind the energy distance.
        rendered: number of images with rendered counterfactuals, from the first.
        largest_region: largest share of the image that a region may cover.
    """

    name: ClassVar[str] = "intervention"
    version: ClassVar[int] = 3
    headline: ClassVar[str] = "effect"
    default_sample: ClassVar[int] = 2000
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label"}
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "effect": ValueSpec(
            "share of images that the judge classifies as the class that was set", "share", True, (0.0, 1.0),
            "the reconstruction", True, ("idle",),
        ),
        "kept": ValueSpec(
            "share of images whose judged class of another label stays", "share", True, (0.0, 1.0), ANOTHER, True,
            ("leak",),
        ),
        "change": ValueSpec("change of the judged probabilities of a label", "", None, (0.0, 1.0), UNCHANGED, True),
        "transfer": ValueSpec(
            "share judged as the donor's class after a swap, minus that of the reconstruction", "share", True,
            (-1.0, 1.0), "nothing is swapped", True, ("idle",),
        ),
        "identity": ValueSpec(
            "1 - SSIM outside both regions after a swap", "", False, (0.0, 2.0), ANOTHER, dials=("warp",),
        ),
        "fidelity": ValueSpec(
            "distance to the recipient rendered with the donor's variety, minus the reconstruction error", "intensity",
            False, (-1.0, 1.0), "nothing is swapped", dials=("idle",),
        ),
        "composition": ValueSpec(
            "distance to the image after encoding and decoding it m times", "intensity", False, (0.0, 1.0),
            "another image", dials=("fade",),
        ),
        "reversibility": ValueSpec(
            "distance to the image after m edits to another class and back", "intensity", False, (0.0, 1.0),
            "another image", dials=("fade",),
        ),
        "error": ValueSpec(
            "distance to the image rendered without the attribute, minus that image's reconstruction error",
            "intensity", False, (-1.0, 1.0), UNCHANGED, dials=("leak", "idle"),
        ),
        "energy": ValueSpec(
            "energy distance between samples of p(z_c|y) and renderings with resampled variety", "intensity", False,
            (None, None), UNCHANGED, dials=("collapse",),
        ),
        "obeyed": ValueSpec(
            "share of images that the judge classifies as assigned", "share", True, (0.0, 1.0), "the reconstruction",
            True, ("idle",),
        ),
    }  # fmt: skip

    mode: Mode = "transport"
    source: CodeSource = "codes"
    assign: str = ""
    repeats: tuple[int, ...] = (1, 10)
    axiom_images: int = 64
    draws: int = 8
    rendered: int = 128
    largest_region: float = 0.6

    def __post_init__(self) -> None:
        if not self.repeats or min(self.repeats) < 1 or len(set(self.repeats)) != len(self.repeats):
            message = f"repeats must be distinct numbers from 1 up, got {self.repeats}"
            raise UsageError(message, where="intervention.repeats")
        require_at_least(self, axiom_images=0, draws=2, rendered=0)

    def needs(self, subject: Subject) -> Needs:
        """The edits of each characteristic, and the assignment.

        Raises:
            UndefinedError: the model assigns latent dimensions to no label.
        """
        if not subject.characteristics:
            raise UndefinedError("the model assigns latent dimensions to no label")
        edits, count = edits_for(subject, self.mode, self.source), len(subject)
        wanted: list[Intervention] = [i for edit in edits for i in edit.interventions]
        if self.assign:
            wanted.append(self.assigned(subject))
        axioms = min(self.axiom_images, count) * max(self.repeats) * (1 + 2 * len(edits))
        rendered = min(self.rendered, count) if supports(subject.data, HasVariety) else 0
        own = -(-(axioms + rendered * len(edits) * (1 + self.draws)) // max(count, 1))
        return Needs(tuple(wanted), reconstruction=True, judge=True, regions=True, own=own)

    def assigned(self, subject: Subject) -> Assign:
        """The intervention that sets the labels of ``assign``."""
        return Assign(assignment_of(self.assign, subject), self.mode, self.source)

    def start(self, subject: Subject) -> InterventionAccumulator:
        return InterventionAccumulator(self, subject)


class InterventionAccumulator:
    """One score per image and characteristic, NaN where it is undefined."""

    def __init__(self, metric: Interventions, subject: Subject) -> None:
        self.metric, self.subject = metric, subject
        self.edits = {edit.characteristic: edit for edit in edits_for(subject, metric.mode, metric.source)}
        self.assigned = metric.assigned(subject) if metric.assign else None
        self.columns = ColumnStore(len(subject))
        self.reliability = JudgeReliability(subject)
        self.pictures = MeanPictures()
        self._other: tuple[int, Tensor] | None = None

    def update(self, batch: Decoded) -> None:
        self.reliability.update(batch)
        rows = batch.chunk.rows
        if not batch.characteristic:
            self._judge_assignment(batch)
            return
        edit = self.edits[batch.characteristic]
        if rows.start < self.metric.axiom_images:
            self._check_axioms(edit, batch)
        region = counterfactuals.region_pixels(batch.region, self.metric.largest_region)
        if edit.do is not None:
            self.columns.put(edit.characteristic, rows, self._judge_edit(edit, batch, edit.do))
            if region is not None:
                self._compare_removal(batch, edit.do, region)
        if region is not None:
            self._compare_samples(batch, region)
        if edit.swap is not None:
            self.columns.put(edit.characteristic, rows, self._score_swap(batch, edit.swap, region))
        self._keep(f"edits/{edit.characteristic}", batch, [batch.images[i] for i in edit.interventions])

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
        return found

    def _score_swap(self, batch: Decoded, swap: Swap, region: Bools | None) -> dict[str, Floats]:
        """Judged class, change outside the regions, and distance to the rendered swap."""
        name, chunk = swap.characteristic, batch.chunk
        donors = donor_rows(self.subject, name)[chunk.rows]
        given = torch.where(donors >= 0, self.subject.current_class(name)[donors.clamp_min(0)], -1)
        found = {"swap/applies": (donors >= 0).double().numpy()}
        before, after = batch.judged(None), batch.judged(swap)
        if name in after:
            swapped, unswapped = (classified_as(judged[name], given).astype(np.float64) for judged in (after, before))
            found["transfer"] = swapped - unswapped
        donor_region = self._regions(self.subject.ids[donors.clamp_min(0).numpy()], name)
        if region is None or donor_region is None:
            return found
        r, image = batch.reconstruction, batch.images[swap]
        assert r is not None, "asked for in needs()"
        usable: Bools = np.asarray(region.any(1) & donor_region.any(1))
        both = torch.from_numpy(np.logical_or(region, donor_region) & usable[:, None]).reshape(len(r), *r.shape[2:])
        masks = masks_of(both, WINDOW // 2, r)
        ssim = dissimilarity(moments(grey(r), WINDOW), moments(grey(image), WINDOW))
        size = masks.sizes()[:, OUTSIDE].double().cpu().numpy()
        for key, apart in (("identity", ssim), ("identity before", self._other_image(chunk, r))):
            if apart is not None:
                found[key] = ratio(masks.pixel_sums(apart)[:, OUTSIDE].double().cpu().numpy(), size)
        rows = (donors >= 0).numpy() & region.any(1)
        if chunk.rows.start < self.metric.rendered and rows.any() and self._has_variety(name):
            truth = counterfactuals.render_swap(self.subject, name, chunk, rows)
            own = counterfactuals.distance(r[rows], chunk.images[rows], region[rows])
            for key, shown in (("fidelity", image), ("fidelity before", r)):
                found[key] = _column(counterfactuals.distance(shown[rows], truth, region[rows]) - own, rows)
        return found

    def _other_image(self, chunk: Chunk, r: Images) -> Tensor | None:
        """1 - SSIM of each reconstruction and another one of its chunk, shape (n, H, W); None beyond ``rendered``."""
        if len(chunk) < 2 or chunk.rows.start >= self.metric.rendered:
            return None
        if self._other is None or self._other[0] != chunk.rows.start:
            own = moments(grey(r), WINDOW)
            self._other = chunk.rows.start, dissimilarity(own, moments(grey(r.roll(1, 0)), WINDOW))
        return self._other[1]

    def _regions(self, ids: Ids, name: str) -> Bools | None:
        data = self.subject.data
        found = data.region(ids, name) if supports(data, HasRegions) else None
        region = None if found is None else torch.from_numpy(found)
        return counterfactuals.region_pixels(region, self.metric.largest_region)

    def _has_variety(self, name: str) -> bool:
        data = self.subject.data
        return supports(data, HasVariety) and name in data.schema and bool(data.variety_names(name))

    def _compare_removal(self, batch: Decoded, do: Do, region: Bools) -> None:
        """Compare edited images with renderings without the attribute, for images that have a binary attribute."""
        name, chunk, subject = do.characteristic, batch.chunk, self.subject
        rows: Bools = (subject.classes(name)[chunk.rows] == 1).numpy() & region.any(1)
        binary = subject.schema[name].kind == "binary"
        if chunk.rows.start >= self.metric.rendered or not (binary and rows.any()):
            return
        if not supports(subject.data, HasCounterfactuals) or name not in subject.data.schema:
            return
        truth = counterfactuals.render_without(subject, name, chunk, rows)
        rebuilt = counterfactuals.reconstruct(subject, name, chunk, rows, truth, 0)
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
        has_prior = supports(subject.model, HasConditionalPrior) and subject.schema[name].kind != "continuous"
        if not (can_resample and has_prior) or chunk.rows.start >= self.metric.rendered:
            return
        classes = draws[0].classes(subject, chunk)
        rows: Bools = ((classes >= 0) & (subject.current_class(name)[chunk.rows] != classes)).numpy() & region.any(1)
        if not rows.any():
            return
        assert supports(subject.data, HasRedraws)
        value = classes.numpy()[rows].astype(np.float32)
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

    def _judge_assignment(self, batch: Decoded) -> None:
        """Judged effect of the assignment."""
        assert self.assigned is not None
        before, after = batch.judged(None), batch.judged(self.assigned)
        found = judged_change(before, after, "assigned")
        for name, value in self.assigned.assignment:
            if name in after:
                wanted = torch.full((len(batch.chunk),), value)
                found[f"obeyed/{name}"] = classified_as(after[name], wanted).astype(np.float64)
                found[f"obeyed before/{name}"] = classified_as(before[name], wanted).astype(np.float64)
        self.columns.put(NO_CHARACTERISTIC, batch.chunk.rows, found)
        self._keep("assigned", batch, [batch.images[self.assigned]])

    def _keep(self, name: str, batch: Decoded, images: Sequence[Images]) -> None:
        wanted = PICTURED - batch.chunk.rows.start
        r = batch.reconstruction
        if wanted > 0 and r is not None:
            self.pictures.keep(name, torch.stack([as_bytes(x[:wanted]) for x in (batch.chunk.images, r, *images)]))

    def compute(self, weights: ResampleWeights) -> Measurement:
        table = ResultTable(self.metric, self.subject, weights)
        rows = InterventionRows(table, self.columns, self.reliability)
        notes = self.reliability.notes()
        for name, edit in self.edits.items():
            no_region = "" if self._regions(self.subject.ids[:1], name) is not None else "has no region"
            rows.add_judged(name, edit.no_do)
            rows.add_swaps(name, edit.no_swap, no_region)
            rows.add_ground_truth(name, edit.no_do, no_region)
            clipped = float(np.nan_to_num(self.columns.get(name, "clipped")).mean())
            if clipped > CLIPPED_WARNING:
                outside = "of the codes lie outside the quantiles 0.005 to 0.995 of their class"
                notes.append(f"{name}: {clipped:.0%} {outside}")
        if self.metric.axiom_images:
            rows.add_axioms({name: edit.no_do for name, edit in self.edits.items()}, self.metric.repeats)
        if self.assigned is not None:
            assignment = self.assigned.assignment
            rows.add_assignment(assignment_text(assignment, self.subject), [name for name, _ in assignment])
        return table.measurement(notes, self.pictures.arrays())


def _column(values: Floats, rows: Bools) -> Floats:
    """A column with the values at the given rows, NaN elsewhere."""
    column = np.full(len(rows), np.nan)
    column[rows] = values
    return column
