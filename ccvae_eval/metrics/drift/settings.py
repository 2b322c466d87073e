"""Settings, values and presentation of the metric ``drift``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import ANOTHER_IMAGE, ValueSpec
from ccvae_eval.core.typed import Range, check
from ccvae_eval.evaluation.metric import INTERVENED, LAWS, Accumulator, CodeSource, Needs

if TYPE_CHECKING:
    from ccvae_eval.core.results import Measurement
    from ccvae_eval.evaluation.subject import Subject
    from ccvae_eval.rendering.figures import Figures

LENGTHS = "64ths of the width"
UNIFORM_CHANGE = "a change independent of the region"
NOISE_LEVEL = "it is itself a baseline: the effect of the posterior's noise"
COUNT = "it counts points before anything is changed"


@dataclass(frozen=True)
class Drift:
    r"""Displacement of image content outside a characteristic's region when that characteristic is changed.

    Each image is decoded twice with the same posterior sample in all other latent dimensions: unchanged (r), and with
    the characteristic's latent dimensions z_c moved to another class by transport (v = do(c)). Textured points of r are
    matched in v. The loss of a point is its displacement in 64ths of the image's width, or the search radius if it is
    not found again. A perfectly local model has a loss of 0 outside, so no noise level is subtracted.

    Formula: spill = mean loss outside the region / mean loss inside, a ratio of sums over images. Points outside lie
    farther from the region than a patch and a search window can reach (the guard band); points inside lie anywhere in
    the region. An image counts if r and v differ more inside the region than r and a decoding with z_c redrawn from
    q(z_c|x), by mean absolute difference; selecting images by the loss itself would bias the ratio.
    Range: 0 and up. Direction: lower is better; 0 = local, 1 = independent of the region.
    Chance: 1 for spill, a change independent of the region; for losses and matches, the reconstruction of another image
    in place of v.
    Cost: 2 images decoded for each image and characteristic, 2 more for all characteristics together, and 1 for each
    fraction in ``doses``.
    Pitfalls: matching hardly detects a change of tint: compare ``l1_spill``. Blurred reconstructions have few textured
    points: with fewer than 8 outside in the median image the losses are undefined, and spill becomes the ratio of
    1-SSIM. Numbers of matches depend on the matcher, and some edits add corners; they reproduce a table of Pilchen et
    al. and should not be used as a headline.
    Reference: Pilchen, Barbeteguy and Cahill, CCVAE feature matching (2023); Lewis, Fast normalized cross-correlation
    (1995); Wang et al., Image quality assessment (2004).

    Args:
        matcher: name of a matcher: grid, sift, kornia-sift, aliked, lightglue, or one that a plugin registers; settings
            follow as name,key=value (aliked,weights=FILE).
        doses: fractions of the path between the classes (such as 0, 0.25, 0.5, 0.75, 1) at which drift is also
            measured; each one decodes all images once more.
        source: source of the class distributions: Gaussians fitted to the codes of other images, or p(z_c|y).
        fewest_keypoints: least number of textured points outside the region in the median image.
        largest_region: largest share of an image that a region may cover; larger regions are ignored.
        window: side of the SSIM window in pixels, odd.
        table_images: number of images, from the first, on which matches with the input are counted and chance levels
            are measured.
    """

    name: ClassVar[str] = "drift"
    version: ClassVar[int] = 3
    headline: ClassVar[str] = "spill"
    reading: ClassVar[str] = (
        "0 = everything outside the region stays in place, 1 = it moves as much as the region.\n"
        "Typical of a CCVAE: 0.34 on photographs of faces, 0.01 on synthetic faces."
    )
    undefined: ClassVar[Mapping[str, str]] = {
        **INTERVENED,
        "nothing changes inside the region":
            "the edit changes no more than the posterior's noise does: the decoder ignores the label's dimensions",
        "nothing moves inside the region":
            "spill divides by the motion inside the region, where no point moves or vanishes: the edit changes nothing "
            "there, or only colours and brightness, which l1_spill and ssim_spill compare",
        "no changed image has textured points inside and outside":
            "points are followed only where there is texture: train longer, or read ssim_spill and l1_spill",
        "N textured points outside in the median image, N are needed":
            "the background is constant or blurred; spill is then the ratio of 1-SSIM (fewest_keypoints)",
        "no point outside is found again": "every textured point outside vanishes by the edit, which lost counts",
        "no textured point": "the reconstructions are constant or blurred",
        "no match": "no point of the input is found in the reconstruction, which is constant or blurred",
        "matches with the inputs are not counted (table_images=0)": "set table_images to a number of images",
    }  # fmt: skip
    default_sample: ClassVar[int] = 500
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label"}
    order: ClassVar[int] = 3
    default: ClassVar[bool] = True
    question: ClassVar[str] = "When one characteristic is changed, does the rest of the image stay in place?"
    sentence: ClassVar[str] = (
        "Outside the edited region, keypoints move or vanish {value} as much as inside it (0% = they stay in place)"
    )
    number_format: ClassVar[str] = ".0%"
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "spill": ValueSpec(
            "mean loss outside the region divided by mean loss inside", "", False, (0.0, None), UNIFORM_CHANGE,
            dials=("warp",),
        ),
        "outside_excess": ValueSpec(
            "loss outside the region, minus the loss caused by the posterior's noise in z_c", LENGTHS, False,
            (None, None), ANOTHER_IMAGE, dials=("warp",),
        ),
        "outside": ValueSpec(
            "mean loss of points outside the region", LENGTHS, False, (0.0, None), ANOTHER_IMAGE, dials=("warp",),
        ),
        "inside": ValueSpec("mean loss of points inside the region", LENGTHS, None, (0.0, None), ANOTHER_IMAGE),
        "loss": ValueSpec("mean loss of all points of the image", LENGTHS, None, (0.0, None), ANOTHER_IMAGE),
        "lost": ValueSpec(
            "share of points outside the region that are not found again", "share", False, (0.0, 1.0), ANOTHER_IMAGE,
            dials=("warp",),
        ),
        "displacement": ValueSpec(
            "mean displacement of points outside the region that are found again", LENGTHS, False, (0.0, None),
            ANOTHER_IMAGE,
        ),
        "floor_c": ValueSpec(
            "loss outside the region when only z_c is redrawn from the posterior", LENGTHS, None, (0.0, None),
            no_chance=NOISE_LEVEL,
        ),
        "floor_all": ValueSpec(
            "loss outside the region when the whole code is redrawn from the posterior", LENGTHS, None, (0.0, None),
            no_chance=NOISE_LEVEL,
        ),
        "changed": ValueSpec(
            "share of images that change more inside the region than by the posterior's noise", "share", True,
            (0.0, 1.0), "the posterior's noise alone", dials=("idle",),
        ),
        "textured": ValueSpec(
            "textured points outside the guard band per image", "points", None, (0.0, None), no_chance=COUNT,
        ),
        "ssim_spill": ValueSpec(
            "1-SSIM outside the region divided by 1-SSIM inside", "", False, (0.0, None), UNIFORM_CHANGE,
            dials=("warp",),
        ),
        "l1_spill": ValueSpec(
            "absolute change outside the region divided by that inside", "", False, (0.0, None), UNIFORM_CHANGE,
            dials=("warp",),
        ),
        "ssim_change": ValueSpec("1-SSIM of the whole image", "", None, (0.0, 2.0), ANOTHER_IMAGE),
        "l1_change": ValueSpec("mean absolute change of the whole image", "intensity", None, (0.0, 1.0), ANOTHER_IMAGE),
        "matches": ValueSpec(
            "points of the input matched in the changed image", "points", None, (0.0, None), ANOTHER_IMAGE,
            dials=("fade",),
        ),
        "matches_drop": ValueSpec(
            "matches lost by the intervention, paired by image", "points", None, (None, None), ANOTHER_IMAGE,
            dials=("fade",),
        ),
        "confidence": ValueSpec(
            "mean confidence of matches with the input", "", None, (0.0, 1.0), ANOTHER_IMAGE, dials=("fade",),
        ),
        "confidence_drop": ValueSpec(
            "mean confidence lost by the intervention, paired by image", "", None, (-1.0, 1.0), ANOTHER_IMAGE,
        ),
        "correct_matches": ValueSpec(
            "matches with the input at the expected position", "points", None, (0.0, None), ANOTHER_IMAGE,
        ),
        "keypoints": ValueSpec("keypoints of the input", "points", None, (0.0, None), no_chance=COUNT),
    }  # fmt: skip

    matcher: str = "grid"
    doses: tuple[Annotated[float, Range(least=0, most=1)], ...] = ()
    source: CodeSource = "codes"
    fewest_keypoints: int = 8
    largest_region: Annotated[float, Range(above=0, most=1)] = 0.6
    window: Annotated[int, Range(least=1)] = 7
    table_images: int = 64

    def __post_init__(self) -> None:
        check(self, self.name)
        if self.matcher != "grid":
            from ccvae_eval.metrics.drift.metric import matcher_named

            matcher_named(self.matcher)
        if len(set(self.doses)) != len(self.doses):
            raise UsageError(f"doses must be distinct, got {self.doses}", where="drift.doses")
        if self.window % 2 == 0:
            raise UsageError(f"window must be odd, got {self.window}", where="drift.window")

    def needs(self, subject: Subject) -> Needs:
        from ccvae_eval.metrics.drift.metric import needs

        return needs(self, subject)

    def start(self, subject: Subject) -> Accumulator:
        from ccvae_eval.metrics.drift.metric import DriftAccumulator

        return DriftAccumulator(self, subject)

    @staticmethod
    def figures(measurement: Measurement) -> Figures:
        from ccvae_eval.metrics.drift.figures import figures

        return figures(measurement)
