"""Saboteurs of pictures: the oracle's decoder with one fault that grows with a dose."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from ccvae_eval.calibration.code_faults import PerturbedModel, class_shares
from ccvae_eval.calibration.reference_images import ReferenceImages, Scene
from ccvae_eval.core.errors import UnsupportedError
from ccvae_eval.core.random_streams import numpy_stream, torch_stream, uniforms
from ccvae_eval.core.types import Codes, Floats, Gaussian, Ids, Images, Labels
from ccvae_eval.data.interface import HasRegions
from ccvae_eval.oracle.code import Classes

FARTHEST = 16.0
"""How far the warp moves on average at its end, in 64ths of the image's width: beyond any matcher's search."""
REMEMBERED = 2**16
"""Codes of pictures that were read: the last ones."""
KNOTS = 4
"""Points on a side between which the warp's field is smooth."""


class PerturbedDecoder(PerturbedModel):
    """The oracle with another brush. It can read again whatever it has painted.

    Args:
        originals: the images that it is bound to. A code whose style is none of theirs is painted without fault.
        dose: from 0 to 1.
        seed: of its draws, which belong to the image.
    """

    def __init__(self, originals: ReferenceImages, dose: float = 0.0, seed: int = 0) -> None:
        super().__init__(originals.oracle)
        self.originals, self.dose, self.seed = originals, dose, seed
        self._read: dict[bytes, None] = {}

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        found = self.inner.encode(images, labels)
        self._read.update(dict.fromkeys(_keys(found.loc)))
        while len(self._read) > REMEMBERED:
            del self._read[next(iter(self._read))]
        return found

    def scene(self, codes: Codes) -> Scene:
        """What the codes say. The code of a picture that was read is not an edit of the one with the same style:
        there is something that a fault of edits leaves alone, the reconstruction that an error is compared with."""
        scene = self.originals.scene(codes)
        shown = np.array([key in self._read for key in _keys(codes)], dtype=np.bool_)
        own = np.where(shown[:, None], scene.factors, scene.own_factors)
        return replace(
            scene, shown=shown, own_factors=own, own_classes=np.where(shown[:, None], scene.classes, scene.own_classes)
        )

    def decode(self, codes: Codes) -> Images:
        scene = self.scene(codes)
        images = self.paint(scene)
        self.originals.oracle.remember(images, scene.factors, scene.classes)
        # it can also read what it should have painted: that is the truth which edits are compared with, whatever the
        # dose (the warp replaces what lies inside even at none)
        meant = self.originals.draw(scene.factors, scene.classes)
        self.originals.oracle.remember(meant, scene.factors, scene.classes)
        return images.to(codes.device)

    @abstractmethod
    def paint(self, scene: Scene) -> Images:
        """The pictures, shape (N, C, H, W), on the CPU."""
        return self.originals.draw(scene.factors, scene.classes)

    def draws(self, purpose: str, scene: Scene, size: int) -> Floats:
        """Uniform numbers that belong to the images, shape (N, size)."""
        return uniforms(self.seed, purpose, self.originals.keys(scene), size)


def _keys(codes: Codes) -> list[bytes]:
    return [row.tobytes() for row in codes.detach().cpu().numpy()]


class Faultless(PerturbedDecoder):
    """The oracle itself, drawing each picture only once."""

    def paint(self, scene: Scene) -> Images:
        return super().paint(scene)


class Changing(PerturbedDecoder):
    """A fault of the *change* that an intervention makes, as a map of differences from a base.

    The base is what the change is made on: where a binary label was touched, the same face without it; where a
    categorical one was, the original. So along a path of the label the base stays the same, and whatever is done to
    the difference is done to all the change there is.
    """

    def paint(self, scene: Scene) -> Images:
        touched = self.originals.touched(scene)
        classes, own = scene.classes.copy(), scene.factors.copy()
        for block in self.originals.coding.blocks:
            rows, places = np.flatnonzero(touched[:, block.place]), np.array(block.factors)
            classes[rows, block.place] = 0 if block.label.kind == "binary" else scene.own_classes[rows, block.place]
            own[rows[:, None], places] = scene.own_factors[rows[:, None], places]
        after, base = super().paint(scene), self.originals.draw(own, classes)
        usual = self.originals.draw(own, np.where(touched & (classes == 0), 1, scene.classes))
        rows = np.flatnonzero(touched.any(1) & (scene.rows >= 0))
        if len(rows):
            keys = self.originals.keys(scene)[rows]
            spoilt = self.spoil(base[rows], after[rows] - base[rows], usual[rows] - base[rows], keys)
            after[rows] = base[rows] + spoilt
        return after

    @abstractmethod
    def spoil(self, base: Images, change: Images, usual: Images, ids: Ids) -> Images:
        """Another change, shape (N, C, H, W); base + change must stay in [0, 1].

        Args:
            base: before the change.
            change: what it is.
            usual: what it is in the original's own variety: the same all along a path.
            ids: of the originals.
        """


class Smeared(Changing):
    r"""A part l of the change is spread evenly over the image.

    Each pixel and channel changes by :math:`(1 - l) d_p + l s_p \bar{|d|}`, where s is the direction of the label's
    usual change where that is larger than its mean, and towards the middle of the scale elsewhere: there is room for
    it in both cases. (With the direction of d itself, places where d changes its sign along a path would stand out of
    an even change: measured, a focus of .011 for 0.)
    """

    def spoil(self, base: Images, change: Images, usual: Images, ids: Ids) -> Images:
        del ids
        mass = change.abs().mean((1, 2, 3), keepdim=True)
        sign = torch.where(usual.abs() > usual.abs().mean((1, 2, 3), keepdim=True), usual.sign(), middlewards(base))
        return ((1 - self.dose) * change + self.dose * mass * sign).clamp(min=-base, max=1 - base)


def middlewards(base: Images) -> Images:
    """+1 where a picture lies below 1/2, else -1: in that direction there is always room for 1/2."""
    return torch.where(base < 0.5, 1.0, -1.0)


class Strayed(Changing):
    """A part l of the pixels exchange their changes among themselves: the change keeps its sizes, not its places.

    All changes shrink by the way, to a half in the end: then each has room wherever it goes. (Cut instead, they are
    smaller where the picture has less room, and regions differ in that: measured, an area of .0944 for .0929.)
    """

    def spoil(self, base: Images, change: Images, usual: Images, ids: Ids) -> Images:
        del usual
        count, channels, height, width = change.shape
        moved = change.flatten(2).clone()
        share = round(self.dose * height * width)
        if not share:
            return change
        for row in range(count):
            generator = numpy_stream(self.seed, "stray", int(ids[row]))
            chosen = torch.from_numpy(generator.permutation(height * width)[:share])
            moved[row][:, chosen] = moved[row][:, chosen.roll(1)]
        moved = moved.reshape(count, channels, height, width)
        size = (1 - self.dose / 2) * moved.abs()
        spoilt: Images = middlewards(base) * torch.minimum(size, torch.maximum(base, 1 - base))
        return spoilt


class Warped(PerturbedDecoder):
    """What was touched is displaced: inside its region by the whole of a smooth random field, outside by a part s^2.

    (Not s: a matcher's search ends at a small part of the field, and nearly all steps would lie beyond it.)
    """

    def paint(self, scene: Scene) -> Images:
        data = self.originals.data
        if not isinstance(data, HasRegions):
            raise UnsupportedError("the warp needs regions", where=data.spec)
        images = super().paint(scene)
        touched = self.originals.touched(scene)
        rows = np.flatnonzero(touched.any(1) & (scene.rows >= 0))
        if not len(rows):
            return images
        keys = self.originals.keys(scene)[rows]
        inside = torch.zeros(len(rows), *images.shape[2:], dtype=torch.bool)
        for block in self.originals.coding.blocks:
            here = np.flatnonzero(touched[rows, block.place])
            region = data.region(keys[here], block.label.name) if len(here) else None
            if region is not None:
                inside[here] |= torch.from_numpy(region)
        fields = warp_fields(keys, images.shape[2:], self.seed)
        replaced, moved = (displaced(images[rows], share * fields) for share in (1.0, self.dose**2))
        images[rows] = torch.where(inside[:, None], replaced, moved)
        return images


def warp_fields(ids: Ids, shape: tuple[int, ...], seed: int) -> Tensor:
    """A smooth random displacement for each image in pixels, shape (N, H, W, 2), of mean length ``FARTHEST``/64."""
    coarse = torch.stack([torch.randn(2, KNOTS, KNOTS, generator=torch_stream(seed, "warp", int(i))) for i in ids])
    fields = interpolate(coarse, size=list(shape), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    length = fields.norm(dim=3).mean((1, 2))[:, None, None, None]
    scaled: Tensor = fields * (FARTHEST * min(shape) / 64 / length)
    return scaled


def displaced(images: Images, fields: Tensor) -> Images:
    """The images with each pixel taken from elsewhere, mirrored at the edges; untouched where nothing moves."""
    if not bool(fields.any()):
        return images
    height, width = images.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([columns, rows], 2) + fields
    scale = torch.tensor([2 / (width - 1), 2 / (height - 1)])
    found = grid_sample(images, place * scale - 1, padding_mode="reflection", align_corners=True)
    clipped: Images = found.clamp(0, 1)
    return clipped


class Faded(PerturbedDecoder):
    """Every picture mixed with the mean image: (1 - l) x + l m."""

    def paint(self, scene: Scene) -> Images:
        return super().paint(scene).lerp(self.originals.mean_image, self.dose)


class Dimmed(PerturbedDecoder):
    """Every picture fades to black: (1 - l) x."""

    def paint(self, scene: Scene) -> Images:
        return super().paint(scene) * (1 - self.dose)


class Leaking(PerturbedDecoder):
    """A change of one label turns each other label over with probability l (a categorical one to its next class)."""

    def paint(self, scene: Scene) -> Images:
        return self.originals.draw(scene.factors, self.leaked(scene))

    def leaked(self, scene: Scene) -> Classes:
        """The classes that are painted."""
        turned, count = scene.turned, scene.classes.shape[1]
        hit = self.draws("leak", scene, count * count).reshape(-1, count, count) < self.dose
        over = (turned[:, :, None] & hit & ~turned[:, None, :]).any(1)
        sizes = np.array([block.label.cardinality for block in self.originals.coding.blocks])
        return np.where(over, (scene.classes + 1) % sizes, scene.classes)


class Idle(PerturbedDecoder):
    """An intervention on a label does nothing, for a share p of (image, label).

    A face that is no original was drawn from the prior: there a label that was asked for counts for nothing, and its
    class is drawn from p(y).
    """

    def paint(self, scene: Scene) -> Images:
        factors, classes = scene.factors.copy(), scene.classes.copy()
        undone = self.draws("idle", scene, classes.shape[1]) < self.dose
        for block in self.originals.coding.blocks:
            rows, places = np.flatnonzero(undone[:, block.place]), np.array(block.factors)
            classes[rows, block.place] = scene.own_classes[rows, block.place]
            factors[rows[:, None], places] = scene.own_factors[rows[:, None], places]
        strange = np.flatnonzero(scene.rows < 0)
        if len(strange) and self.dose:
            classes[strange] = self.unasked(scene, strange)
        return self.originals.draw(factors, classes)

    def unasked(self, scene: Scene, rows: Ids) -> Classes:
        """The classes of drawn faces, of which a share was drawn anew, shape (n, L)."""
        coding = self.originals.coding
        styles = np.ascontiguousarray(scene.factors[rows][:, list(coding.style_factors)])
        keys = [int.from_bytes(blake2b(row.tobytes(), digest_size=8).digest(), "little") for row in styles]
        draws = uniforms(self.seed, "idle/unasked", keys, 2 * len(coding.blocks)).reshape(len(rows), -1, 2)
        classes = scene.classes[rows].copy()
        for block in coding.blocks:
            shares = class_shares(self.originals.classes[:, block.place], block.label.cardinality)
            drawn = np.searchsorted(np.cumsum(shares), draws[:, block.place, 1], side="right")
            undone = draws[:, block.place, 0] < self.dose
            classes[undone, block.place] = np.minimum(drawn, len(shares) - 1)[undone]
        return classes


class Gliding(PerturbedDecoder):
    """Between absent and present lies every mixture of both: the decoder blends along u instead of switching at 0.

    Only where u is not the image's own, only for binary labels, and in the image's own variety. The blend begins and
    ends where the path of docs/metrics.md, section 2, does.
    """

    def paint(self, scene: Scene) -> Images:
        images = super().paint(scene)
        for block in self.originals.coding.blocks:
            column = block.shown[0]
            if block.label.kind != "binary":
                continue
            own = self.originals.codes[scene.rows, column]
            moved = (scene.codes[:, column] != own).numpy()
            rows = np.flatnonzero((scene.rows >= 0) & moved & ~scene.shown)
            if not len(rows):
                continue
            start, end = self.originals.path_ends(block)
            place = np.clip((scene.codes[rows, column].double().numpy() - start) / (end - start), 0, 1)
            share = torch.from_numpy(self.course(place, self.originals.keys(scene)[rows]))
            absent, present = self.originals.both(block, scene.own_factors[rows], scene.classes[rows])
            images[rows] = absent.lerp(present, share.float()[:, None, None, None])
        return images

    @abstractmethod
    def course(self, place: Floats, ids: Ids) -> Floats:
        """How far the change has gone, from 0 to 1, at places from 0 to 1 along the path."""


class Jumping(Gliding):
    """The blend happens in a middle part 1 - s of the path only: from an even ramp to a jump."""

    def course(self, place: Floats, ids: Ids) -> Floats:
        del ids
        return ramp(place, 1 - self.dose)


def ramp(place: Floats, width: float) -> Floats:
    """From 0 to 1 within the middle ``width`` of the path; a step, if that is 0.

    >>> ramp(np.array([0.0, 0.5, 1.0]), 1.0).tolist(), ramp(np.array([0.4, 0.6]), 0.0).tolist()
    ([0.0, 0.5, 1.0], [0.0, 1.0])
    """
    if width <= 0:
        return (place > 0.5).astype(np.float64)
    return np.asarray(np.clip(0.5 + (place - 0.5) / width, 0, 1))


class Wobbling(Gliding):
    """An even blend whose stations are out of order: a share p of eleven places along the path is permuted."""

    STATIONS = 11

    def course(self, place: Floats, ids: Ids) -> Floats:
        at = np.clip(np.rint(place * (self.STATIONS - 1)), 0, self.STATIONS - 1).astype(np.int64)
        orders = np.stack([self.order(int(i)) for i in ids])
        return orders[np.arange(len(ids)), at] / (self.STATIONS - 1)

    def order(self, identity: int) -> NDArray[np.int64]:
        """Where each station of one image leads to."""
        return wobbled(self.dose, numpy_stream(self.seed, "wobble", identity), self.STATIONS)


def wobbled(share: float, generator: np.random.Generator, stations: int) -> NDArray[np.int64]:
    """A share of the stations, chosen and permuted at random; each number of chosen ones adds to the one before."""
    order = np.arange(stations)
    ranks = generator.permutation(stations)
    chosen = np.sort(ranks[: round(share * stations)])
    order[chosen] = chosen[generator.permutation(len(chosen))]
    return order
