"""Perturbed decoders: the oracle's decoder with one fault that grows with a strength."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from ccvae_eval.calibration.code_faults import FullModel
from ccvae_eval.calibration.reference_images import ReferenceImages, Scene
from ccvae_eval.core.errors import UnsupportedError
from ccvae_eval.core.random_streams import numpy_stream, torch_stream, uniforms
from ccvae_eval.core.types import Bools, Codes, Floats, Gaussian, Ids, Images, Labels
from ccvae_eval.data.interface import HasRegions
from ccvae_eval.model.interface import Proxy, supports
from ccvae_eval.oracle.model import Classes
from ccvae_eval.statistics.ratios import class_frequencies

MAX_DISPLACEMENT = 16.0
"""Mean displacement of the warp at strength 1, in 64ths of the image's side: beyond the search of any matcher."""
MAX_ENCODED = 2**16
"""Number of codes of encoded images to remember; the oldest are dropped first."""
GRID_POINTS = 4
"""Points on a side of the coarse grid from which the warp's field is interpolated."""


class PerturbedDecoder(Proxy[FullModel]):
    """The oracle with a perturbed decoder (here without a fault). It can encode every image that it has decoded.

    Args:
        references: the reference images. A code with another style is decoded without a fault.
        strength: from 0 to 1.
        seed: seed of the random numbers, which are drawn per image.
    """

    def __init__(self, references: ReferenceImages, strength: float = 0.0, seed: int = 0) -> None:
        super().__init__(references.oracle)
        self.references, self.strength, self.seed = references, strength, seed
        self._encoded: dict[bytes, None] = {}

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        found = self.inner.encode(images, labels)
        self._encoded.update(dict.fromkeys(_keys(found.loc)))
        while len(self._encoded) > MAX_ENCODED:
            del self._encoded[next(iter(self._encoded))]
        return found

    def scene(self, codes: Codes) -> Scene:
        """Factors and classes of the codes and their originals; the code of an encoded image is its own original.

        So the reconstruction of a rendered counterfactual, with which an edit is compared, has no fault.
        """
        scene = self.references.scene(codes)
        encoded = np.array([key in self._encoded for key in _keys(codes)], dtype=np.bool_)
        factors = np.where(encoded[:, None], scene.factors, scene.original_factors)
        classes = np.where(encoded[:, None], scene.classes, scene.original_classes)
        return replace(scene, encoded=encoded, original_factors=factors, original_classes=classes)

    def decode(self, codes: Codes) -> Images:
        scene = self.scene(codes)
        images = self.render(scene)
        self.references.oracle.remember(images, scene.factors, scene.classes)
        # edits are compared with the faultless image, so it must be encodable too
        faultless = self.references.draw(scene.factors, scene.classes)
        self.references.oracle.remember(faultless, scene.factors, scene.classes)
        return images.to(codes.device)

    def render(self, scene: Scene) -> Images:
        """Render the images, shape (N, C, H, W), on the CPU; subclasses perturb them."""
        return self.references.draw(scene.factors, scene.classes)

    def uniform_numbers(self, purpose: str, scene: Scene, size: int) -> Floats:
        """Uniform random numbers of each original, shape (N, size)."""
        return uniforms(self.seed, purpose, self.references.original_ids(scene), size)


def _keys(codes: Codes) -> list[bytes]:
    return [row.tobytes() for row in codes.detach().cpu().numpy()]


class PerturbedChange(PerturbedDecoder):
    """Decoder with a perturbed *change*: the difference between an edited image and its base.

    The base is the same face without the attribute where a binary label was edited, and the original where a
    categorical one was. It is constant along a traversal of the label, so the perturbation applies to the whole change.
    """

    def render(self, scene: Scene) -> Images:
        edited = self.references.visibly_changed(scene)
        classes, factors = scene.classes.copy(), scene.factors.copy()
        for block in self.references.coding.blocks:
            rows, places = np.flatnonzero(edited[:, block.place]), np.array(block.factors)
            absent = 0 if block.label.kind == "binary" else scene.original_classes[rows, block.place]
            classes[rows, block.place] = absent
            factors[rows[:, None], places] = scene.original_factors[rows[:, None], places]
        after, base = super().render(scene), self.references.draw(factors, classes)
        usual = self.references.draw(factors, np.where(edited & (classes == 0), 1, scene.classes))
        rows = np.flatnonzero(edited.any(1) & (scene.rows >= 0))
        if len(rows):
            keys = self.references.original_ids(scene)[rows]
            perturbed = self.perturb(base[rows], after[rows] - base[rows], usual[rows] - base[rows], keys)
            after[rows] = base[rows] + perturbed
        return after

    @abstractmethod
    def perturb(self, base: Images, change: Images, usual: Images, ids: Ids) -> Images:
        """Return the perturbed change, shape (N, C, H, W), such that base + change stays in [0, 1].

        Args:
            base: the images without the change.
            change: the change.
            usual: the change in the original's own variety, constant along a traversal.
            ids: ids of the originals.
        """


class Smeared(PerturbedChange):
    r"""Spreads a share l of the change evenly over the image; ``focus`` must fall to 0.

    Each pixel and channel changes by :math:`(1 - l) d_p + l s_p \bar{|d|}`. The sign s is that of the label's usual
    change where this exceeds its mean, and points towards 1/2 elsewhere, so that pixels stay in [0, 1]. The sign of d
    itself may flip along a traversal, which would make the even change uneven.
    """

    def perturb(self, base: Images, change: Images, usual: Images, ids: Ids) -> Images:
        del ids
        mass = change.abs().mean((1, 2, 3), keepdim=True)
        sign = torch.where(usual.abs() > usual.abs().mean((1, 2, 3), keepdim=True), usual.sign(), towards_middle(base))
        return ((1 - self.strength) * change + self.strength * mass * sign).clamp(min=-base, max=1 - base)


def towards_middle(base: Images) -> Images:
    """+1 where a pixel is below 1/2, else -1: a step of up to 1/2 in this direction stays in [0, 1]."""
    return torch.where(base < 0.5, 1.0, -1.0)


class Strayed(PerturbedChange):
    """Permutes the change among a share l of the pixels; ``ap`` and ``focus`` must fall to chance.

    All changes shrink with l, to one half at l = 1, so that they stay in [0, 1] at every pixel. Clipping instead would
    depend on the brightness of the region.
    """

    def perturb(self, base: Images, change: Images, usual: Images, ids: Ids) -> Images:
        del usual
        count, channels, height, width = change.shape
        moved = change.flatten(2).clone()
        share = round(self.strength * height * width)
        if not share:
            return change
        for row in range(count):
            generator = numpy_stream(self.seed, "stray", int(ids[row]))
            chosen = torch.from_numpy(generator.permutation(height * width)[:share])
            moved[row][:, chosen] = moved[row][:, chosen.roll(1)]
        moved = moved.reshape(count, channels, height, width)
        size = (1 - self.strength / 2) * moved.abs()
        perturbed: Images = towards_middle(base) * torch.minimum(size, torch.maximum(base, 1 - base))
        return perturbed


class Warped(PerturbedDecoder):
    """Displaces edited images: by a smooth random field inside the region, by s^2 times this field outside.

    ``spill`` of drift must rise. The share is s^2 and not s because a matcher's search covers only small displacements.
    """

    def render(self, scene: Scene) -> Images:
        data = self.references.data
        if not supports(data, HasRegions):
            raise UnsupportedError("the perturbation 'warp' needs regions", where=data.spec)
        images = super().render(scene)
        edited = self.references.visibly_changed(scene)
        rows = np.flatnonzero(edited.any(1) & (scene.rows >= 0))
        if not len(rows):
            return images
        keys = self.references.original_ids(scene)[rows]
        inside = torch.zeros(len(rows), *images.shape[2:], dtype=torch.bool)
        for block in self.references.coding.blocks:
            here = np.flatnonzero(edited[rows, block.place])
            region = data.region(keys[here], block.label.name) if len(here) else None
            if region is not None:
                inside[here] |= torch.from_numpy(region)
        fields = warp_fields(keys, images.shape[2:], self.seed)
        replaced, moved = (displaced(images[rows], share * fields) for share in (1.0, self.strength**2))
        images[rows] = torch.where(inside[:, None], replaced, moved)
        return images


def warp_fields(ids: Ids, shape: tuple[int, ...], seed: int) -> Tensor:
    """Smooth random displacements in pixels, shape (N, H, W, 2), of mean length ``MAX_DISPLACEMENT``/64 of the side."""
    size = 2, GRID_POINTS, GRID_POINTS
    coarse = torch.stack([torch.randn(size, generator=torch_stream(seed, "warp", int(i))) for i in ids])
    fields = interpolate(coarse, size=list(shape), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    length = fields.norm(dim=3).mean((1, 2))[:, None, None, None]
    scaled: Tensor = fields * (MAX_DISPLACEMENT * min(shape) / 64 / length)
    return scaled


def displaced(images: Images, fields: Tensor) -> Images:
    """The images with displaced pixels, reflected at the edges; unchanged if all displacements are 0."""
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
    """Mixes every image with the mean image, (1 - l) x + l m; reconstruction errors must rise."""

    def render(self, scene: Scene) -> Images:
        return super().render(scene).lerp(self.references.mean_image, self.strength)


class Dimmed(PerturbedDecoder):
    """Fades every image to black, (1 - l) x; ``prdc_precision`` must fall."""

    def render(self, scene: Scene) -> Images:
        return super().render(scene) * (1 - self.strength)


class Leaking(PerturbedDecoder):
    """Changes each other label with probability l when one is edited; ``kept`` and ``selectivity`` must fall.

    A categorical label moves to its next class.
    """

    def render(self, scene: Scene) -> Images:
        return self.references.draw(scene.factors, self.leaked_classes(scene))

    def leaked_classes(self, scene: Scene) -> Classes:
        """Classes of the perturbed images, shape (N, L)."""
        edited, count = scene.class_changed, scene.classes.shape[1]
        hit = self.uniform_numbers("leak", scene, count * count).reshape(-1, count, count) < self.strength
        leaks = edited[:, :, None] & hit & ~edited[:, None, :]
        sizes = np.array([block.label.cardinality for block in self.references.coding.blocks])
        return np.where(leaks.any(1), self.new_classes(scene, leaks) % sizes, scene.classes)

    def new_classes(self, scene: Scene, leaks: Bools) -> Classes:
        """Classes of labels that are changed, up to a multiple of their number, shape (N, L).

        Args:
            scene: the images.
            leaks: True where an edit of a label changes another one, shape (N, edited L, changed L).
        """
        del leaks
        return scene.classes + 1


class Biased(Leaking):
    """Sets each other label to the class of the edited one with probability l, by number; ``unfairness`` must rise.

    So the other labels follow the label that is edited: with hats come glasses, without hats no glasses.
    """

    def new_classes(self, scene: Scene, leaks: Bools) -> Classes:
        return np.take_along_axis(scene.classes, leaks.argmax(1), 1)


class Idle(PerturbedDecoder):
    """Ignores interventions for a share p of all pairs (image, label); ``effect`` must fall to chance.

    In images sampled from the prior, which have no original, the requested class is replaced by a sample of p(y).
    """

    def render(self, scene: Scene) -> Images:
        factors, classes = scene.factors.copy(), scene.classes.copy()
        undone = self.uniform_numbers("idle", scene, classes.shape[1]) < self.strength
        for block in self.references.coding.blocks:
            rows, places = np.flatnonzero(undone[:, block.place]), np.array(block.factors)
            classes[rows, block.place] = scene.original_classes[rows, block.place]
            factors[rows[:, None], places] = scene.original_factors[rows[:, None], places]
        sampled = np.flatnonzero(scene.rows < 0)
        if len(sampled) and self.strength:
            classes[sampled] = self.resampled_classes(scene, sampled)
        return self.references.draw(factors, classes)

    def resampled_classes(self, scene: Scene, rows: Ids) -> Classes:
        """Classes of images sampled from the prior, a share of them resampled from p(y), shape (n, L)."""
        coding = self.references.coding
        styles = np.ascontiguousarray(scene.factors[rows][:, list(coding.style_factors)])
        keys = [int.from_bytes(blake2b(row.tobytes(), digest_size=8).digest(), "little") for row in styles]
        draws = uniforms(self.seed, "idle/unasked", keys, 2 * len(coding.blocks)).reshape(len(rows), -1, 2)
        classes = scene.classes[rows].copy()
        for block in coding.blocks:
            shares = class_frequencies(self.references.classes[:, block.place], block.label.cardinality)
            drawn = np.searchsorted(np.cumsum(shares), draws[:, block.place, 1], side="right")
            undone = draws[:, block.place, 0] < self.strength
            classes[undone, block.place] = np.minimum(drawn, len(shares) - 1)[undone]
        return classes


class BlendedPath(PerturbedDecoder):
    """Decoder that blends between absent and present along u, instead of switching at u = 0.

    It applies to edited binary labels, in the original's own variety. The blend begins and ends with the traversal of
    docs/metrics.md, section 2.
    """

    def render(self, scene: Scene) -> Images:
        images = super().render(scene)
        for block in self.references.coding.blocks:
            column = block.shown[0]
            if block.label.kind != "binary":
                continue
            own = self.references.codes[scene.rows, column]
            moved = (scene.codes[:, column] != own).numpy()
            rows = np.flatnonzero((scene.rows >= 0) & moved & ~scene.encoded)
            if not len(rows):
                continue
            start, end = self.references.path_ends(block)
            place = np.clip((scene.codes[rows, column].double().numpy() - start) / (end - start), 0, 1)
            share = torch.from_numpy(self.blend(place, self.references.original_ids(scene)[rows]))
            factors, classes = scene.original_factors[rows], scene.classes[rows]
            absent, present = self.references.absent_and_present(block, factors, classes)
            images[rows] = absent.lerp(present, share.float()[:, None, None, None])
        return images

    @abstractmethod
    def blend(self, place: Floats, ids: Ids) -> Floats:
        """Share of the change at positions from 0 to 1 along the traversal."""


class Jumping(BlendedPath):
    """Blends in the middle part 1 - s of the traversal only, from an even ramp to a jump; ``evenness`` must fall."""

    def blend(self, place: Floats, ids: Ids) -> Floats:
        del ids
        return ramp(place, 1 - self.strength)


def ramp(place: Floats, width: float) -> Floats:
    """Linear ramp from 0 to 1 within the middle ``width`` of the traversal; a step if the width is 0.

    >>> ramp(np.array([0.0, 0.5, 1.0]), 1.0).tolist(), ramp(np.array([0.4, 0.6]), 0.0).tolist()
    ([0.0, 0.5, 1.0], [0.0, 1.0])
    """
    if width <= 0:
        return (place > 0.5).astype(np.float64)
    return np.asarray(np.clip(0.5 + (place - 0.5) / width, 0, 1))


class Wobbling(BlendedPath):
    """Blends evenly, with a share p of eleven points along the traversal permuted; ``monotone`` must fall."""

    POINTS = 11

    def blend(self, place: Floats, ids: Ids) -> Floats:
        at = np.clip(np.rint(place * (self.POINTS - 1)), 0, self.POINTS - 1).astype(np.int64)
        streams = (numpy_stream(self.seed, "wobble", int(i)) for i in ids)
        orders = np.stack([permuted_points(self.strength, stream, self.POINTS) for stream in streams])
        return orders[np.arange(len(ids)), at] / (self.POINTS - 1)


def permuted_points(share: float, generator: np.random.Generator, points: int) -> NDArray[np.int64]:
    """Points with a random share of them permuted; with the same generator, a larger share includes a smaller one."""
    order = np.arange(points)
    ranks = generator.permutation(points)
    chosen = np.sort(ranks[: round(share * points)])
    order[chosen] = chosen[generator.permutation(len(chosen))]
    return order
