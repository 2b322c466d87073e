"""Settings, values and presentation of the metric ``locality``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from ccvae_eval.core.results import ValueSpec
from ccvae_eval.core.typed import Range, check
from ccvae_eval.evaluation.metric import INTERVENED, LAWS, Accumulator, CodeSource, Needs

if TYPE_CHECKING:
    from ccvae_eval.core.results import Measurement
    from ccvae_eval.evaluation.subject import Subject
    from ccvae_eval.rendering.figures import Figures

MovedDimensions = Literal["block", "each"]
PathKind = Literal["traversal", "interpolation"]

MIN_STEPS = 3

EVEN_CHANGE = "the same change everywhere"
POSTERIOR_NOISE = "the posterior's noise alone"
RANDOM_ORDER = "the path's points in random order"
ONE_JUMP = "one jump"


@dataclass(frozen=True, slots=True)
class Locality:
    r"""Share of the change along a characteristic's latent dimensions that lies inside the characteristic's region.

    The latent dimensions of a characteristic move along a path of K points from one class to another, all others are
    fixed. D(p) is the standard deviation of pixel p over the K decoded images, averaged over the channels. A is the
    characteristic's region in the image, a its share of the area:

    .. math:: inside = \frac{\sum_{p \in A} D_p}{\sum_p D_p}, \qquad focus = (inside - a) / (1 - a)

    ``focus`` is 1 if all change is inside the region, 0 if the change is the same everywhere, negative if it avoids
    the region. It is the mean over images of each image's focus, so every image counts alike and two models can be
    compared image by image; each image's share is in the evidence (``focus/NAME/numerator``). ``ap`` is the average
    precision of D as a score for the region's pixels, ``inside_energy`` is ``inside`` of D squared; ``concentration``
    = 1 - the share of the pixels that carry the change, and needs no region.

    An image is "unchanged" if its ``magnitude`` (mean over the 1% most changed pixels of |last - first|) does not
    exceed its floor: the same quantity between two decodings that differ only in the characteristic's latent
    dimensions, both sampled from q(z_c|x) (1/255 where the posterior has no scale). Unchanged images enter
    ``changed``, ``magnitude`` and the judge's values and are left out of all others. The values of the region are
    undefined for an image whose region is empty or covers more than 0.6 of it.

    With the judge: ``response`` = mean total variation between the judged probabilities of each label at both ends;
    ``selectivity`` = the characteristic's own share of the sum over labels; ``judged_monotone`` and
    ``judged_evenness`` = ``monotone`` and ``evenness`` of the probability of the class at the path's end.

    Range: 0 to 1; focus from -1.5 to 1.
    Direction: higher is better, except for descriptive values.
    Chance: 0 for focus, the region's share of the area for inside and ap.
    Cost: ``steps`` + 2 images decoded for each image and characteristic, and the reconstruction if there is a judge.
    Pitfalls: blur spreads D beyond the region; regions of different characteristics overlap (glasses and brows); a
    block of latent dimensions moves along one line through its classes' means, ``columns="each"`` moves its dimensions
    one by one (the floor stays that of the whole block); with ``path="interpolation"`` all latent dimensions move: its
    path scores are a baseline for those of a characteristic, its other values say nothing about one.
    Reference: docs/metrics.md, section 2.

    Args:
        steps: points on the path.
        source: source of the path's ends: the codes of each class, or p(z_c|y).
        columns: the whole block of a characteristic's latent dimensions at once, or each dimension alone.
        path: along the characteristic's latent dimensions, or between the codes of two images of different class.
        pairs: classes between which strips of a categorical label are drawn: each image's own and its target class,
            or all pairs, from one image of each. No value depends on it.
        most_changed: share of the pixels over which magnitude is the mean.
        largest_region: largest share of the image that a region may cover.
        least_response: smallest sum of judged changes for which ratios of them are defined.
    """

    name: ClassVar[str] = "locality"
    version: ClassVar[int] = 2
    headline: ClassVar[str] = "focus"
    reading: ClassVar[str] = (
        "0 = the change is spread evenly over the image, 1 = all of it lies inside the region.\n"
        "Typical of a CCVAE: 0.16 on photographs of faces, 0.51 on synthetic faces."
    )
    undefined: ClassVar[Mapping[str, str]] = {
        **INTERVENED,
        "nothing changed in any image":
            "no change exceeds the posterior's noise when the label's dimensions move: the decoder ignores them",
        "the judged changes sum to less than N": "the judge sees no label change (least_response)",
        "undefined for an interpolation": "it describes a path along one label's dimensions (path=traversal)",
    }  # fmt: skip
    default_sample: ClassVar[int] = 500
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label"}
    order: ClassVar[int] = 2
    default: ClassVar[bool] = True
    question: ClassVar[str] = "When one characteristic is changed, does the image change only where it should?"
    sentence: ClassVar[str] = (
        "When one characteristic is changed, the focus of the change on its region is {value} "
        "(0 = evenly spread over the image, 1 = all inside)"
    )
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "focus": ValueSpec(
            "share of the change inside the region, corrected for the region's size (0: evenly spread, 1: all inside)",
            "", True, (-1.5, 1.0),
            EVEN_CHANGE, dials=("smear", "stray"),
        ),
        "inside": ValueSpec(
            "share of the change inside the region", "share", True, (0.0, 1.0), EVEN_CHANGE, dials=("smear", "stray"),
        ),
        "ap": ValueSpec(
            "average precision of the change as a score for the region's pixels", "", True, (0.0, 1.0), EVEN_CHANGE,
            dials=("stray",),
        ),
        "inside_energy": ValueSpec(
            "share of the squared change inside the region", "share", True, (0.0, 1.0), EVEN_CHANGE, dials=("smear",),
        ),
        "concentration": ValueSpec(
            "share of the pixels that do not carry the change; needs no region", "share", None, (0.0, 1.0), EVEN_CHANGE,
            dials=("smear",), reference="1 - a: an even change that fills the region",
        ),
        "selectivity": ValueSpec(
            "share of the characteristic's own label in the judged change of all labels", "share", True, (0.0, 1.0),
            "all labels change alike", True, ("leak",),
        ),
        "response": ValueSpec(
            "change of the judged probabilities of a label between the path's ends", "", None, (0.0, 1.0),
            "nothing changes", True,
        ),
        "changed": ValueSpec(
            "share of the images whose change exceeds their floor", "share", True, (0.0, 1.0), POSTERIOR_NOISE,
            dials=("idle",),
        ),
        "magnitude": ValueSpec(
            "change of the most changed pixels between the path's ends", "intensity", None, (0.0, 1.0), POSTERIOR_NOISE,
        ),
        "floor": ValueSpec(
            "change of the most changed pixels under the posterior's own noise", "intensity", None, (0.0, 1.0),
            no_chance="it is the chance level of magnitude",
        ),
        "area": ValueSpec(
            "share of the image that the region covers", "share", None, (0.0, 1.0),
            no_chance="it is the chance level of inside and does not depend on the model",
        ),
        "monotone": ValueSpec(
            "distance between the path's ends over the length of the path (L1 over pixels)", "", True, (0.0, 1.0),
            RANDOM_ORDER, dials=("wobble",),
        ),
        "evenness": ValueSpec(
            "mean step over largest step (L1 over pixels): 1 even, 1/(K-1) one jump", "", True, (0.0, 1.0), ONE_JUMP,
            dials=("jump",),
        ),
        "straightness": ValueSpec(
            "distance between the path's ends over the length of the path (L2 over pixels)", "", None, (0.0, 1.0),
            RANDOM_ORDER,
        ),
        "judged_monotone": ValueSpec(
            "monotone of the judged probability of the class at the path's end", "", True, (0.0, 1.0), RANDOM_ORDER,
            True, ("wobble",),
        ),
        "judged_evenness": ValueSpec(
            "evenness of the judged probability of the class at the path's end", "", True, (0.0, 1.0), ONE_JUMP, True,
            ("jump",),
        ),
        "path_share": ValueSpec(
            "share of the codes whose projection lies between the path's ends", "share", None, (0.0, 1.0),
            no_chance="it describes the path and is not a score",
        ),
    }  # fmt: skip

    steps: Annotated[int, Range(least=3)] = 11
    source: CodeSource = "codes"
    columns: MovedDimensions = "block"
    path: PathKind = "traversal"
    pairs: Literal["drawn", "all"] = "drawn"
    most_changed: Annotated[float, Range(above=0, most=1)] = 0.01
    largest_region: Annotated[float, Range(above=0, most=1)] = 0.6
    least_response: float = 0.05

    def __post_init__(self) -> None:
        check(self, self.name)

    def needs(self, subject: Subject) -> Needs:
        from ccvae_eval.metrics.locality.metric import needs

        return needs(self, subject)

    def start(self, subject: Subject) -> Accumulator:
        from ccvae_eval.metrics.locality.metric import LocalityAccumulator

        return LocalityAccumulator(self, subject)

    @staticmethod
    def figures(measurement: Measurement) -> Figures:
        from ccvae_eval.metrics.locality.figures import figures

        return figures(measurement)
