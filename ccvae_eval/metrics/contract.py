"""What a metric must be.

A metric is a frozen dataclass; its fields are its settings, and so the options of its command and the record in the
run. ``run.evaluate`` asks what it needs, decodes each requested intervention once for all metrics, shows it to those
that asked, and collects the measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from ccvae_eval.data.contract import HasRegions
from ccvae_eval.interventions import Intervention
from ccvae_eval.judge import Judge
from ccvae_eval.measure import Measurement, ValueSpec
from ccvae_eval.statistics.resampling import ResampleWeights
from ccvae_eval.subject import Chunk, Subject
from ccvae_eval.types import Images, Plain


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

    def see(self, batch: Decoded) -> None:
        """Takes in one chunk under the interventions on one characteristic; called once for each pair of them."""
        ...

    def finish(self, weights: ResampleWeights) -> Measurement:
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
