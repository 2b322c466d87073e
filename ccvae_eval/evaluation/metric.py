"""What a metric must be.

A metric is a frozen dataclass; its fields are its settings, and so the options of its command and the record in the
run. ``run.evaluate`` asks what it needs, decodes each requested intervention once for all metrics, shows it to those
that asked, and collects the measurements.

Errors of strangers' models and metrics: who it was, where it is written, in which call, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from ccvae_eval.core.errors import CcvaeEvalError, PluginError
from ccvae_eval.core.results import Measurement, ValueSpec
from ccvae_eval.core.types import Images, Plain
from ccvae_eval.data.interface import HasRegions
from ccvae_eval.evaluation.interventions import Intervention
from ccvae_eval.evaluation.subject import Chunk, Subject
from ccvae_eval.judge import Judge
from ccvae_eval.plugins import registry
from ccvae_eval.statistics.resampling import ResampleWeights


@dataclass(frozen=True, slots=True)
class Needs:
    """What a metric asks of the pass.

    Args:
        interventions: what to decode, for every image.
        reconstruction: whether it needs the decoding of the image's own code.
        judge: whether it uses the judge (it must also work without one).
        regions: whether it uses regions (it must also work without).
        images: False if it works on points too.
        characteristics: False if it does not look at characteristics: of a model without any it is then shown all
            images, and not only the half on which no columns were assigned.
        own: images that it decodes by itself, for each image of the sample.
    """

    interventions: tuple[Intervention, ...] = ()
    reconstruction: bool = False
    judge: bool = False
    regions: bool = False
    images: bool = True
    characteristics: bool = True
    own: int = 0

    def decodings(self) -> int:
        """Images decoded for each image of the sample."""
        return len(self.interventions) + self.reconstruction + self.own


@dataclass
class Decoded:
    """One chunk of images under the interventions on one characteristic, as every metric sees it.

    Args:
        subject, chunk: whose.
        characteristic: the characteristic that was intervened on; "" for what is about no single one.
        reconstruction: the decoding of the chunk's own codes.
        images: what each intervention on this characteristic gives.
        judgements: what the judge has said of this chunk so far, shared between characteristics.
    """

    subject: Subject
    chunk: Chunk
    characteristic: str
    reconstruction: Images | None
    images: Mapping[Intervention, Images]
    judgements: dict[object, Mapping[str, Tensor]] = field(default_factory=dict)

    @cached_property
    def region(self) -> Tensor | None:
        """Where the characteristic lives, shape (n, H, W), bool, on the CPU; None if it has no region here."""
        data = self.subject.data
        if not isinstance(data, HasRegions):
            return None
        found = data.region(self.chunk.ids, self.characteristic)
        return None if found is None else torch.from_numpy(found)

    def judged(self, of: Intervention | None = None) -> Mapping[str, Tensor]:
        """The judge's log-probabilities (n, K) of each label for one intervention; None = the reconstruction.

        Computed once for all metrics. Without a judge this is empty.
        """
        judge: Judge | None = self.subject.judge
        if judge is None:
            return {}
        if of not in self.judgements:
            images = self.reconstruction if of is None else self.images[of]
            assert images is not None, "the metric did not ask for the reconstruction"
            self.judgements[of] = judge.log_probabilities(images)
        return self.judgements[of]


class Accumulator(Protocol):
    """One metric in the middle of one pass."""

    def update(self, batch: Decoded) -> None:
        """Takes in one chunk under the interventions on one characteristic; called once for each pair of them."""
        ...

    def compute(self, weights: ResampleWeights) -> Measurement:
        """The measurement. ``weights`` resample the subject's images, in their order, the same for all metrics."""
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
        """What to decode; raises ``UnsupportedError`` where the model or the data lack what it cannot do without."""
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
"""Names that a metric may declare in ``laws``; the contract suite has one test for each."""


def settings_of(metric: Metric) -> dict[str, Plain]:
    """The metric's fields as plain data."""
    if not is_dataclass(metric) or isinstance(metric, type):
        raise TypeError(f"{metric!r} is no dataclass")
    return {key: _plain(value) for key, value in asdict(metric).items()}


def _plain(value: Any) -> Plain:
    if isinstance(value, tuple | list | frozenset | set):
        return [_plain(v) for v in value]
    return value


METRIC_HINT = "`ccvae-eval new metric NAME` writes one to start from; `ccvae-eval check NAME` tries it."
METRIC_MEMBERS = ("name", "version", "values", "headline", "laws", "default_sample", "needs", "start")


def metric_class(name: str) -> Any:
    """The registered class of a metric.

    Raises:
        UsageError: it is unknown.
        PluginError: it cannot be imported, or is no dataclass.
    """
    entry = registry.metrics.find(name)
    kind: Any = entry.load()
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise PluginError(
            f"{name!r} is no metric", where=_where(entry), why="it is no dataclass of settings", hint=METRIC_HINT
        )
    return kind


def made_metric(name: str, settings: Mapping[str, Any]) -> Metric:
    """A registered metric with these settings.

    Raises:
        PluginError: it cannot be made, or lacks what a metric has.
    """
    kind, where = metric_class(name), _where(registry.metrics.find(name))
    try:
        metric: Any = kind(**settings)
    except CcvaeEvalError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise PluginError(f"metric {name!r} cannot be made", where=where, why=why, hint=METRIC_HINT) from error
    if not isinstance(metric, Metric):
        lacking = [member for member in METRIC_MEMBERS if not hasattr(metric, member)]
        raise PluginError(f"{name!r} is no metric", where=where, why=f"no {', '.join(lacking)}", hint=METRIC_HINT)
    return metric


def _where(entry: registry.Registration) -> str:
    return f"{entry.distribution} {entry.version}".strip()
