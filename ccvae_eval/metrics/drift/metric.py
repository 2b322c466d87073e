"""What should stay in its place and does not, when one characteristic is changed (docs/metrics.md, section 3).

From the words ``name[,key=value]...`` to a matcher with those settings.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.errors import CcvaeEvalError, PluginError, UndefinedError, UsageError, suggestion
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.results import Measurement, ValueSpec
from ccvae_eval.core.types import Floats, Images
from ccvae_eval.evaluation.interventions import CodeSource, Do, Intervention, Redraw, Traverse, unseen, why_not
from ccvae_eval.evaluation.metric import LAWS, Decoded, Needs
from ccvae_eval.evaluation.pictures import PICTURED, MeanPictures, as_bytes
from ccvae_eval.evaluation.result_table import ResultTable
from ccvae_eval.evaluation.subject import Chunk, Subject
from ccvae_eval.metrics.drift.rows import DriftRows, at_dose
from ccvae_eval.metrics.matchers.interface import Matcher, Matches, grey, unit
from ccvae_eval.metrics.shared.image_change import absolute_change
from ccvae_eval.metrics.shared.region_masks import point_sums, zones_of
from ccvae_eval.metrics.shared.ssim import Moments, dissimilarity, moments
from ccvae_eval.model.interface import Intervenes
from ccvae_eval.plugins.attribution import blamed, is_ours
from ccvae_eval.plugins.registry import matchers
from ccvae_eval.statistics.resampling import ResampleWeights

_SETTING = re.compile(r",(?=[A-Za-z_][A-Za-z0-9_]*=)")


class Watched:
    """A stranger's matcher: what fails in it names it."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self.name, self.bounded = matcher.name, matcher.bounded

    @property
    def search(self) -> float:
        return self._matcher.search

    @property
    def guard(self) -> float:
        return self._matcher.guard

    def features(self, images: Images) -> Any:
        with blamed(self._matcher, "matcher", f"features(images), images of shape {tuple(images.shape)}"):
            return self._matcher.features(images)

    def match(self, first: Any, second: Any) -> Matches:
        with blamed(self._matcher, "matcher", "match(first, second)"):
            return self._matcher.match(first, second)


def matcher_named(text: str) -> Matcher:
    """A registered matcher, with some of its settings changed; a comma belongs to a value unless ``key=`` follows it.

    Raises:
        UsageError: an unknown name or setting, or a value of another type.

    >>> matcher_named("sift,ratio=0.8").ratio
    0.8
    """
    name, *parts = _SETTING.split(text)
    kind: Any = matchers[name]
    if not is_dataclass(kind):
        raise PluginError(
            f"{name!r} is no matcher",
            where=matchers.find(name).distribution,
            why="it is no dataclass of settings",
            hint="`ccvae-eval new matcher NAME` writes one to start from.",
        )
    known = {field.name: field.type for field in fields(kind)}
    settings: dict[str, Any] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key not in known:
            raise UsageError(f"{name} has no setting {key!r}", where=text, hint=suggestion(key, known))
        settings[key] = value if known[key] in (str, "str") else _number(value, key, text)
    try:
        matcher: Matcher = matchers[name](**settings)
    except CcvaeEvalError:
        raise
    except Exception as error:
        where = f"{matchers.find(name).distribution} {matchers.find(name).version}".strip()
        why = f"{type(error).__name__}: {error}"
        hint = f"`ccvae-eval check {name} --kind matcher` tries the matcher alone."
        raise PluginError(f"matcher {name!r} cannot be made", where=where, why=why, hint=hint) from error
    return matcher if is_ours(matcher) else cast("Matcher", Watched(matcher))


def _number(value: str, key: str, where: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        raise UsageError(f"{key}={value} is no number", where=where) from None


LENGTHS = "64ths of the width"
BLIND = "the whole image changes alike"
ANOTHER = "another image"
YARDSTICK = "it is a yardstick itself: what the posterior's noise does"
COUNTED = "it counts what there is to look at, before anything is changed"
CLIPPED_WARNING = 0.1
"""The share of clipped ranks beyond which a reader is warned."""


@dataclass(frozen=True)
class Drift:
    r"""Whether what lies outside a characteristic's region stays where it is, when that characteristic is changed.

    Each image is decoded twice with the same sample in every other column: as it is (r), and with the characteristic
    turned over by transport (v = do(c)). Textured points of r are searched for in v. A point's loss is how far it
    moved, in 64ths of the image's width, or the search radius where it was not found again. A perfectly local model
    has no loss outside at all, so nothing is subtracted.

    Formula: spill = mean loss outside the region / mean loss inside, a ratio of sums over images. Outside means
    farther from the region than a patch and a search can reach (the guard band); inside means a point in the region:
    narrowing the region too would leave no point in most of them. An image counts if r and v differ more inside the
    region than r and a decoding with only c's columns drawn anew from q(z_c|x) (mean absolute difference: had the
    loss itself to exceed its floor, chance would choose large denominators).
    Range: 0 and up. Direction: lower is better. 0 = local, 1 = region-blind.
    Chance: 1, a change that knows no region; for losses and matches, another image's reconstruction in place of v.
    Cost: 2 images decoded for each characteristic, 2 more for all together, and one for each dose.
    Pitfalls: correspondence hardly sees a tint: read ``l1_spill`` beside it. Soft reconstructions have few textured
    points: with fewer than 8 outside in the median image the losses are undefined, and spill is the ratio of 1-SSIM.
    The numbers of matches depend on the matcher, and some edits add corners: they are the table of the earlier
    students' report, never a headline.
    Reference: Pilchen, Barbeteguy and Cahill, CCVAE feature matching (2023); Lewis, Fast normalized cross-correlation
    (1995); Wang et al., Image quality assessment (2004).

    Args:
        matcher: which one: grid, sift, kornia-sift, aliked, lightglue, or one that a plugin registers; with settings
            of its own as name,key=value (aliked,weights=FILE,sha256=DIGEST).
        doses: also measure at these fractions of the path from class to class (0, .25, .5, .75, 1); none by
            default, because each decodes the images once more.
        source: classes as fitted to the codes of other images, or as p(z_c|y) has them.
        fewest_keypoints: textured points outside that the median image must have.
        largest_region: a region that covers a larger share of the image is none.
        window: the side of the window of SSIM, in pixels.
        table_images: on how many images, from the first, the earlier students' table is counted (matches with the
            input, which has most of the points) and chance levels are measured.
    """

    name: ClassVar[str] = "drift"
    version: ClassVar[int] = 3
    headline: ClassVar[str] = "spill"
    default_sample: ClassVar[int] = 500
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label"}
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "spill": ValueSpec(
            "loss outside the region over loss inside: 0 local, 1 region-blind", "", False, (0.0, None), BLIND,
            dials=("warp",),
        ),
        "outside_excess": ValueSpec(
            "loss outside beyond that of the posterior's own noise in c", LENGTHS, False, (None, None), ANOTHER,
            dials=("warp",),
        ),
        "outside": ValueSpec(
            "mean loss of the points outside the region", LENGTHS, False, (0.0, None), ANOTHER,
            dials=("warp",),
        ),
        "inside": ValueSpec("mean loss of the points inside the region", LENGTHS, None, (0.0, None), ANOTHER),
        "loss": ValueSpec("mean loss of all points of the image", LENGTHS, None, (0.0, None), ANOTHER),
        "lost": ValueSpec(
            "share of the points outside that are not found again", "share", False, (0.0, 1.0), ANOTHER,
            dials=("warp",),
        ),
        "displacement": ValueSpec(
            "how far the points outside moved that are found again", LENGTHS, False, (0.0, None), ANOTHER
        ),
        "floor_c": ValueSpec(
            "loss outside when only c's columns are drawn anew", LENGTHS, None, (0.0, None), no_chance=YARDSTICK
        ),
        "floor_all": ValueSpec(
            "loss outside when every column is drawn anew", LENGTHS, None, (0.0, None), no_chance=YARDSTICK
        ),
        "changed": ValueSpec(
            "share of the images that change inside beyond their floor", "share", True, (0.0, 1.0),
            "the posterior's noise alone", dials=("idle",),
        ),
        "textured": ValueSpec(
            "textured points outside the band, for each image", "points", None, (0.0, None), no_chance=COUNTED
        ),
        "ssim_spill": ValueSpec("1-SSIM outside over inside", "", False, (0.0, None), BLIND, dials=("warp",)),
        "l1_spill": ValueSpec("absolute change outside over inside", "", False, (0.0, None), BLIND, dials=("warp",)),
        "ssim_change": ValueSpec("1-SSIM of the whole image", "", None, (0.0, 2.0), ANOTHER),
        "l1_change": ValueSpec("absolute change of the whole image", "intensity", None, (0.0, 1.0), ANOTHER),
        "matches": ValueSpec("points of the input found again", "points", None, (0.0, None), ANOTHER, dials=("fade",)),
        "matches_drop": ValueSpec(
            "matches lost by the intervention, paired", "points", None, (None, None), ANOTHER, dials=("fade",),
        ),
        "confidence": ValueSpec(
            "mean confidence of a match with the input", "", None, (0.0, 1.0), ANOTHER,
            dials=("fade",),
        ),
        "confidence_drop": ValueSpec(
            "confidence lost by the intervention, paired", "", None, (-1.0, 1.0), ANOTHER
        ),
        "correct_matches": ValueSpec(
            "matches with the input that lie where they should", "points", None, (0.0, None), ANOTHER
        ),
        "keypoints": ValueSpec("keypoints of the input", "points", None, (0.0, None), no_chance=COUNTED),
    }  # fmt: skip

    matcher: str = "grid"
    doses: tuple[float, ...] = ()
    source: CodeSource = "codes"
    fewest_keypoints: int = 8
    largest_region: float = 0.6
    window: int = 7
    table_images: int = 64

    def __post_init__(self) -> None:
        matcher_named(self.matcher)
        if any(not 0 <= dose <= 1 for dose in self.doses) or len(set(self.doses)) != len(self.doses):
            raise UsageError(f"{self.doses} are no fractions of a path", where="drift.doses")
        if self.window < 1 or self.window % 2 == 0:
            raise UsageError(f"a window of {self.window} pixels has no middle", where="drift.window")
        if not 0 < self.largest_region <= 1:
            raise UsageError(f"{self.largest_region} is no share of an image", where="drift.largest_region")

    def needs(self, subject: Subject) -> Needs:
        edits, _ = _edits(self, subject)
        wanted: list[Intervention] = [i for edit in edits for i in edit.interventions]
        if edits and edits[0].floor_all is not None:
            wanted.append(edits[0].floor_all)
        return Needs(tuple(wanted), reconstruction=True, regions=True)

    def start(self, subject: Subject) -> DriftAccumulator:
        return DriftAccumulator(self, subject)


@dataclass(frozen=True, slots=True)
class DriftEdit:
    """What is decoded for one characteristic.

    Args:
        do: the change.
        floor: the posterior's own noise in its columns; None for an encoder without noise there.
        floor_all: the same in every column, decoded along with the first characteristic only.
        doses: the change in parts; empty where the path does not exist.
        no_doses: why it does not.
    """

    do: Do
    floor: Redraw | None
    floor_all: Redraw | None
    doses: Mapping[float, Traverse]
    no_doses: str = ""

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        floor = () if self.floor is None else (self.floor,)
        return (self.do, *floor, *self.doses.values())


def _edits(metric: Drift, subject: Subject) -> tuple[list[DriftEdit], dict[str, str]]:
    """The changes that exist, and for each characteristic without one the reason."""
    edits: list[DriftEdit] = []
    reasons: dict[str, str] = {}
    scale, own = subject.posterior.scale, isinstance(subject.model, Intervenes)
    for name in subject.movable:
        do = Do(name, source=metric.source)
        if why := why_not(do, subject):
            reasons[name] = why
            continue
        moved = range(subject.layout.dim) if own else subject.layout[name]
        floor = Redraw(name, every=own) if bool(scale[:, list(moved)].any()) else None
        floor_all = Redraw(name, every=True) if not edits and bool(scale.any()) else None
        doses = {dose: Traverse(name, dose, metric.source) for dose in metric.doses}
        if own and name not in subject.layout.characteristics:
            edits.append(DriftEdit(do, floor, floor_all, {}, "no column of its own to move in parts"))
            continue
        try:
            for traverse in doses.values():
                traverse.codes(subject, unseen(subject))
            edits.append(DriftEdit(do, floor, floor_all, doses))
        except UndefinedError as error:
            edits.append(DriftEdit(do, floor, floor_all, {}, error.what))
    return edits, reasons


@dataclass
class Base:
    """What the changes of one chunk are compared with.

    Args:
        chunk: which images.
        reconstruction: r.
        points, inputs: features of r and of x, each as the first of a pair; None where no table is counted.
        moments: of r, for SSIM.
        zones: for each characteristic seen, the zones of r's points, shape (n, K, 3).
        floor_all: r against the decoding with every column drawn anew, when it has been seen.
    """

    chunk: Chunk
    reconstruction: Images
    points: Any
    inputs: Any
    moments: Moments
    zones: dict[str, Tensor] = field(default_factory=dict)
    floor_all: Matches | None = None


class DriftAccumulator:
    """The accumulator: sums over points and pixels of each image, for each characteristic and each pair of images.

    What belongs to no characteristic stands under "" (the table's matches of inputs with reconstructions).
    """

    def __init__(self, metric: Drift, subject: Subject) -> None:
        self.metric, self.subject = metric, subject
        self.edits, self.reasons = _edits(metric, subject)
        self.matcher: Matcher = matcher_named(metric.matcher)
        self.seen: dict[tuple[str, str], dict[str, Floats]] = {}
        self.regionless: dict[str, str] = {}
        self.pictures = MeanPictures()
        self._base: Base | None = None

    @torch.inference_mode()  # of thousands of small operations the bookkeeping for gradients is a twentieth
    def update(self, batch: Decoded) -> None:
        edit = next(edit for edit in self.edits if edit.do.characteristic == batch.characteristic)
        base, name = self._base_of(batch), batch.characteristic
        # with each channel by itself in memory, where decoders give pixel by pixel: everything below looks at channels
        after = batch.images[edit.do].contiguous()
        guard = math.ceil(self.matcher.guard * unit(*after.shape[2:]))
        zones = zones_of(batch.region, guard, after, self.metric.largest_region)
        if batch.region is None:
            self.regionless[name] = "has no region"
        features = self.matcher.features(after)
        found = self.matcher.match(base.points, features)
        base.zones[name] = zones.of_points(found)
        l1 = zones.pixel_sums(self._change(base, after))
        ssim = zones.pixel_sums(dissimilarity(base.moments, self._moments(after)))
        self._put(base, name, "do", {"size": zones.sizes(), "l1": l1, "ssim": ssim, **self._sums(base, name, found)})
        if base.inputs is not None:
            self._put(base, name, "table", self._table(self.matcher.match(base.inputs, features)))
        others: dict[str, Intervention] = {at_dose(dose): traverse for dose, traverse in edit.doses.items()}
        if edit.floor is not None:
            others["floor_c"] = edit.floor
        for pair, other in others.items():
            image = batch.images[other].contiguous()
            moved = self.matcher.match(base.points, self.matcher.features(image))
            l1 = zones.pixel_sums(self._change(base, image))
            self._put(base, name, pair, {"l1": l1, **self._sums(base, name, moved)})
        if edit.floor_all is not None:
            base.floor_all = self.matcher.match(base.points, self.matcher.features(batch.images[edit.floor_all]))
        self._keep_pictures(base, name, after, found)

    def _base_of(self, batch: Decoded) -> Base:
        if self._base is None or self._base.chunk.rows != batch.chunk.rows:
            self._close()
            assert batch.reconstruction is not None, "asked for in needs()"
            r = batch.reconstruction.contiguous()
            points, inputs = self.matcher.features(r), None
            if batch.chunk.rows.start < self.metric.table_images:
                inputs = self.matcher.features(batch.chunk.images)
            self._base = Base(batch.chunk, r, points, inputs, self._moments(r))
            if inputs is not None:
                self._put(self._base, "", "reconstruction", self._table(self.matcher.match(inputs, points)))
        return self._base

    def _close(self) -> None:
        """Ends a chunk: what was matched once is counted in the zones of every characteristic."""
        base, self._base = self._base, None
        if base is None:
            return
        pairs = {} if base.floor_all is None else {"floor_all": base.floor_all}
        size = len(base.chunk)
        if size > 1 and base.inputs is not None:
            # each image beside another one of its chunk: a turn by a number that belongs to the chunk
            turn = numpy_stream(self.subject.seed, "drift/another", int(base.chunk.ids[0])).integers(1, size)
            other = base.reconstruction.roll(int(turn), 0)
            features = self.matcher.features(other)
            pairs["another"] = self.matcher.match(base.points, features)
            table = self._table(self.matcher.match(base.inputs, features))
            ssim = dissimilarity(base.moments, self._moments(other)).flatten(1).mean(1)
            self._put(base, "", "another", {"ssim": ssim, "l1": self._change(base, other).flatten(1).mean(1), **table})
        for name in base.zones:
            for pair, found in pairs.items():
                self._put(base, name, pair, self._sums(base, name, found))

    def _moments(self, images: Images) -> Moments:
        return moments(grey(images), self.metric.window)

    def _change(self, base: Base, after: Images) -> Tensor:
        return absolute_change(base.reconstruction, after).reshape(len(after), *after.shape[2:])

    def _sums(self, base: Base, name: str, found: Matches) -> dict[str, Tensor]:
        return point_sums(found, base.zones[name], self.matcher.search)

    def _table(self, found: Matches) -> dict[str, Tensor]:
        """What the earlier students counted, for each image."""
        right = found.matched & (found.displacement <= self.matcher.search)
        return {
            "keypoints": found.valid.sum(1),
            "matches": found.matched.sum(1),
            "confidence": found.confidence.sum(1),
            "correct": right.sum(1),
        }

    def _put(self, base: Base, name: str, pair: str, numbers: Mapping[str, Tensor]) -> None:
        kept = self.seen.setdefault((name, pair), {})
        # all at once: on the way to NumPy each tensor takes as long as a sum over the points
        columns = torch.stack([number.cpu() for number in numbers.values()]).double().numpy()
        for key, column in zip(numbers, columns, strict=True):
            kept.setdefault(key, np.full((len(self.subject), *column.shape[1:]), np.nan))[base.chunk.rows] = column

    def _keep_pictures(self, base: Base, name: str, after: Images, found: Matches) -> None:
        wanted = PICTURED - base.chunk.rows.start
        if wanted <= 0:
            return
        self.pictures.keep("before", as_bytes(base.reconstruction[:wanted]))
        self.pictures.keep(f"after/{name}", as_bytes(after[:wanted]))
        scale = unit(*after.shape[2:])
        ends = torch.cat([found.points, found.points + found.shift], 2) * scale - 0.5
        rows = torch.cat([ends, found.confidence[..., None], found.matched[..., None].float()], 2)
        self.pictures.keep(f"keypoints/{name}", rows.masked_fill(~found.valid[..., None], math.nan)[:wanted].cpu())

    def compute(self, weights: ResampleWeights) -> Measurement:
        self._close()
        tally = ResultTable(self.metric, self.subject, weights)
        # a match that cannot lie elsewhere is correct by construction: no news
        names = [name for name in self.metric.values if name != "correct_matches" or not self.matcher.bounded]
        notes = self._clipped()
        for name, why in self.reasons.items():
            for value in names:
                tally.add(value, name, why)
        for edit in self.edits:
            name = edit.do.characteristic
            applies = (self.subject.target_class(name) >= 0).numpy()
            rows = DriftRows(tally, name, applies, self.seen, self.regionless.get(name, ""))
            rows.enter_whole()
            rows.enter_table("correct_matches" in names)
            notes += rows.enter_regional(self.metric.fewest_keypoints)
            for dose in self.metric.doses:
                rows.enter_dose(dose, edit.no_doses, self.metric.fewest_keypoints)
        return tally.measurement(notes, self.pictures.arrays())

    def _clipped(self) -> list[str]:
        """How many images' ranks transport had to clip."""
        if isinstance(self.subject.model, Intervenes):
            return ["do() is the model's own intervention: no rank is transported, and it may move every column"]
        every = unseen(self.subject)
        shares = {
            edit.do.characteristic: float(edit.do.applied(self.subject, every)[1].double().mean())
            for edit in self.edits
        }
        if not shares:
            return []
        notes = ["ranks clipped by transport: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items())]
        many = [name for name, share in shares.items() if share > CLIPPED_WARNING]
        if many:
            notes.append(f"warning: more than {CLIPPED_WARNING:.0%} of the ranks were clipped for {', '.join(many)}")
        return notes
