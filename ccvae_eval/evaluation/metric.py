"""Interface of a metric.

A metric is a frozen dataclass whose fields are its settings: the options of its command and the settings in the run.
The evaluation asks each metric once for its needs, decodes every requested intervention once, passes the images to the
metrics that requested them, and collects the measurements. Errors of third-party metrics name the plugin, its file and
the call.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from ccvae_eval.core.errors import PluginError, UsageError, suggestion
from ccvae_eval.model.interface import supports
from ccvae_eval.plugins import registry
from ccvae_eval.plugins.attribution import CREATION, plugin_call

if TYPE_CHECKING:  # help and lists describe metrics without torch
    from torch import Tensor

    from ccvae_eval.core.results import Measurement, ValueSpec
    from ccvae_eval.core.types import Images, Plain
    from ccvae_eval.evaluation.interventions import Intervention
    from ccvae_eval.evaluation.subject import Subject
    from ccvae_eval.model.fixed_batches import Chunk
    from ccvae_eval.statistics.resampling import ResampleWeights

CodeSource = Literal["codes", "prior"]
"""Source of a class's distribution of codes: fitted to the codes of images, or the model's p(z_c|y)."""
Mode = Literal["transport", "mean", "sample"]
"""Code after do(c = v): the same rank within the class, its mean, or a sample."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Requirements of a metric.

    Args:
        interventions: interventions to decode for every image.
        reconstruction: True if it needs the decoding of the images' own codes.
        judge: True if it uses the judge (it must also work without one). The judge may be trained after ``needs``,
            which asks ``subject.judge_source.possible`` instead of ``subject.judge``.
        regions: True if it uses regions (it must also work without them).
        images: False if it also works on points.
        characteristics: False if it does not use characteristics. For a model without characteristics it then gets all
            images instead of the half on which no latent dimensions were assigned, so its interventions must not
            depend on the subject's images.
        own: number of images that it decodes itself for each image of the sample.
    """

    interventions: tuple[Intervention, ...] = ()
    reconstruction: bool = False
    judge: bool = False
    regions: bool = False
    images: bool = True
    characteristics: bool = True
    own: int = 0

    def decodings(self) -> int:
        """Number of images decoded for each image of the sample."""
        return len(self.interventions) + self.reconstruction + self.own


@dataclass
class Decoded:
    """One chunk of images with the decoded interventions on one characteristic.

    Args:
        subject, chunk: the subject and the chunk.
        characteristic: the characteristic intervened on; "" for interventions on none or several.
        reconstruction: decoding of the chunk's own codes.
        images: decoding of each intervention on this characteristic.
        judgements: the judge's log-probabilities for this chunk so far, shared by all characteristics.
    """

    subject: Subject
    chunk: Chunk
    characteristic: str
    reconstruction: Images | None
    images: Mapping[Intervention, Images]
    judgements: dict[Intervention | None, Mapping[str, Tensor]] = field(default_factory=dict)

    def within(self, limit: int) -> Decoded | None:
        """The part of the chunk that is among the subject's first ``limit`` images; see :meth:`Chunk.within`."""
        chunk = self.chunk.within(limit)
        if chunk is None:
            return None
        n = len(chunk)
        rebuilt = None if self.reconstruction is None else self.reconstruction[:n]
        judged: dict[Intervention | None, Mapping[str, Tensor]] = {
            of: {j: log_probs[:n] for j, log_probs in each.items()} for of, each in self.judgements.items()
        }
        images = {of: decoded[:n] for of, decoded in self.images.items()}
        return Decoded(self.subject, chunk, self.characteristic, rebuilt, images, judged)

    @cached_property
    def region(self) -> Tensor | None:
        """Region of the characteristic, shape (n, H, W), bool, on the CPU; None if the data set has no region of it."""
        import torch

        from ccvae_eval.data.interface import HasRegions

        data = self.subject.data
        if not supports(data, HasRegions) or self.characteristic not in data.schema:
            return None
        found = data.region(self.chunk.ids, self.characteristic)
        return None if found is None else torch.from_numpy(found)

    def judged(self, of: Intervention | None = None) -> Mapping[str, Tensor]:
        """The judge's log-probabilities (n, K) of each label for an intervention (None: the reconstruction).

        A continuous label has those of its levels, see :func:`judge_scores.judged`. Computed once for all metrics and
        brought to the CPU; empty without a judge.
        """
        return self.judged_all([of])[0]

    def judged_all(self, of: Sequence[Intervention | None]) -> list[Mapping[str, Tensor]]:
        """:meth:`judged` for several interventions, which waits for the device once."""
        from ccvae_eval.evaluation.judge_scores import judged  # imports torch

        if self.subject.judge is None:
            return [{} for _ in of]
        missing = [one for one in dict.fromkeys(of) if one not in self.judgements]
        if None in missing and self.reconstruction is None:
            self.reconstruction = self.subject.decode(self.chunk.codes)
        images = [self.reconstruction if one is None else self.images[one] for one in missing]
        found = judged(self.subject, [each for each in images if each is not None])
        self.judgements |= zip(missing, found, strict=True)
        return [self.judgements[one] for one in of]


class Accumulator(Protocol):
    """State of one metric during the pass over the images.

    :class:`~ccvae_eval.evaluation.accumulator.ImageAccumulator` is a base class that can also be merged.
    """

    def update(self, batch: Decoded) -> None:
        """Adds one chunk; called once for each chunk and characteristic with requested interventions."""
        ...

    def compute(self, weights: ResampleWeights) -> Measurement:
        """The measurement. ``weights`` resample the subject's images in their order, equally for all metrics."""
        ...


@runtime_checkable
class Metric(Protocol):
    """A frozen dataclass whose fields are its settings.

    The class may also state how it is presented. Each of these members is optional:

    - ``question: ClassVar[str]``: first line of its command's help, a literal; else the first line of the docstring;
    - ``sentence: ClassVar[str]``: headline in words, a template with ``{value}`` and ``{chance}``;
    - ``reading: ClassVar[str]``: how to read the headline: the meaning of its ends, and typical values;
    - ``undefined: ClassVar[Mapping[str, str]]``: reasons of undefined values, with N for numbers and names, and
      what can be done about each; those that every metric can give are in ``REASONS``;
    - ``number_format: ClassVar[str]``: format of these two numbers, such as ".0%"; else ".2f";
    - ``order: ClassVar[int]``: position among the metrics in the root help, a literal; those without one come last;
    - ``default: ClassVar[bool]``: True if it belongs to the default set (built-in metrics only);
    - ``figures(measurement)``: a static method that yields figures of matplotlib, each with the parts of its file name;
    - ``tables(measurement, specs, *, verbose, ascii_only)``: a static method that returns the tables for the terminal;
      else ``rendering.tables.metric_tables``.

    A built-in metric states these and its settings in ``settings.py``, which imports neither torch nor matplotlib.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    headline: ClassVar[str]
    default_sample: ClassVar[int]
    values: ClassVar[Mapping[str, ValueSpec]]
    laws: ClassVar[frozenset[str]]

    def needs(self, subject: Subject) -> Needs:
        """The requirements; raises ``UnsupportedError`` if the model or the data set cannot meet them."""
        ...

    def start(self, subject: Subject) -> Accumulator: ...


LAWS = frozenset(
    {
        "image order",  # the order of the images changes no bit of a number
        "batch size",  # the batch size changes no bit of a number
        "order of characteristics",  # the order of the characteristics in the model's layout changes no number
        "same seed same number",  # a second evaluation with the same seed gives the same bits
        "rescaled latent",  # multiplying every latent dimension changes only values in units of the code
        "permuted label",  # with labels permuted over the images, the headline is at its chance level
        "oracle",  # a model whose true values are known gets these values
        "nan is an error",  # NaN from the model ends in a NonFiniteError, never in a number
        "merged blocks",  # accumulators of disjoint blocks of images, merged, give the bits of one pass
    }
)
"""Names that a metric may declare in ``laws``; the conformance suite tests each of them."""


NAME_DIMENSIONS = "name them: characteristics= of wrap, or the layout of the model"
MORE_IMAGES = "evaluate more images (--sample)"
REASONS: Mapping[str, str] = {
    "no image": "no image of the sample enters the value; " + MORE_IMAGES,
    "undefined on these images": "the images that enter do not determine the number; " + MORE_IMAGES,
    "undefined for every part": "no part of the mean has a number; the rows of the parts say why",
    "the denominator is 0": "the value is a ratio of two sums, and nothing was found for the second one",
    "every label is missing": "no evaluated image has this label; name data that have it, or other labels (--labels)",
    "only N images of N, N are needed": "a class, here or within the class of another label, is rare; " + MORE_IMAGES,
    "N of N images are of class N, N needed": "the class is rare; " + MORE_IMAGES,
    "a class has N images": "the class is rare; " + MORE_IMAGES,
    "no stratum with N images of each class": "within the classes of another label the class is rare; " + MORE_IMAGES,
    "fewer than two classes occur": "the sample shows one class only; " + MORE_IMAGES,
    "the label is never N": "the sample shows one class only; " + MORE_IMAGES,
    "a constant target": "the label has the same value in every image; " + MORE_IMAGES,
    "undefined for another class": "the means of the classes of --by cover the labels that all classes have",
    "fewer than two classes have enough images":
        "the worst class and the gap compare the classes of the label of --by; " + MORE_IMAGES,
    "discrete codes": "nearest neighbours need codes that differ between images",
    "N latent dimensions: nearest neighbours need at most N": "the label has too many dimensions for this value",
    "constant codes": "the latent dimensions have the same value for every image (posterior collapse)",
    "N images lie on one side of the median, N are needed":
        "most images have the same value, or few have the label at all; " + MORE_IMAGES,
    "unassigned: no latent dimension predicts it above chance":
        "the label has no dimension of its own, and none predicts it; train longer, or " + MORE_IMAGES,
    "not measured: the encoder is given the labels":
        "the encoder takes the label as an input, so its latent dimensions contain it by construction",
    "N needs images, but this data set contains points": "the value compares pixels, which points do not have",
}  # fmt: skip
"""Reasons of undefined values that every metric can give, and what can be done about each."""
INTERVENED: Mapping[str, str] = {
    "classes not separated":
        "in this sample the mean codes of the classes are less than 0.1 standard deviations apart, so no direction "
        "leads from one to another: the dimensions hardly encode the label (train longer or with more labels), or "
        + MORE_IMAGES,
    "the codes do not depend linearly on the label":
        "over two standard deviations of the label the mean code moves less than 0.1 standard deviations: the "
        "dimensions do not encode it (train longer), or encode it along a curve that returns, as that of an angle "
        "(give its sine and cosine as two labels)",
    "the label has one value in these images": "the sample shows one value only; " + MORE_IMAGES,
    "N images have the label, N are needed": "the label is missing in most images; " + MORE_IMAGES,
    "has no region": "the label changes the whole image; the mean is that of the other labels",
    "this data set has no regions":
        "add regions=celeba, celebahq or a folder of masks to --data folder:PATH (explain folder); in Python, arrays "
        "take masks under the key regions, and a data set of your own needs region(ids, label) and region_source",
    "the region is empty or too large in every image":
        "no mask is usable; largest_region bounds the share of the image that a region may cover",
    "no image has another class": "images are moved to another class, and the sample shows one class only",
    "no image's class is known": "every label is missing",
    "the class of every image is unknown": "every label is missing",
    "the model assigns latent dimensions to no label": NAME_DIMENSIONS,
    "no label has latent dimensions of its own": NAME_DIMENSIONS,
    "the label has no latent dimensions to traverse": NAME_DIMENSIONS,
    "needs a judge": "the value needs the independent classifier of edited images (explain judge)",
    "there is no other label to compare": "the judge classifies this label only",
    "N has no p(z_c|y)":
        "the model cannot sample the latent dimensions of a label: give the function as ccvae_eval.wrap(prior=...), "
        "or as the method conditional_prior(labels) of its class, which returns a Gaussian with one row for each image "
        "and one column for each latent dimension of a label",
}  # fmt: skip
"""Further reasons of metrics that change images."""


def reasons_of(kind: Any) -> dict[str, str]:
    """The reasons of undefined values of a metric, by their form, and what can be done about each."""
    return {**getattr(kind, "undefined", {}), **REASONS}


def explained_reason(kind: Any, reason: str) -> str:
    """What can be done about a reason, or about one of several reasons; "" if the metric does not explain it."""
    for form, text in reasons_of(kind).items():
        if re.search(".+".join(map(re.escape, re.split(r"\bN\b", form))), reason):
            return text
    return ""


def settings_of(metric: Metric) -> dict[str, Plain]:
    """The metric's fields as plain data."""
    if not is_dataclass(metric) or isinstance(metric, type):
        raise TypeError(f"a metric must be a dataclass instance, got {metric!r}")
    return {key: _plain(value) for key, value in asdict(metric).items()}


def _plain(value: Any) -> Plain:
    return [_plain(v) for v in value] if isinstance(value, tuple | list | frozenset | set) else value


METRIC_MEMBERS = ("name", "version", "values", "headline", "laws", "default_sample", "needs", "start")


def metric_class(name: str) -> Any:
    """The registered class of a metric.

    Raises:
        UsageError: the name is unknown.
        PluginError: the class cannot be imported, or is not a dataclass.
    """
    entry = registry.metrics.find(name)
    kind: Any = entry.load()
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise _not_a_metric(entry, "it is not a dataclass")
    return kind


def builtin_metrics() -> tuple[str, ...]:
    """The names of all built-in metrics, in their order."""
    return tuple(kind.name for kind in _builtin_classes())


def default_metrics() -> tuple[str, ...]:
    """The names of the built-in metrics that are evaluated by default, in their order."""
    return tuple(kind.name for kind in _builtin_classes() if getattr(kind, "default", False))


def _builtin_classes() -> list[Any]:
    entries = [e for e in registry.metrics.registrations() if e.distribution == registry.BUILTIN_DISTRIBUTION]
    return sorted((entry.load() for entry in entries), key=lambda kind: (getattr(kind, "order", math.inf), kind.name))


def presentation_of(name: str) -> Any:
    """The registered class of a metric, for the optional members of :class:`Metric`.

    Returns:
        The class; None if the name is unknown or ambiguous, or if the class cannot be imported.
    """
    try:
        return registry.metrics[name]
    except (UsageError, PluginError):
        return None


def make_metric(name: str, settings: Mapping[str, Any]) -> Metric:
    """A registered metric with these settings.

    Raises:
        PluginError: it cannot be created, or lacks members of a metric.
    """
    kind, entry = metric_class(name), registry.metrics.find(name)
    with plugin_call(entry, "metric", CREATION):
        metric: Any = kind(**settings)
    if not isinstance(metric, Metric):
        lacking = [member for member in METRIC_MEMBERS if not hasattr(metric, member)]
        raise _not_a_metric(entry, f"it lacks {', '.join(lacking)}")
    return metric


def metric_named(name: str, settings: Mapping[str, Any] | None = None) -> Metric:
    """A registered metric with the given settings; the error for an unknown name suggests the nearest one."""
    known = {f.name: f for f in fields(metric_class(name))}
    for key in settings or {}:
        if key not in known:
            raise UsageError(f"metric {name!r} has no setting {key!r}", hint=suggestion(key, known))
    return make_metric(name, settings or {})


def metrics_with(options: Mapping[str, Mapping[str, Any]], metrics: Sequence[str | Metric]) -> list[Metric]:
    """The metrics; those given by name get their options.

    Raises:
        UsageError: an unknown name or setting, a metric given twice, or an option for another metric.
    """
    by_name = {metric for metric in metrics if isinstance(metric, str)}
    for metric in metrics:
        if isinstance(metric, type) or not isinstance(metric, str | Metric):
            hint = "Pass a metric's name, or an instance such as Locality(steps=5)."
            raise UsageError(f"{metric!r} is not a metric", hint=hint)
    for name in options:
        if name not in by_name:
            hint = f"Options apply to metrics given by name: {', '.join(sorted(by_name)) or 'none'}"
            raise UsageError(f"an option is set for metric {name!r}, which is not evaluated", hint=hint)
    chosen = [metric_named(m, options.get(m)) if isinstance(m, str) else m for m in metrics]
    given = [metric.name for metric in chosen]
    if len(set(given)) != len(given):
        raise UsageError(f"each metric may be given once, got {', '.join(given)}")
    return chosen


def _not_a_metric(entry: registry.Registration, why: str) -> PluginError:
    hint = "`ccvae-eval new metric NAME` writes a working example; `ccvae-eval check NAME` tests a metric."
    return PluginError(f"{entry.name!r} is not a metric", where=entry.origin, why=why, hint=hint)
