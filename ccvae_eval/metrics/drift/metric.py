"""The metric ``drift`` (docs/metrics.md, section 3), and matchers created from text such as ``sift,ratio=0.8``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ccvae_eval.core.errors import PluginError, UndefinedError, UsageError, suggestion
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.results import Measurement
from ccvae_eval.core.types import Images
from ccvae_eval.evaluation.accumulator import ImageAccumulator
from ccvae_eval.evaluation.interventions import (
    CLIPPED_WARNING,
    Do,
    Intervention,
    Redraw,
    Traverse,
    chunk_without_images,
    why_not,
)
from ccvae_eval.evaluation.metric import Decoded, Needs
from ccvae_eval.evaluation.pictures import PICTURED, as_bytes
from ccvae_eval.evaluation.result_table import NO_CHARACTERISTIC, REGIONLESS, ResultTable
from ccvae_eval.evaluation.subject import Subject, once_per_subject
from ccvae_eval.metrics.drift.rows import DriftRows, dose_pair
from ccvae_eval.metrics.drift.settings import Drift
from ccvae_eval.metrics.matchers.interface import Matcher, Matches, grey, unit
from ccvae_eval.metrics.shared.image_change import Moments, absolute_change, dissimilarity, moments
from ccvae_eval.metrics.shared.region_masks import masks_of, point_sums
from ccvae_eval.model.fixed_batches import Chunk
from ccvae_eval.model.interface import Intervenes, Proxy, supports
from ccvae_eval.plugins.attribution import CREATION, is_builtin, plugin_call
from ccvae_eval.plugins.registry import matchers
from ccvae_eval.statistics.resampling import ResampleWeights

ON_FIRST_IMAGES = ("table", "reconstruction", "another")
"""Numbers of the first ``table_images`` images: matches with the input, and with another image."""

_SETTING = re.compile(r",(?=[A-Za-z_][A-Za-z0-9_]*=)")
"""A comma that separates two settings; any other comma belongs to a value."""


class GuardedMatcher(Proxy[Matcher]):
    """A third-party matcher whose exceptions become a :class:`PluginError` that names it."""

    def features(self, images: Images) -> Any:
        with plugin_call(self.inner, "matcher", f"features(images), images of shape {tuple(images.shape)}"):
            return self.inner.features(images)

    def match(self, first: Any, second: Any) -> Matches:
        with plugin_call(self.inner, "matcher", "match(first, second)"):
            return self.inner.match(first, second)


def matcher_named(text: str) -> Matcher:
    """Create a registered matcher from ``NAME[,KEY=VALUE]...``.

    Raises:
        UsageError: if the name or a setting is unknown, or if a value has the wrong type.
        PluginError: if the plugin is not a dataclass or cannot be created.

    >>> matcher_named("sift,ratio=0.8").ratio
    0.8
    """
    name, *parts = _SETTING.split(text)
    kind: Any = matchers[name]
    if not is_dataclass(kind):
        why, hint = "a matcher must be a dataclass of settings", "`ccvae-eval new matcher NAME` writes a template."
        raise PluginError(f"{name!r} is not a matcher", where=matchers.find(name).distribution, why=why, hint=hint)
    known = {field.name: field.type for field in fields(kind)}
    settings: dict[str, Any] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key not in known:
            raise UsageError(f"{name} has no setting {key!r}", where=text, hint=suggestion(key, known))
        settings[key] = value if known[key] in (str, "str") else _number(value, key, text)
    with plugin_call(matchers.find(name), "matcher", CREATION):
        matcher: Matcher = matchers[name](**settings)
    return matcher if is_builtin(matcher) else cast("Matcher", GuardedMatcher(matcher))


def _number(value: str, key: str, where: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        raise UsageError(f"{key} must be a number, got {value!r}", where=where) from None


def needs(metric: Drift, subject: Subject) -> Needs:
    edits, _ = _edits(subject, metric)
    wanted: list[Intervention] = [i for edit in edits for i in edit.interventions]
    wanted += [edit.floor_all for edit in edits if edit.floor_all is not None]
    return Needs(tuple(wanted), reconstruction=True, regions=True)


@dataclass(frozen=True, slots=True)
class DriftEdit:
    """The interventions decoded for one characteristic.

    Args:
        do: the change of the characteristic.
        floor: redraws z_c from the posterior; None if the posterior has no variance there.
        floor_all: redraws the whole code; set for the first characteristic only.
        doses: the change at each fraction of the path; empty if there is no path.
        no_doses: reason why there is no path.
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


@once_per_subject
def _edits(subject: Subject, metric: Drift) -> tuple[list[DriftEdit], dict[str, str]]:
    """Return the possible edits, and the reason for each characteristic without one."""
    edits: list[DriftEdit] = []
    reasons: dict[str, str] = {}
    scale, intervenes = subject.posterior.scale, supports(subject.model, Intervenes)
    for name in subject.movable:
        do = Do(name, source=metric.source)
        if why := why_not(do, subject):
            reasons[name] = why
            continue
        moved = range(subject.layout.dim) if intervenes else subject.layout[name]
        floor = Redraw(name, every=intervenes) if bool(scale[:, list(moved)].any()) else None
        floor_all = Redraw(name, every=True) if not edits and bool(scale.any()) else None
        doses = {dose: Traverse(name, dose, metric.source) for dose in metric.doses}
        no_doses = ""
        if intervenes and name not in subject.layout.characteristics:
            doses, no_doses = {}, "the label has no latent dimensions to traverse"
        try:
            for traverse in doses.values():
                traverse.codes(subject, chunk_without_images(subject))
        except UndefinedError as error:
            doses, no_doses = {}, error.what
        edits.append(DriftEdit(do, floor, floor_all, doses, no_doses))
    return edits, reasons


@dataclass
class ChunkReference:
    """The reconstructions of one chunk and what is computed once for all comparisons with them.

    Args:
        chunk: the images.
        reconstruction: r.
        points: matcher features of r.
        inputs: matcher features of the input x; None if all images are beyond ``table_images``.
        moments: of r, for SSIM.
        membership: of r's points in the region masks of each characteristic, shape (n, K, 3).
        floor_all: matches of r with the decoding whose whole code is redrawn.
        numbers: what was counted so far, by characteristic, pair of images and key.
    """

    chunk: Chunk
    reconstruction: Images
    points: Any
    inputs: Any
    moments: Moments
    membership: dict[str, Tensor] = field(default_factory=dict)
    floor_all: Matches | None = None
    numbers: dict[tuple[str, str, str], Tensor] = field(default_factory=dict)


class DriftAccumulator(ImageAccumulator[Drift]):
    """Sums over the points and pixels of each image, by characteristic and by pair of images and key."""

    def __init__(self, metric: Drift, subject: Subject) -> None:
        super().__init__(metric, subject)
        self.edits, self.reasons = _edits(subject, metric)
        self.matcher: Matcher = matcher_named(metric.matcher)
        self._base: ChunkReference | None = None

    @torch.inference_mode()  # saves the gradient bookkeeping of thousands of small operations
    def update(self, batch: Decoded) -> None:
        edit = next(edit for edit in self.edits if edit.do.characteristic == batch.characteristic)
        base, name = self._base_of(batch), batch.characteristic
        # decoders may return channels_last images; everything below works channel by channel
        after = batch.images[edit.do].contiguous()
        guard = math.ceil(self.matcher.guard * unit(*after.shape[2:]))
        masks = masks_of(batch.region, guard, after, self.metric.largest_region)
        features = self.matcher.features(after)
        found = self.matcher.match(base.points, features)
        base.membership[name] = masks.membership(found)
        l1 = masks.pixel_sums(self._change(base, after))
        ssim = masks.pixel_sums(dissimilarity(base.moments, self._moments(after)))
        sums = {"size": masks.sizes(), "l1": l1, "ssim": ssim}
        self._put(base, name, "do", sums | self._point_sums(base, name, found))
        if base.inputs is not None:
            self._put(base, name, "table", self._table(self.matcher.match(base.inputs, features)))
        others: dict[str, Intervention] = {dose_pair(dose): traverse for dose, traverse in edit.doses.items()}
        if edit.floor is not None:
            others["floor_c"] = edit.floor
        for pair, other in others.items():
            image = batch.images[other].contiguous()
            moved = self.matcher.match(base.points, self.matcher.features(image))
            l1 = masks.pixel_sums(self._change(base, image))
            self._put(base, name, pair, {"l1": l1, **self._point_sums(base, name, moved)})
        if edit.floor_all is not None:
            base.floor_all = self.matcher.match(base.points, self.matcher.features(batch.images[edit.floor_all]))
        self._keep_pictures(base, name, after, found)
        if len(base.membership) == len(self.edits):
            self._close(base)

    def _base_of(self, batch: Decoded) -> ChunkReference:
        if self._base is None:
            assert batch.reconstruction is not None, "requested in needs()"
            r = batch.reconstruction.contiguous()
            points, inputs = self.matcher.features(r), None
            if batch.chunk.within(self.metric.table_images) is not None:
                inputs = self.matcher.features(batch.chunk.images)
            self._base = ChunkReference(batch.chunk, r, points, inputs, self._moments(r))
            if inputs is not None:
                found = self._table(self.matcher.match(inputs, points))
                self._put(self._base, NO_CHARACTERISTIC, "reconstruction", found)
        return self._base

    def _close(self, base: ChunkReference) -> None:
        """Finish a chunk: add the sums of matches that are shared by all characteristics."""
        self._base = None
        pairs = {} if base.floor_all is None else {"floor_all": base.floor_all}
        size = len(base.chunk)
        if size > 1 and base.inputs is not None:
            # pair each image with another one of its chunk, by a seeded rotation
            turn = numpy_stream(self.subject.seed, "drift/another", int(base.chunk.ids[0])).integers(1, size)
            other = base.reconstruction.roll(int(turn), 0)
            features = self.matcher.features(other)
            pairs["another"] = self.matcher.match(base.points, features)
            table = self._table(self.matcher.match(base.inputs, features))
            ssim = dissimilarity(base.moments, self._moments(other)).flatten(1).mean(1)
            l1 = self._change(base, other).flatten(1).mean(1)
            self._put(base, NO_CHARACTERISTIC, "another", {"ssim": ssim, "l1": l1, **table})
        for name in base.membership:
            for pair, found in pairs.items():
                self._put(base, name, pair, self._point_sums(base, name, found))
        # brought to the CPU together, because each transfer waits for the device
        joined = torch.cat([number.double().reshape(size, -1) for number in base.numbers.values()], 1).cpu().numpy()
        first = 0
        for (name, pair, key), number in base.numbers.items():
            columns = joined[:, first : first + number.numel() // size].reshape(number.shape)
            images = base.chunk.within(self.metric.table_images) if pair in ON_FIRST_IMAGES else base.chunk
            if images is not None:
                self.columns.put(name, images.rows, {f"{pair}/{key}": columns[: len(images)]})
            first += number.numel() // size

    def _moments(self, images: Images) -> Moments:
        return moments(grey(images), self.metric.window)

    def _change(self, base: ChunkReference, after: Images) -> Tensor:
        return absolute_change(base.reconstruction, after).reshape(len(after), *after.shape[2:])

    def _point_sums(self, base: ChunkReference, name: str, found: Matches) -> dict[str, Tensor]:
        return point_sums(found, base.membership[name], self.matcher.search)

    def _table(self, found: Matches) -> dict[str, Tensor]:
        """Return the keypoints, matches, confidences and correct matches of each image."""
        correct = found.matched & (found.displacement <= self.matcher.search)
        counted = {
            "keypoints": found.valid, "matches": found.matched, "confidence": found.confidence, "correct": correct,
        }  # fmt: skip
        return {key: points.sum(1) for key, points in counted.items()}

    def _put(self, base: ChunkReference, name: str, pair: str, numbers: Mapping[str, Tensor]) -> None:
        base.numbers.update({(name, pair, key): number for key, number in numbers.items()})

    def _keep_pictures(self, base: ChunkReference, name: str, after: Images, found: Matches) -> None:
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
        table = ResultTable(self.metric, self.subject, weights)
        # matches of a bounded matcher are correct by construction
        names = [name for name in self.metric.values if name != "correct_matches" or not self.matcher.bounded]
        notes = self._clipped()
        for name, why in self.reasons.items():
            table.undefined(name, why, names)
        for edit in self.edits:
            name = edit.do.characteristic
            applies = (self.subject.target_class(name) >= 0).numpy()
            regionless = "" if self.region(self.subject.ids[:1], name) is not None else REGIONLESS
            rows = DriftRows(table, name, applies, self.columns, regionless)
            rows.add_whole()
            rows.add_matches("correct_matches" in names)
            notes += rows.add_regional(self.metric.fewest_keypoints)
            for dose in self.metric.doses:
                rows.add_dose(dose, edit.no_doses, self.metric.fewest_keypoints)
        return table.measurement(notes, self.pictures.arrays())

    def _clipped(self) -> list[str]:
        """Return notes about the share of ranks that transport clipped."""
        if supports(self.subject.model, Intervenes):
            return ["do() is the model's own intervention: it may change the whole code, and no ranks are clipped"]
        every = chunk_without_images(self.subject)
        clipped = {edit.do.characteristic: edit.do.applied(self.subject, every)[1] for edit in self.edits}
        shares = {name: float(ranks.double().mean()) for name, ranks in clipped.items()}
        if not shares:
            return []
        notes = ["ranks clipped by transport: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items())]
        many = [name for name, share in shares.items() if share > CLIPPED_WARNING]
        if many:
            notes.append(f"warning: more than {CLIPPED_WARNING:.0%} of the ranks were clipped for {', '.join(many)}")
        return notes
