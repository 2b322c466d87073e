"""Interface of a metric.

A metric is a frozen dataclass whose fields are its settings: the options of its command and the settings in the run.
The evaluation asks each metric once for its needs, decodes every requested intervention once, passes the images to the
metrics that requested them, and collects the measurements. Errors of third-party metrics name the plugin, its file and
the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from ccvae_eval.core.errors import CcvaeEvalError, PluginError, UsageError
from ccvae_eval.plugins import registry

if TYPE_CHECKING:  # help and lists describe metrics without torch
    from torch import Tensor

    from ccvae_eval.core.results import Measurement, ValueSpec
    from ccvae_eval.core.types import Images, Plain
    from ccvae_eval.evaluation.interventions import Intervention
    from ccvae_eval.evaluation.subject import Chunk, Subject
    from ccvae_eval.judge import Judge
    from ccvae_eval.statistics.resampling import ResampleWeights


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
    judgements: dict[object, Mapping[str, Tensor]] = field(default_factory=dict)

    @cached_property
    def region(self) -> Tensor | None:
        """Region of the characteristic, shape (n, H, W), bool, on the CPU; None if the data set has no region of it."""
        import torch

        from ccvae_eval.data.interface import HasRegions

        data = self.subject.data
        if not isinstance(data, HasRegions):
            return None
        found = data.region(self.chunk.ids, self.characteristic)
        return None if found is None else torch.from_numpy(found)

    def judged(self, of: Intervention | None = None) -> Mapping[str, Tensor]:
        """The judge's log-probabilities (n, K) of each label for an intervention (None: the reconstruction).

        Computed once for all metrics; empty without a judge.
        """
        judge: Judge | None = self.subject.judge
        if judge is None:
            return {}
        if of not in self.judgements:
            if of is None and self.reconstruction is None:
                self.reconstruction = self.subject.decode(self.chunk.codes)
            images = self.reconstruction if of is None else self.images[of]
            assert images is not None
            self.judgements[of] = judge.log_probabilities(images)
        return self.judgements[of]


class Accumulator(Protocol):
    """State of one metric during the pass over the images."""

    def update(self, batch: Decoded) -> None:
        """Adds one chunk; called once for each chunk and characteristic with requested interventions."""
        ...

    def compute(self, weights: ResampleWeights) -> Measurement:
        """The measurement. ``weights`` resample the subject's images in their order, equally for all metrics."""
        ...


@runtime_checkable
class Metric(Protocol):
    """A frozen dataclass whose fields are its settings."""

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
        "image order",
        "batch size",
        "order of characteristics",
        "same seed same number",
        "rescaled latent",
        "permuted label",
        "oracle",
        "nan is an error",
    }
)
"""Names that a metric may declare in ``laws``; the conformance suite tests each of them."""


def settings_of(metric: Metric) -> dict[str, Plain]:
    """The metric's fields as plain data."""
    if not is_dataclass(metric) or isinstance(metric, type):
        raise TypeError(f"a metric must be a dataclass instance, got {metric!r}")
    return {key: _plain(value) for key, value in asdict(metric).items()}


def _plain(value: Any) -> Plain:
    return [_plain(v) for v in value] if isinstance(value, tuple | list | frozenset | set) else value


METRIC_HINT = "`ccvae-eval new metric NAME` writes a working example; `ccvae-eval check NAME` tests a metric."
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
        raise _not_usable(entry, f"{name!r} is not a metric", "it is not a dataclass")
    return kind


def make_metric(name: str, settings: Mapping[str, Any]) -> Metric:
    """A registered metric with these settings.

    Raises:
        PluginError: it cannot be created, or lacks members of a metric.
    """
    kind, entry = metric_class(name), registry.metrics.find(name)
    try:
        metric: Any = kind(**settings)
    except CcvaeEvalError:
        raise
    except Exception as error:
        raise _not_usable(entry, f"metric {name!r} cannot be created", f"{type(error).__name__}: {error}") from error
    if not isinstance(metric, Metric):
        lacking = [member for member in METRIC_MEMBERS if not hasattr(metric, member)]
        raise _not_usable(entry, f"{name!r} is not a metric", f"it lacks {', '.join(lacking)}")
    return metric


def _not_usable(entry: registry.Registration, what: str, why: str) -> PluginError:
    return PluginError(what, where=f"{entry.distribution} {entry.version}".strip(), why=why, hint=METRIC_HINT)


def require_at_least(metric: Metric, **least: int) -> None:
    """Raise a UsageError if a setting is below its least value."""
    for name, value in least.items():
        if getattr(metric, name) < value:
            message = f"{name} must be at least {value}, got {getattr(metric, name)}"
            raise UsageError(message, where=f"{metric.name}.{name}")
