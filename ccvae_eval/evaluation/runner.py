"""Runner: one pass over the images for all metrics of a plan, with each intervention decoded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from ccvae_eval.core.devices import exact_arithmetic
from ccvae_eval.core.results import Measurement
from ccvae_eval.core.types import Images
from ccvae_eval.evaluation.interventions import Intervention
from ccvae_eval.evaluation.metric import Decoded, Metric
from ccvae_eval.evaluation.plan import Plan, PlannedMetric, wanted_interventions
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.sandbox import require_measurement
from ccvae_eval.evaluation.subject import Subject, read_images
from ccvae_eval.model.checks import require_finite
from ccvae_eval.model.fixed_batches import Chunk
from ccvae_eval.statistics.resampling import ResampleWeights

Progress = Callable[[int, int], None]
Working = Callable[[str], None]
Ended = Callable[[Measurement], None]


def measure(subject: Subject, metrics: Sequence[Metric], *, progress: Progress | None = None) -> Run:
    """Measures metrics with distinct names on a subject; see :func:`run`."""
    return run(Plan.of(subject, metrics), progress)


@exact_arithmetic()
def run(
    plan: Plan, progress: Progress | None = None, working: Working | None = None, ended: Ended | None = None
) -> Run:
    """Runs a plan: the metrics that decode no image, one pass over the images, then the other metrics.

    Args:
        plan: the plan; it can be run once.
        progress: called with (images decoded, images to decode).
        working: called with the name of the metric at work.
        ended: called with each measurement as it ends, without remedies and references.

    Returns:
        The run, with one measurement for each metric in the order of the plan. A metric that fails does not affect the
        others.
    """
    step = _counted(plan, progress)
    for number, parts in enumerate(plan.passes):
        if number and plan.early is not None:
            plan.early(_run_of(plan))
        for part in parts:
            part.start()
        codes_only = [part for part in parts if not decodes([part])]
        decoding = [part for part in parts if decodes([part])]
        _measure(codes_only, plan.level, working, ended)
        _decode(decoding, step, working)
        _measure(decoding, plan.level, working, ended)
    return _run_of(plan)


@exact_arithmetic()
def update(plan: Plan, progress: Progress | None = None, working: Working | None = None) -> None:
    """One pass over the images of the plan's share: decodes them and updates the accumulators; see :func:`run`."""
    _decode(plan.parts, _counted(plan, progress), working, plan.share)


@exact_arithmetic()
def computed(plan: Plan, working: Working | None = None, ended: Ended | None = None) -> Run:
    """The run of a plan whose accumulators have seen all images; see :func:`run`."""
    _measure(plan.parts, plan.level, working, ended)
    return _run_of(plan)


def _counted(plan: Plan, progress: Progress | None) -> Callable[[int], None]:
    """A function that is called with each number of decoded images and reports their sum."""
    decoded, total = 0, plan.decode_groups(filter(decodes, plan.groups))

    def step(images: int) -> None:
        nonlocal decoded
        decoded += images
        if progress is not None:
            progress(decoded, total)

    return step


def _decode(
    parts: Sequence[PlannedMetric],
    step: Callable[[int], None],
    working: Working | None,
    share: tuple[int, int] = (1, 1),
) -> None:
    """One pass over the images for some metrics."""
    for group in filter(decodes, Plan.by_images(parts)):
        count = Plan.decodings(group)
        for chunk in group[0].subject.chunks(*share):
            _update(group, chunk, working)
            step(count * len(chunk))


def _measure(parts: Sequence[PlannedMetric], level: float, working: Working | None, ended: Ended | None) -> None:
    """The measurements of metrics whose accumulators have seen all images."""
    with threadpool_limits(limits=1, user_api="blas"):
        for part in parts:
            if working is not None:
                working(f"{part.metric.name}, intervals")
            part.measurement = _measurement(part, level)
            if ended is not None:
                ended(part.measurement)


def _run_of(plan: Plan) -> Run:
    """The run of the metrics that are measured; the others are recorded as lost."""
    measured = [part.measurement or part.lost() for part in plan.parts]
    if plan.advisor is not None:
        measured = [
            plan.advisor.explained(m, part.subject, regions=part.needs.regions)
            for m, part in zip(measured, plan.parts, strict=True)
        ]
    specs = {part.metric.name: part.metric.values for part in plan.parts}
    return Run(plan.header, tuple(measured), specs, {part.metric.name: part.subject.ids for part in plan.parts})


@exact_arithmetic()
def estimated_seconds(plan: Plan) -> float:
    """Time of the pass over the images, from two batches for each group of metrics.

    The first batch may be slow, so the time of one in the middle stands for all others.
    """
    total = 0.0
    for parts in plan.groups:
        subject = parts[0].subject
        count, seconds = -(-plan.images(subject) // subject.fixed_batch), []
        if not count or not decodes(parts):
            continue
        for number in (0, count // 2):
            start = perf_counter()
            _update(parts, _batch(subject, number))
            seconds.append(perf_counter() - start)
        total += seconds[0] + (count - 1) * seconds[1]
    return total


def _batch(subject: Subject, number: int) -> Chunk:
    """One fixed batch of a subject's images."""
    first = number * subject.fixed_batch
    rows = slice(first, min(first + subject.fixed_batch, len(subject)))
    images = read_images(subject.data, subject.ids[rows]).to(subject.device)
    return Chunk(rows, subject.ids[rows], images, subject.posterior.rows(rows), subject.codes[rows])


@exact_arithmetic()
def measure_blocks(subject: Subject, metric: Metric, blocks: Sequence[Sequence[Chunk]]) -> Measurement:
    """Measures one metric on blocks of images, each with an accumulator of its own.

    Args:
        subject: the model and its encoded images.
        metric: its accumulators must have ``merge``.
        blocks: chunks of the subject; the accumulators are merged in the order of the blocks.

    Returns:
        The measurement of all blocks.
    """
    parts = []
    for block in blocks:
        (part,) = Plan.of(subject, [metric]).parts
        for chunk in block:
            _update([part], chunk)
        parts.append(part)
    first, *others = parts
    for other in others:
        first.measurement = first.measurement or other.measurement  # of a block that failed
        first.attempt(partial(_merge, first, other), "merge(other)")
    with threadpool_limits(limits=1, user_api="blas"):
        return _measurement(first)


def _active(parts: Sequence[PlannedMetric]) -> list[PlannedMetric]:
    return [part for part in parts if part.active]


def decodes(parts: Sequence[PlannedMetric]) -> bool:
    """True if a metric needs decoded images."""
    active = _active(parts)
    return bool(wanted_interventions(active)) or any(part.needs.reconstruction for part in active)


def _update(parts: Sequence[PlannedMetric], chunk: Chunk, working: Working | None = None) -> None:
    """Decodes the requested interventions of one chunk, by characteristic, and updates the metrics."""
    subject, reconstruction = parts[0].subject, None
    if users := [part for part in _active(parts) if part.needs.reconstruction]:
        try:
            reconstruction = subject.decode(chunk.codes)
        except Exception as error:
            _fail(users, error)
    judgements: dict[Intervention | None, Mapping[str, Tensor]] = {}
    for characteristic, interventions in wanted_interventions(_active(parts)).items():
        images = _decoded(parts, chunk, interventions)
        batch = Decoded(subject, chunk, characteristic, reconstruction, images, judgements)
        for part in parts:
            if any(i.characteristic == characteristic for i in part.needs.interventions):
                if working is not None:
                    working(part.metric.name)
                part.attempt(partial(_update_one, part, batch), "update(batch)")


def _decoded(
    parts: Sequence[PlannedMetric], chunk: Chunk, interventions: Sequence[Intervention]
) -> dict[Intervention, Images]:
    """Decodes interventions; one that fails ends the metrics that requested it."""
    subject, images = parts[0].subject, dict[Intervention, Images]()
    for intervention in interventions:
        if users := [part for part in _active(parts) if intervention in part.needs.interventions]:
            try:
                images[intervention] = subject.decode(intervention.codes(subject, chunk), check=False)
            except Exception as error:
                _fail(users, error)
    # one question to the device for all images; which of them is not finite is asked only if one is
    if images and not bool(torch.stack([decoded.sum() for decoded in images.values()]).isfinite().all()):
        for intervention, decoded in images.items():
            try:
                require_finite(subject.model, decoded)
            except Exception as error:
                _fail([part for part in _active(parts) if intervention in part.needs.interventions], error)
    return images


def _fail(parts: Sequence[PlannedMetric], error: Exception) -> None:
    for part in parts:
        part.fail(error)


def _update_one(part: PlannedMetric, batch: Decoded) -> None:
    assert part.accumulator is not None
    part.accumulator.update(batch)


def _merge(part: PlannedMetric, other: PlannedMetric) -> None:
    accumulator: Any = part.accumulator
    accumulator.merge(other.accumulator)


def _measurement(part: PlannedMetric, level: float = 0.95) -> Measurement:
    def compute() -> None:
        assert part.accumulator is not None
        weights = ResampleWeights(part.subject.seed, len(part.subject), level=level)
        part.measurement = require_measurement(part.metric, part.accumulator.compute(weights))

    part.attempt(compute, "compute(weights)")
    assert part.measurement is not None
    return replace(part.measurement, seconds=part.seconds)
