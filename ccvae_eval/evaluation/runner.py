"""Evaluation of a subject: one pass over its images for all metrics, with each intervention decoded once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from ccvae_eval.core.devices import exact_arithmetic
from ccvae_eval.core.errors import CcvaeEvalError, NonFiniteError, PluginError, UndefinedError, UnsupportedError
from ccvae_eval.core.results import Measurement, Reason, Status
from ccvae_eval.core.types import Images
from ccvae_eval.evaluation.deprecated import as_accumulator
from ccvae_eval.evaluation.interventions import Intervention
from ccvae_eval.evaluation.metric import Accumulator, Decoded, Metric, Needs, settings_of
from ccvae_eval.evaluation.pictures import IMAGE_DIMENSIONS
from ccvae_eval.evaluation.run import Header, Run
from ccvae_eval.evaluation.sandbox import guarded, require_measurement
from ccvae_eval.evaluation.subject import Chunk, Subject
from ccvae_eval.model.fixed_batches import FIXED_BATCH
from ccvae_eval.statistics.resampling import ResampleWeights

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """Cost of a run, known before it starts.

    Args:
        encode: number of images to encode.
        decode: number of images to decode; equal interventions of several metrics count once.
    """

    encode: int
    decode: int


@dataclass
class _Part:
    """One metric in the pass: its accumulator, or its measurement once it has finished or failed."""

    metric: Metric
    subject: Subject
    needs: Needs = field(default_factory=Needs)
    accumulator: Accumulator | None = None
    measurement: Measurement | None = None
    seconds: float = 0.0

    def start(self) -> None:
        self.needs = self.metric.needs(self.subject)
        if self.needs.images and len(self.subject.data.input_shape) != IMAGE_DIMENSIONS:
            raise UnsupportedError(f"{self.metric.name} needs images, but this data set contains points")
        self.accumulator = as_accumulator(self.metric.start(self.subject))

    def update(self, batch: Decoded) -> None:
        assert self.accumulator is not None
        self.accumulator.update(batch)

    def compute(self) -> None:
        assert self.accumulator is not None
        weights = ResampleWeights(self.subject.seed, len(self.subject))
        self.measurement = require_measurement(self.metric, self.accumulator.compute(weights))

    def attempt(self, step: Callable[[], None], call: str) -> None:
        """Runs one step of this metric; an exception ends this metric alone."""
        if self.measurement is not None:
            return
        started = perf_counter()
        try:
            with guarded(self.metric, self.subject.model, call):
                step()
        except Exception as error:
            log.debug("metric %s", self.metric.name, exc_info=True)
            self.measurement = _failure(self.metric, error)
        self.seconds += perf_counter() - started


def _failure(metric: Metric, error: Exception) -> Measurement:
    """The measurement of a metric that raised an exception: undefined, unsupported or failed."""
    status: Status = "failed"
    code = error.code if isinstance(error, NonFiniteError | PluginError) else "error"
    if isinstance(error, UnsupportedError | UndefinedError):
        status, code = "unsupported" if isinstance(error, UnsupportedError) else "undefined", error.code
    elif isinstance(error, MemoryError | torch.OutOfMemoryError):
        code = "oom"
    text = str(error) if isinstance(error, CcvaeEvalError) else f"{type(error).__name__}: {error}"
    return Measurement(
        metric.name, metric.version, settings_of(metric), metric.headline, status=status, reason=Reason(code, text)
    )


def _groups(metrics: Sequence[Metric], subject: Subject, own_samples: bool) -> list[list[_Part]]:
    """The metrics in groups that use the same images.

    If latent dimensions were assigned on half of the images, metrics that use no characteristics get all images.
    """
    subjects: dict[tuple[bool, int], Subject] = {}
    groups: dict[tuple[bool, int], list[_Part]] = {}
    for metric in metrics:
        unrestricted = subject.unrestricted is not None and not needs_characteristics(metric, subject)
        base = subject.unrestricted if unrestricted and subject.unrestricted is not None else subject
        key = unrestricted, min(metric.default_sample, len(base)) if own_samples else len(base)
        if key not in subjects:
            subjects[key] = base.subsample(key[1])
        part = _Part(metric, subjects[key])
        part.attempt(part.start, "needs(subject) or start(subject)")
        groups.setdefault(key, []).append(part)
    return list(groups.values())


def needs_characteristics(metric: Metric, subject: Subject) -> bool:
    """True if a metric uses characteristics, or if its ``needs`` fails."""
    try:
        return metric.needs(subject).characteristics
    except Exception:
        return True


def needs_judge(metric: Metric, subject: Subject) -> bool:
    """True if a metric uses the judge; False if its ``needs`` fails."""
    try:
        return metric.needs(subject).judge
    except Exception:
        return False


def _active(parts: Sequence[_Part]) -> list[_Part]:
    """The metrics that have neither finished nor failed."""
    return [part for part in parts if part.measurement is None]


def _wanted(parts: Sequence[_Part]) -> dict[str, list[Intervention]]:
    """Distinct interventions of the active metrics for each characteristic, in the order of the first request."""
    wanted: dict[str, dict[Intervention, None]] = {}
    for part in _active(parts):
        for intervention in part.needs.interventions:
            wanted.setdefault(intervention.characteristic, {})[intervention] = None
    return {name: list(interventions) for name, interventions in wanted.items()}


def plan_of(subject: Subject, metrics: Sequence[Metric], *, own_samples: bool = False) -> Plan:
    """Number of images that a run will encode and decode."""
    decode = 0
    for parts in _groups(metrics, subject, own_samples):
        alive = _active(parts)
        each = sum(map(len, _wanted(alive).values())) + any(part.needs.reconstruction for part in alive)
        each += sum(part.needs.own for part in alive)
        decode += each * len(parts[0].subject)
    return Plan(len(subject), decode)


@exact_arithmetic()
def evaluate(
    subject: Subject,
    metrics: Sequence[Metric],
    *,
    header: Header | None = None,
    own_samples: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Evaluates a subject under several metrics in one pass.

    Args:
        subject: the model and its encoded images.
        metrics: metrics with distinct names.
        header: description of the run.
        own_samples: restricts each metric to its ``default_sample`` images.
        progress: called with (batches done, batches).

    Returns:
        The run, with one measurement for each metric in the given order. A metric that fails does not affect the
        others.
    """
    groups = _groups(metrics, subject, own_samples)
    decoding = [parts for parts in groups if _decodes(parts)]
    total = sum(-(-len(parts[0].subject) // FIXED_BATCH) for parts in decoding)
    done = 0
    for parts in decoding:
        for chunk in parts[0].subject.chunks():
            _update(parts, chunk)
            done += 1
            if progress is not None:
                progress(done, total)
    parts_by_name = {part.metric.name: part for parts in groups for part in parts}
    with threadpool_limits(limits=1, user_api="blas"):
        measured = tuple(_computed(parts_by_name[metric.name]) for metric in metrics)
    ids: dict[str, NDArray[np.int64]] = {name: part.subject.ids for name, part in parts_by_name.items()}
    return Run(header or Header(seed=subject.seed), measured, {m.name: m.values for m in metrics}, ids)


def _decodes(parts: Sequence[_Part]) -> bool:
    alive = _active(parts)
    return bool(_wanted(alive)) or any(part.needs.reconstruction for part in alive)


def _update(parts: Sequence[_Part], chunk: Chunk) -> None:
    """Decodes the requested interventions of one chunk, by characteristic, and updates the metrics."""
    subject = parts[0].subject
    alive = _active(parts)
    reconstruction: Images | None = None
    if any(part.needs.reconstruction for part in alive):
        try:
            reconstruction = subject.decode(chunk.codes)
        except Exception as error:
            _fail([part for part in alive if part.needs.reconstruction], error)
    judgements: dict[object, Mapping[str, Tensor]] = {}
    for characteristic, interventions in _wanted(alive).items():
        images: dict[Intervention, Images] = {}
        for intervention in interventions:
            users = [part for part in _active(parts) if intervention in part.needs.interventions]
            if not users:
                continue
            try:
                images[intervention] = subject.decode(intervention.codes(subject, chunk))
            except Exception as error:
                _fail(users, error)
        batch = Decoded(subject, chunk, characteristic, reconstruction, images, judgements)
        for part in alive:
            if any(i.characteristic == characteristic for i in part.needs.interventions):
                part.attempt(partial(part.update, batch), "update(batch)")


def _fail(parts: Sequence[_Part], error: Exception) -> None:
    log.debug("decoding", exc_info=error)
    for part in parts:
        part.measurement = _failure(part.metric, error)


def _computed(part: _Part) -> Measurement:
    part.attempt(part.compute, "compute(weights)")
    assert part.measurement is not None
    return replace(part.measurement, seconds=part.seconds)
