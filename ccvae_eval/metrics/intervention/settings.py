"""Settings, values and presentation of the metric ``intervention``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import ANOTHER_IMAGE, ValueSpec
from ccvae_eval.core.typed import Range, check
from ccvae_eval.evaluation.metric import INTERVENED, LAWS, Accumulator, CodeSource, Mode, Needs

if TYPE_CHECKING:
    from ccvae_eval.core.results import Measurement
    from ccvae_eval.evaluation.interventions import Assign
    from ccvae_eval.evaluation.subject import Subject
    from ccvae_eval.rendering.figures import Figures

UNCHANGED = "the unedited reconstruction"
"""Chance level of values that compare an edit with a rendered counterfactual."""
TRUE_CLASS = "reconstructions of the real images"


@dataclass(frozen=True, slots=True)
class Interventions:
    r"""Effect of interventions on a label: judged classes, distance to rendered counterfactuals, and axioms.

    Each image is decoded after do(c = v), v a class other than its own (``mode``: transport keeps its rank within the
    class). With the judge: ``effect`` = share of images that the judge classifies as v; ``kept`` = share whose judged
    class of another label is that of the reconstruction r, one row for each label at ``judged=`` and their mean;
    ``change`` = mean total variation of the judged probabilities of each label: the matrix of judged changes.

    A continuous label is set to one of its quantiles .05, .25, .5, .75 and .95 in the sample, its levels, other than
    that nearest to its own value, and its judged class is the level nearest to the judged value. ``obeyed_rank`` = rank
    correlation over the images of the value that was set and the judged value.

    Swap: the latent dimensions of c are copied from a random image of another class, the donor. ``transfer`` = share
    of images that the judge classifies as the donor's class, minus the same share for r; ``identity`` = 1 - SSIM of r
    and the swapped image outside both images' regions, a window away from them. ``fidelity`` (for data with a variety)
    = d(swapped, recipient rendered with the donor's variety) - d(r, x) inside the region, where d is the mean absolute
    difference of pixels.

    Formula: with f(x, c, v) = decode(do(c = v) on encode(x)) from posterior means, ``composition`` = d(f^m(x, c, own
    class), x), the same for every c, and ``reversibility`` = d(x after m edits to v and back, x), m in ``repeats``, on
    the first ``axiom_images`` images. With a renderer, on the first ``rendered`` images and with x* = x rendered
    without the attribute, ``error`` = d(f(x), x*) - d(decode(encode(x*)), x*) from present to absent (of a continuous
    label, from its value to v), at ``where=inside`` and ``where=outside`` of the region. From absent to present many
    appearances are right, so ``energy`` = energy distance between ``draws`` samples from p(z_c|y) and as many
    renderings with resampled variety, inside the region.

    In features f (``features``), on the first ``feature_images`` images: ``realism`` = unbiased squared MMD, with the
    kernel (f.f'/F + 1)^3, between images edited to v and the real images of class v, and ``realism_frechet`` = their
    Frechet distance, for each v (at ``class=``). ``minimality`` = log(.8 exp P(S_cf <= d) + .2 exp P(S_f >= d)), with d
    the distance of the edited image to x, and S_f and S_cf those of x to real images of its own class and of class v.
    With features of faces, ``identity_cosine`` = cosine of f(r) and f(edited image).

    With ``--by LABEL``, ``unfairness`` of the other labels' judged classes y towards that label s is

    .. math:: \frac{1}{|S|} \sum_{v \in S} TV(p(y), p(y | do(s = v)))

    (TV: total variation distance): p(y) from the reconstructions, p(y | do(s = v)) from those of the images of class v
    and from the edits of all others. Of more than two classes each image is edited to one, and counts once for every
    class that it could have been edited to. One row for each label at ``judged=``, and their mean.

    ``assign="Male=1,Heavy_Makeup=0"`` sets several labels at once: ``obeyed`` = share of images with the judged class
    assigned to each label, and to all together, with their ``kept``, at ``do=``.

    ``together=3`` sets 1, 2 and 3 labels of each image, drawn at random, to other classes: ``obeyed_together`` = share
    of images of which the judge finds all of them, at ``set=1``, ``set=2`` and ``set=3``. If the training images are
    known, also by how many of them have the combination of all labels that the image is asked for, at
    ``seen=0 | 1..9 | 10..99 | 100+``: does the model compose labels that it has not seen together?

    Range: 0 to 1; -1 to 1 for obeyed_rank, transfer, fidelity, error and identity_cosine, 0 to 2 for identity;
    realism_frechet is at least 0; energy and realism have no bounds.
    Direction: higher is better for effect, obeyed_rank, kept, transfer, obeyed, obeyed_together and identity_cosine;
    lower for identity, fidelity, composition, reversibility, error, energy, realism, realism_frechet, minimality and
    unfairness.
    Chance: for effect, obeyed_rank, obeyed and obeyed_together, the same of the judged classes or values of r; 0 for
    transfer; for fidelity, error, energy and realism, the unedited reconstruction; for composition and reversibility,
    another image; for minimality, a real image of class v in place of the edited one; for identity_cosine, another
    reconstruction blended into r until the pixels change as much as by the edit.
    References: for realism, the reconstructions of the real images of class v; for minimality, r.
    Cost: 2 images decoded for each image and characteristic (do and swap), the reconstruction, ``draws`` more where
    the data can resample the variety, one for an assignment, ``together`` for sets of labels; for the axioms
    max(repeats) + 2 max(repeats) for each characteristic, encoded as well, on the first images.
    Pitfalls: judged values depend on the judge: labels that it does not recognise in this model's reconstructions are
    left out. error and fidelity subtract the model's reconstruction error and may be negative. do() by transport needs
    20 images of each class. realism and minimality depend on the features; an edit that changes nothing is minimal.
    Reference: docs/metrics.md, section 6; Monteiro et al. 2023 (axioms); Szekely and Rizzo 2013 (energy distance);
    Melistas et al. 2024 (realism, minimality); Locatello et al. 2019, On the fairness of disentangled representations
    (unfairness); Gaudi et al. 2025 (obeyed_together).

    Args:
        mode: code after do(c = v): transport (same rank within the class), mean (of the class), or sample (from
            p(z_c|y)).
        source: distribution of each class: fitted to the codes of other images, or p(z_c|y).
        assign: labels to set together, as LABEL=CLASS,LABEL=VALUE.
        together: set 1, 2, ... up to so many labels of each image at once; 0 = none.
        repeats: repetitions of the edits behind the axioms.
        axiom_images: number of images for the axioms, from the first.
        draws: samples behind the energy distance.
        rendered: number of images with rendered counterfactuals, from the first.
        largest_region: largest share of the image that a region may cover.
        features: judge, pixels, edges, a registered extractor, or auto: the judge's if there is a judge, else pixels.
        feature_images: images compared by features, from the first; 0 = none.
    """

    name: ClassVar[str] = "intervention"
    version: ClassVar[int] = 3
    headline: ClassVar[str] = "effect"
    reading: ClassVar[str] = (
        "0 = no edit shows the label that was set, 1 = every edit does.\n"
        "Typical of a CCVAE: 0.54 on photographs of faces (chance 0.13), 0.96 on synthetic faces."
    )
    undefined: ClassVar[Mapping[str, str]] = {
        "N labels can be set": "together sets at most as many labels as the model can edit",
        "the judge recognises too few of the labels that were set": "the other values name them (explain judge)",
        "no image is asked for such a combination": "no edited image has so many training images of its combination",
        "the label of N is not edited":
            "unfairness sets the label of --by: name one that has latent dimensions and is not left out by --labels",
        **INTERVENED,
        "needs features of faces (--features)":
            "the identity of a face needs a network that recognises faces: register yours with --plugin FILE and name "
            "it with --features NAME (docs/plugins.md)",
        "the data set cannot render": "there is no true image of the edit: such data (faces, grids) have a renderer",
        "the data set cannot redraw": "the variety of an attribute is redrawn for rendered faces only",
        "the judged value is the same in every image": "the edits do not change the value that the judge sees",
    }  # fmt: skip
    default_sample: ClassVar[int] = 500
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label"}
    order: ClassVar[int] = 6
    question: ClassVar[str] = "When a label is set, does the image show it, and do the other labels stay?"
    sentence: ClassVar[str] = (
        "When a label is set to another class, the judge recognises that class in {value} of the images "
        "(in their reconstructions: {chance})"
    )
    number_format: ClassVar[str] = ".0%"
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "effect": ValueSpec(
            "share of images that the judge classifies as the class that was set", "share", True, (0.0, 1.0),
            "the reconstruction", True, ("idle",),
        ),
        "obeyed_rank": ValueSpec(
            "rank correlation of the value that a continuous label was set to and the judged value", "", True,
            (-1.0, 1.0), "the reconstruction", True, ("idle",),
        ),
        "kept": ValueSpec(
            "share of images whose judged class of another label stays", "share", True, (0.0, 1.0), ANOTHER_IMAGE, True,
            ("leak",),
        ),
        "change": ValueSpec("change of the judged probabilities of a label", "", None, (0.0, 1.0), UNCHANGED, True),
        "transfer": ValueSpec(
            "share judged as the donor's class after a swap, minus that of the reconstruction", "share", True,
            (-1.0, 1.0), "nothing is swapped", True, ("idle",),
        ),
        "identity": ValueSpec(
            "1 - SSIM outside both regions after a swap", "", False, (0.0, 2.0), ANOTHER_IMAGE, dials=("warp",),
        ),
        "fidelity": ValueSpec(
            "distance to the recipient rendered with the donor's variety, minus the reconstruction error", "intensity",
            False, (-1.0, 1.0), "nothing is swapped", dials=("idle",),
        ),
        "composition": ValueSpec(
            "distance to the image after encoding and decoding it m times", "intensity", False, (0.0, 1.0),
            ANOTHER_IMAGE, dials=("fade",),
        ),
        "reversibility": ValueSpec(
            "distance to the image after m edits to another class and back", "intensity", False, (0.0, 1.0),
            ANOTHER_IMAGE, dials=("fade",),
        ),
        "error": ValueSpec(
            "distance to the image rendered without the attribute, minus that image's reconstruction error",
            "intensity", False, (-1.0, 1.0), UNCHANGED, dials=("leak", "idle"),
        ),
        "energy": ValueSpec(
            "energy distance between samples of p(z_c|y) and renderings with resampled variety", "intensity", False,
            (None, None), UNCHANGED, dials=("collapse",),
        ),
        "realism": ValueSpec(
            "unbiased kernel distance (MMD^2) of edited images to real images of the target class, in features", "",
            False, (None, None), UNCHANGED, dials=("fade",), reference=TRUE_CLASS,
        ),
        "realism_frechet": ValueSpec(
            "Fréchet distance of edited images to real images of the target class, in features", "", False,
            (0.0, None), UNCHANGED, dials=("fade",), reference=TRUE_CLASS,
        ),
        "minimality": ValueSpec(
            "distance of the edit from its origin among real images of both classes (CLD), in features", "", False,
            (0.0, 1.0), "a real image of the target class", dials=("leak",), reference=UNCHANGED,
        ),
        "identity_cosine": ValueSpec(
            "cosine of features of faces before and after the edit; only with features=", "", True, (-1.0, 1.0),
            "another image blended in, to the same change of pixels",
        ),
        "obeyed": ValueSpec(
            "share of images that the judge classifies as assigned", "share", True, (0.0, 1.0), "the reconstruction",
            True, ("idle",),
        ),
        "obeyed_together": ValueSpec(
            "share of images in which the judge finds all of several labels that were set", "share", True, (0.0, 1.0),
            "the reconstruction", True, ("idle",),
        ),
        "unfairness": ValueSpec(
            "total variation of the judged classes of another label when the label of --by is set", "", False,
            (0.0, 1.0), needs_judge=True, dials=("bias",),
            no_chance="its best value, 0, is that of a label that changes nothing",
        ),
    }  # fmt: skip

    mode: Mode = "transport"
    source: CodeSource = "codes"
    assign: str = ""
    together: Annotated[int, Range(least=0)] = 0
    repeats: tuple[int, ...] = (1, 10)
    axiom_images: Annotated[int, Range(least=0)] = 64
    draws: Annotated[int, Range(least=2)] = 8
    rendered: Annotated[int, Range(least=0)] = 128
    largest_region: float = 0.6
    features: str = "auto"
    feature_images: Annotated[int, Range(least=0)] = 512

    def __post_init__(self) -> None:
        check(self, self.name)
        if not self.repeats or min(self.repeats) < 1 or len(set(self.repeats)) != len(self.repeats):
            message = f"repeats must be distinct numbers from 1 up, got {self.repeats}"
            raise UsageError(message, where="intervention.repeats")
        if self.features not in (own := ("auto", "judge", "pixels")):
            from ccvae_eval.metrics.shared.features import require_features

            require_features(self.features, own, "intervention.features")

    def needs(self, subject: Subject) -> Needs:
        from ccvae_eval.metrics.intervention.metric import needs

        return needs(self, subject)

    def assigned(self, subject: Subject) -> Assign:
        """The intervention that sets the labels of ``assign``."""
        from ccvae_eval.evaluation.interventions import Assign
        from ccvae_eval.metrics.shared.assignments import assignment_of

        return Assign(assignment_of(self.assign, subject), self.mode, self.source)

    def start(self, subject: Subject) -> Accumulator:
        from ccvae_eval.metrics.intervention.metric import InterventionAccumulator

        return InterventionAccumulator(self, subject)

    @staticmethod
    def figures(measurement: Measurement) -> Figures:
        from ccvae_eval.metrics.intervention.figures import figures

        return figures(measurement)
