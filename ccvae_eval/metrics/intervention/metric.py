"""Intervention: is a change seen as what it should be, does the rest stay, and does it lead back?

The edits of each characteristic: what is set, what is swapped, and why where it is not.
"""

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
from ccvae_eval.evaluation.judge_scores import ANOTHER, JudgeReliability, judged_change, seen_as
from ccvae_eval.evaluation.metric import LAWS, Decoded, Needs
from ccvae_eval.evaluation.pictures import PICTURED, MeanPictures, as_bytes
from ccvae_eval.evaluation.result_table import ResultTable
from ccvae_eval.evaluation.subject import Chunk, Subject
from ccvae_eval.metrics.intervention.counterfactuals import (
    composition,
    distance,
    energy_distance,
    inside_of,
    reconstructed,
    reversibility,
    with_donors_look,
    without,
)
from ccvae_eval.metrics.matchers.interface import grey
from ccvae_eval.metrics.shared.judged_changes import (
    NO_ASSIGNMENT,
    Assignment,
    InterventionRows,
    JudgedChanges,
    assignment_of,
    text_of,
)
from ccvae_eval.metrics.shared.region_masks import OUTSIDE, zones_of
from ccvae_eval.metrics.shared.ssim import dissimilarity, moments
from ccvae_eval.model.interface import HasConditionalPrior
from ccvae_eval.statistics.resampling import ResampleWeights


@dataclass(frozen=True, slots=True)
class Edit:
    """What is decoded for one characteristic.

    Args:
        characteristic: whose columns.
        do, swap: the interventions; None where they do not exist.
        no_do, no_swap: why not.
    """

    characteristic: str
    do: Do | None
    swap: Swap | None
    no_do: str = ""
    no_swap: str = ""

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        return tuple(i for i in (self.do, self.swap) if i is not None)


def edits_of(subject: Subject, mode: Mode, source: CodeSource) -> list[Edit]:
    """The edit of each characteristic that has any, and of the others the reasons."""
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
        no_swap = "" if bool((donor_rows(subject, name) >= 0).any()) else "no image of another class"
        edits.append(Edit(name, None if no_do else do, None if no_swap else Swap(name), no_do, no_swap))
    return edits


WINDOW = 7
"""Of SSIM, as in drift."""

UNCHANGED = "nothing is changed"
"""The null of what compares an edit with the truth: the reconstruction in its place."""

CLIPPED_WARNING = 0.1
"""The share of clipped ranks beyond which a reader is warned."""


@dataclass(frozen=True, slots=True)
class Interventions:
    r"""What an intervention on a label does to the image: what a judge sees, and how it compares with the truth.

    Each image is decoded after do(c = v), v a class unlike its own (``mode``: transport keeps its rank within the
    class). With the judge: ``effect`` = share of images in which it sees v; ``kept`` = share in which it sees for
    another label what it saw in the reconstruction r, a row for each label at ``judged=`` and their mean; ``change``
    = mean total variation of its opinion of each label: the matrix of judged changes.

    Swap: the columns of c from a random image of another class. ``transfer`` = share seen as the donor's class, less
    the same share for r; ``identity`` = 1 - SSIM of r and the swapped image outside both images' regions, a window
    away from them.
    ``fidelity`` (data that know their variety) = d(swapped, recipient with the donor's own variety) - d(r, x) inside
    the region, d being the mean absolute difference of pixels.

    Formula: through the image, f(x, c, v) = decode(do(c = v) on encode(x)), always from posterior means:
    ``composition`` = d(f^m(x, c, now), x), the same for every c; ``reversibility`` = d after m times there and back;
    m in ``repeats``, on the first ``axiom_images`` images. With a renderer, on the first ``rendered`` images, x* being
    x without the attribute: ``error`` = d(f(x), x*) - d(decode(encode(x*)), x*) from present to absent, at
    ``where=inside`` and ``where=outside`` of the region. From absent to present one look is not the only right one:
    ``energy`` = energy distance between ``draws`` draws from p(z_c|y) and as many true re-draws, inside the region.

    ``assign="Male=1,Heavy_Makeup=0"`` sets several labels at once: ``obeyed`` = share of images in which the judge
    sees the class of each of them and of all together, ``kept`` beside, at ``do=``.

    Range: 0 to 1; -1 to 1 for transfer, fidelity and error, 0 to 2 for identity; energy has no bounds.
    Direction: higher is better for effect, kept, transfer and obeyed; lower for identity, fidelity, composition,
    reversibility, error and energy.
    Chance: for effect and obeyed, how often the judge sees v in r; 0 for transfer; for fidelity, no change at all; for
    composition and reversibility, another image.
    Cost: 2 images decoded for each image and characteristic (do and swap), the reconstruction, ``draws`` more where
    the data can re-draw, one for an assignment; for the axioms max(repeats) + 2 max(repeats) for each characteristic,
    each encoded too, on a few images.
    Pitfalls: what the judge sees is an opinion: labels that it does not recognise in this model's reconstructions are
    left out. Errors are differences to the model's own reconstruction error and may be negative. do() by transport
    needs 20 images of each class.
    Reference: docs/metrics.md, section 6; Monteiro et al. 2023 (axioms); Szekely and Rizzo 2013 (energy distance).

    Args:
        mode: how do(c = v) moves a code: transport (rank within the class), mean (of the class), sample (from
            p(z_c|y)).
        source: classes as fitted to the codes of other images, or as p(z_c|y) has them.
        assign: labels to be set together, as LABEL=CLASS,LABEL=CLASS.
        repeats: how many times the axioms go round.
        axiom_images: on how many images, from the first.
        draws: draws behind the energy distance.
        rendered: on how many images, from the first, the data's own counterfactuals are drawn.
        largest_region: the largest share of the image that a region may cover.
    """

    name: ClassVar[str] = "intervention"
    version: ClassVar[int] = 3
    headline: ClassVar[str] = "effect"
    default_sample: ClassVar[int] = 2000
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label"}
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "effect": ValueSpec(
            "share of images in which the judge sees the class that was set", "share", True, (0.0, 1.0),
            "the reconstruction", True, ("idle",),
        ),
        "kept": ValueSpec(
            "share in which the judge sees another label as before", "share", True, (0.0, 1.0), ANOTHER, True, ("leak",)
        ),
        "change": ValueSpec(
            "how much the judge's opinion of a label changes", "", None, (0.0, 1.0), UNCHANGED, True
        ),
        "transfer": ValueSpec(
            "share seen as the donor's class after a swap, beyond the reconstruction", "share", True, (-1.0, 1.0),
            "nothing is swapped", True, ("idle",),
        ),
        "identity": ValueSpec(
            "1-SSIM outside both regions after a swap", "", False, (0.0, 2.0), ANOTHER,
            dials=("warp",),
        ),
        "fidelity": ValueSpec(
            "distance to the recipient with the donor's look, beyond the reconstruction's error", "intensity", False,
            (-1.0, 1.0), "nothing is swapped", dials=("idle",),
        ),
        "composition": ValueSpec(
            "distance after changing nothing, through the image", "intensity", False, (0.0, 1.0), "another image",
            dials=("fade",),
        ),
        "reversibility": ValueSpec(
            "distance after there and back, through the image", "intensity", False, (0.0, 1.0), "another image",
            dials=("fade",),
        ),
        "error": ValueSpec(
            "distance to the image without the attribute, beyond that image's reconstruction error", "intensity",
            False, (-1.0, 1.0), UNCHANGED, dials=("leak", "idle"),
        ),
        "energy": ValueSpec(
            "energy distance of drawn looks to the data's own re-draws", "intensity", False, (None, None), UNCHANGED,
            dials=("collapse",),
        ),
        "obeyed": ValueSpec(
            "share of images in which the judge sees what was assigned", "share", True, (0.0, 1.0),
            "the reconstruction", True, ("idle",),
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
            raise UsageError(f"{self.repeats} are no numbers of repeats", where="intervention.repeats")
        for name, least in (("axiom_images", 0), ("draws", 2), ("rendered", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{getattr(self, name)} is less than {least}", where=f"intervention.{name}")

    def needs(self, subject: Subject) -> Needs:
        """The interventions that exist.

        Raises:
            UndefinedError: if no label has columns of its own.
        """
        if not subject.characteristics:
            raise UndefinedError("no label has columns of its own")
        wanted: list[Intervention] = []
        for edit in edits_of(subject, self.mode, self.source):
            wanted += edit.interventions
        if self.assign:
            wanted.append(self.assigned(subject))
        own = 0 if not len(subject) else -(-self._own_decodings(subject) // len(subject))
        return Needs(tuple(wanted), reconstruction=True, judge=True, regions=True, own=own)

    def _own_decodings(self, subject: Subject) -> int:
        """Images decoded for the axioms and beside the data's own drawings, in all."""
        each = len(edits_of(subject, self.mode, self.source))
        axioms = min(self.axiom_images, len(subject)) * max(self.repeats) * (1 + 2 * each)
        drawn = (
            min(self.rendered, len(subject)) * each * (1 + self.draws) if isinstance(subject.data, HasVariety) else 0
        )
        return axioms + drawn

    def assigned(self, subject: Subject) -> Assign:
        """The assignment as an intervention."""
        return Assign(assignment_of(self.assign, subject), self.mode, self.source)

    def start(self, subject: Subject) -> InterventionAccumulator:
        return InterventionAccumulator(self, subject)


class InterventionAccumulator:
    """The accumulator: for each characteristic one row of numbers per image, NaN where they do not apply."""

    def __init__(self, metric: Interventions, subject: Subject) -> None:
        self.metric, self.subject = metric, subject
        self.edits = {edit.characteristic: edit for edit in edits_of(subject, metric.mode, metric.source)}
        self.assigned = metric.assigned(subject) if metric.assign else None
        self.seen = JudgedChanges(len(subject))
        self.agreement = JudgeReliability(subject)
        self.pictures = MeanPictures()
        self._other: tuple[int, Tensor] | None = None

    def update(self, batch: Decoded) -> None:
        self.agreement.update(batch)
        start, rows = batch.chunk.rows.start, batch.chunk.rows
        if not batch.characteristic:
            self._see_assignment(batch)
            return
        edit = self.edits[batch.characteristic]
        if start < self.metric.axiom_images:
            self._go_round(edit, batch)
        region = inside_of(batch.region, self.metric.largest_region)
        if edit.do is not None:
            self.seen.put(edit.characteristic, rows, self._changed(edit, batch, edit.do))
            if region is not None:
                self._compare_absent(batch, edit.do, region)
        if region is not None:
            self._compare_draws(batch, region)
        if edit.swap is not None:
            self.seen.put(edit.characteristic, rows, self._swapped(batch, edit.swap, region))
        self._keep_pictures(batch, edit)

    def _changed(self, edit: Edit, batch: Decoded, do: Do) -> dict[str, Floats]:
        """What the judge says of do(c = v)."""
        name, chunk = edit.characteristic, batch.chunk
        then = self.subject.target_class(name)[chunk.rows]
        clipped = do.applied(self.subject, chunk)[1]
        found = {"do/applies": (then >= 0).double().numpy(), "clipped": clipped.double().numpy()}
        before, after = batch.judged(None), batch.judged(do)
        found |= judged_change(before, after, "do")
        if name in after:
            found["effect"] = seen_as(after[name], then).astype(np.float64)
            found["effect before"] = seen_as(before[name], then).astype(np.float64)
        return found

    def _swapped(self, batch: Decoded, swap: Swap, region: Bools | None) -> dict[str, Floats]:
        """What a swap does: its class to the judge, what stays outside, and its look to the renderer."""
        name, chunk = swap.characteristic, batch.chunk
        donors = donor_rows(self.subject, name)[chunk.rows]
        given = torch.where(donors >= 0, self.subject.current_class(name)[donors.clamp_min(0)], -1)
        found = {"swap/applies": (donors >= 0).double().numpy()}
        before, after = batch.judged(None), batch.judged(swap)
        if name in after:
            found["transfer"] = seen_as(after[name], given).astype(np.float64) - seen_as(before[name], given)
        theirs = self._regions(self.subject.ids[donors.clamp_min(0).numpy()], name)
        if region is None or theirs is None:
            return found
        r, image = batch.reconstruction, batch.images[swap]
        assert r is not None, "asked for in needs()"
        usable: Bools = np.asarray(region.any(1) & theirs.any(1))
        both = torch.from_numpy(np.logical_or(region, theirs) & usable[:, None]).reshape(len(r), *r.shape[2:])
        zones = zones_of(both, WINDOW // 2, r)
        ssim = dissimilarity(moments(grey(r), WINDOW), moments(grey(image), WINDOW))
        size = zones.sizes()[:, OUTSIDE].double().cpu().numpy()
        apart = zones.pixel_sums(ssim)[:, OUTSIDE].double().cpu().numpy()
        found["identity"] = np.where(size > 0, apart / np.maximum(size, 1), np.nan)
        if (other := self._other_image(chunk, r)) is not None:
            apart = zones.pixel_sums(other)[:, OUTSIDE].double().cpu().numpy()
            found["identity before"] = np.where(size > 0, apart / np.maximum(size, 1), np.nan)
        rows = (donors >= 0).numpy() & region.any(1)
        if chunk.rows.start < self.metric.rendered and rows.any() and self._has_variety(name):
            truth = with_donors_look(self.subject, name, chunk, rows)
            own = distance(r[rows], chunk.images[rows], region[rows])
            for key, shown in (("fidelity", image), ("fidelity before", r)):
                found[key] = _spread(distance(shown[rows], truth, region[rows]) - own, rows)
        return found

    def _other_image(self, chunk: Chunk, r: Images) -> Tensor | None:
        """1 - SSIM of each reconstruction and another one of its chunk, shape (n, H, W); on the first images only."""
        if len(chunk) < 2 or chunk.rows.start >= self.metric.rendered:
            return None
        if self._other is None or self._other[0] != chunk.rows.start:
            own = moments(grey(r), WINDOW)
            self._other = chunk.rows.start, dissimilarity(own, moments(grey(r.roll(1, 0)), WINDOW))
        return self._other[1]

    def _regions(self, ids: Ids, name: str) -> Bools | None:
        data = self.subject.data
        found = data.region(ids, name) if isinstance(data, HasRegions) else None
        return None if found is None else inside_of(torch.from_numpy(found), self.metric.largest_region)

    def _has_variety(self, name: str) -> bool:
        data = self.subject.data
        return isinstance(data, HasVariety) and name in data.schema and bool(data.variety_names(name))

    def _compare_absent(self, batch: Decoded, do: Do, region: Bools) -> None:
        """The images that have a binary attribute, edited, beside themselves drawn without it."""
        name, chunk, subject = do.characteristic, batch.chunk, self.subject
        rows: Bools = (subject.classes(name)[chunk.rows] == 1).numpy() & region.any(1)
        binary = subject.schema[name].kind == "binary"
        if chunk.rows.start >= self.metric.rendered or not (binary and rows.any()):
            return
        if not isinstance(subject.data, HasCounterfactuals) or name not in subject.data.schema:
            return
        truth = without(subject, name, chunk, rows)
        rebuilt = reconstructed(subject, name, chunk, rows, truth, 0)
        edited, r = batch.images[do][rows], batch.reconstruction
        assert r is not None, "asked for in needs()"
        for place, where in (("inside", region[rows]), ("outside", ~region[rows])):
            own = distance(rebuilt, truth, where)
            for key, image in (("error", edited), ("error before", r[rows])):
                error = distance(image, truth, where) - own
                self.seen.put(name, chunk.rows, {f"{key}/{place}": _spread(error, rows)})

    def _compare_draws(self, batch: Decoded, region: Bools) -> None:
        """Draws of an attribute beside the data's own re-draws, on images without it."""
        name, chunk, subject = batch.characteristic, batch.chunk, self.subject
        draws = [PriorDraw(name, draw) for draw in range(self.metric.draws)]
        redraws = isinstance(subject.data, HasRedraws) and name in subject.data.schema
        drawable = isinstance(subject.model, HasConditionalPrior) and subject.schema[name].kind != "continuous"
        if not (redraws and drawable) or chunk.rows.start >= self.metric.rendered:
            return
        classes = draws[0].classes(subject, chunk)
        rows: Bools = ((classes >= 0) & (subject.current_class(name)[chunk.rows] != classes)).numpy() & region.any(1)
        if not rows.any():
            return
        assert isinstance(subject.data, HasRedraws)
        value = classes.numpy()[rows].astype(np.float32)
        drawn = [subject.decode(draw.codes(subject, chunk))[rows] for draw in draws]
        true = [subject.data.redraw(chunk.ids[rows], name, value, d).to(subject.device) for d in range(len(draws))]
        assert batch.reconstruction is not None, "asked for in needs()"
        still = [batch.reconstruction[rows]] * 2  # the same look in every draw
        for key, looks in (("energy", drawn), ("energy before", still)):
            self.seen.put(name, chunk.rows, {key: _spread(energy_distance(looks, true, region[rows]), rows)})

    def _go_round(self, edit: Edit, batch: Decoded) -> None:
        """The axioms; composition once for each chunk, with another image of the chunk as its chance."""
        chunk, repeats = batch.chunk, self.metric.repeats
        if edit.characteristic == next(iter(self.edits)):
            again = composition(self.subject, chunk, repeats)
            self.seen.put(NO_ASSIGNMENT, chunk.rows, {f"composition/{m}": column for m, column in again.items()})
            if len(chunk) > 1:
                self.seen.put(NO_ASSIGNMENT, chunk.rows, {"another": distance(chunk.images, chunk.images.roll(1, 0))})
        if edit.do is not None:
            back = reversibility(self.subject, chunk, edit.do, repeats)
            self.seen.put(edit.characteristic, chunk.rows, {f"reversibility/{m}": d for m, d in back.items()})

    def _see_assignment(self, batch: Decoded) -> None:
        """What the judge says of the assignment."""
        assert self.assigned is not None
        before, after = batch.judged(None), batch.judged(self.assigned)
        found = judged_change(before, after, "assigned")
        for name, value in self.assigned.assignment:
            if name in after:
                wanted = torch.full((len(batch.chunk),), value)
                found[f"obeyed/{name}"] = seen_as(after[name], wanted).astype(np.float64)
                found[f"obeyed before/{name}"] = seen_as(before[name], wanted).astype(np.float64)
        self.seen.put(NO_ASSIGNMENT, batch.chunk.rows, found)
        self._keep("assigned", batch, [batch.images[self.assigned]])

    def _keep_pictures(self, batch: Decoded, edit: Edit) -> None:
        self._keep(f"edits/{edit.characteristic}", batch, [batch.images[i] for i in edit.interventions])

    def _keep(self, name: str, batch: Decoded, images: Sequence[Images]) -> None:
        wanted = PICTURED - batch.chunk.rows.start
        r = batch.reconstruction
        if wanted > 0 and r is not None:
            self.pictures.keep(name, torch.stack([as_bytes(x[:wanted]) for x in (batch.chunk.images, r, *images)]))

    def compute(self, weights: ResampleWeights) -> Measurement:
        tally = ResultTable(self.metric, self.subject, weights)
        rows = InterventionRows(tally, self.seen, self.agreement)
        notes = self.agreement.notes()
        for name, edit in self.edits.items():
            no_region = "" if self._regions(self.subject.ids[:1], name) is not None else "has no region"
            rows.judged(name, edit.no_do)
            rows.swaps(name, edit.no_swap, no_region)
            rows.truths(name, edit.no_do, no_region)
            clipped = float(np.nan_to_num(self.seen.get(name, "clipped")).mean())
            if clipped > CLIPPED_WARNING:
                notes.append(f"{name}: {clipped:.0%} of the codes lie beyond their class's ranks .005 to .995")
        if self.metric.axiom_images:
            rows.axioms(list(self.edits), {name: edit.no_do for name, edit in self.edits.items()}, self.metric.repeats)
        if self.assigned is not None:
            assignment: Assignment = self.assigned.assignment
            rows.assignment(text_of(assignment, self.subject), [name for name, _ in assignment])
        return tally.measurement(notes, self.pictures.arrays())


def _spread(values: Floats, rows: Bools) -> Floats:
    """The values of some rows at their places, NaN elsewhere."""
    column = np.full(len(rows), np.nan)
    column[rows] = values
    return column
