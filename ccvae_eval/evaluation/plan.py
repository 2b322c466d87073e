"""Plan of a run: what each metric needs, asked once, and how many images the run will encode and decode."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import torch

from ccvae_eval.core.devices import exact_arithmetic
from ccvae_eval.core.errors import CcvaeEvalError, NonFiniteError, PluginError, UndefinedError, UnsupportedError
from ccvae_eval.core.results import Measurement, Reason, Status
from ccvae_eval.evaluation.deprecated import as_accumulator
from ccvae_eval.evaluation.interventions import Intervention
from ccvae_eval.evaluation.metric import Accumulator, Metric, Needs, settings_of
from ccvae_eval.evaluation.pictures import IMAGE_DIMENSIONS
from ccvae_eval.evaluation.remedies import Advisor, Problem, joined, problems
from ccvae_eval.evaluation.run import Header, Run
from ccvae_eval.evaluation.sandbox import guarded
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.plugins.attribution import is_builtin, name_and_origin, time_limit

log = logging.getLogger(__name__)


@dataclass
class PlannedMetric:
    """One metric of a plan: its images, its needs, and its accumulator or, once it has ended, its measurement.

    Args:
        metric: the metric.
        subject: the subject, restricted to the metric's images.
        needs: what the metric asked for.
        accumulator: its state during the pass over the images.
        measurement: its result; set early if a step of the metric raised an exception.
        seconds: wall time spent in this metric.
        limit: the most seconds that may be spent in it; None = no limit.
    """

    metric: Metric
    subject: Subject
    needs: Needs = field(default_factory=Needs)
    accumulator: Accumulator | None = None
    measurement: Measurement | None = None
    seconds: float = 0.0
    limit: float | None = None

    @property
    def active(self) -> bool:
        """True until the metric has finished or failed."""
        return self.measurement is None

    def attempt(self, step: Callable[[], None], call: str) -> None:
        """Runs one step of this metric; an exception ends this metric alone."""
        if not self.active:
            return
        started = perf_counter()
        left = None if self.limit is None else self.limit - self.seconds
        try:
            with guarded(self.metric, self.subject.model, call), time_limit(left, f"took longer than {self.limit} s"):
                step()
        except Exception as error:
            self.fail(error)
        self.seconds += perf_counter() - started

    def fail(self, error: Exception) -> None:
        """Ends this metric as undefined, unsupported or failed."""
        log.debug("metric %s", self.metric.name, exc_info=error)
        status: Status = "failed"
        code = error.code if isinstance(error, NonFiniteError | PluginError) else "error"
        if isinstance(error, UnsupportedError | UndefinedError):
            status, code = "unsupported" if isinstance(error, UnsupportedError) else "undefined", error.code
        elif isinstance(error, MemoryError | torch.OutOfMemoryError):
            code = "oom"
        elif isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError):
            code = "timeout"
        text = str(error) if isinstance(error, CcvaeEvalError) else f"{type(error).__name__}: {error}"
        self.measurement = self._without_values(status, Reason(code, text))

    def lost(self) -> Measurement:
        """The measurement to record if this metric ends the process."""
        name, origin = name_and_origin(self.metric)
        text = f"the process ended while metric {name} of {origin} was at work; the other metrics are complete"
        return self._without_values("failed", Reason("crashed", text))

    def _without_values(self, status: Status, reason: Reason) -> Measurement:
        m = self.metric
        return Measurement(m.name, m.version, settings_of(m), m.headline, status=status, reason=reason)

    def ask(self) -> None:
        """Asks the metric for its needs."""
        self.needs = self.metric.needs(self.subject)
        if self.needs.images and len(self.subject.data.input_shape) != IMAGE_DIMENSIONS:
            raise UnsupportedError(f"{self.metric.name} needs images, but this data set contains points")

    def start(self) -> None:
        """Creates the metric's accumulator."""
        if self.accumulator is None:
            self.attempt(self._start, "start(subject)")

    def _start(self) -> None:
        self.accumulator = as_accumulator(self.metric.start(self.subject))


@dataclass
class Plan:
    """The metrics of a run with their images, needs and accumulators; create it with :meth:`of`, run it once.

    Args:
        subject: the model and its images; the unrestricted subject if no metric uses characteristics.
        parts: the metrics, in the order of the run.
        header: description of the run.
        advisor: finds remedies for undefined values; None leaves them out.
        level: confidence level of the intervals.
        early: called with the run of the built-in metrics before third-party ones begin, which can end the process.
            They then get a pass of their own over the images. None = one pass for all.
        share: (i, n) = decode only the images of every n-th block, from the i-th on, see ``Subject.blocks``. Such a
            plan is not to be run, but to be given to :func:`~ccvae_eval.evaluation.runner.update`.
    """

    subject: Subject
    parts: tuple[PlannedMetric, ...]
    header: Header = field(default_factory=Header)
    advisor: Advisor | None = None
    level: float = 0.95
    early: Callable[[Run], None] | None = None
    share: tuple[int, int] = (1, 1)

    @classmethod
    @exact_arithmetic()
    def of(
        cls,
        subject: Subject,
        metrics: Sequence[Metric],
        *,
        own_samples: bool = False,
        advisor: Advisor | None = None,
        notice: Callable[[str], None] | None = None,
        train: bool = True,
        limit: float | None = None,
        early: Callable[[Run], None] | None = None,
    ) -> Plan:
        """Asks each metric once for its needs, trains the judge if one of them uses it, and starts the metrics.

        If latent dimensions were assigned on half of the images, a metric that uses no characteristics gets all images.

        Args:
            subject: the model and its encoded images.
            metrics: metrics with distinct names.
            own_samples: restricts each metric to its ``default_sample`` images.
            advisor: finds remedies for undefined values.
            notice: called with what will be undefined, before a judge is trained.
            train: False trains no judge; such a plan shows what would be done, and is not to be run.
            limit: the most seconds that may be spent in one metric.
            early: see :class:`Plan`.
        """
        samples: dict[tuple[bool, int], Subject] = {}

        def images_of(metric: Metric, base: Subject, unrestricted: bool) -> Subject:
            size = min(metric.default_sample, len(base)) if own_samples else len(base)
            return samples.setdefault((unrestricted, size), base.subsample(size))

        parts = [PlannedMetric(m, images_of(m, subject, unrestricted=False), limit=limit) for m in metrics]
        for part in parts:
            part.attempt(part.ask, "needs(subject)")
            if subject.unrestricted is not None and not part.needs.characteristics:
                part.subject = images_of(part.metric, subject.unrestricted, unrestricted=True)
        if advisor is not None and notice is not None:
            for problem in _foreseen(parts, advisor):
                notice(str(problem))
        planned = cls(subject, tuple(parts), Header(seed=subject.seed), advisor, early=early)
        if train and planned.trains_judge:
            subject.judge_source.require()
        if subject.unrestricted is not None and not any(part.needs.characteristics for part in parts):
            planned.subject = subject.unrestricted
        for part in planned.passes[0]:  # the others are started when these are measured
            part.start()
        return planned

    @property
    def trains_judge(self) -> bool:
        """True if a judge is still to be trained."""
        # to learn whether the decoder can be judged costs a decoded batch, so it is asked last
        return self.subject.judge_source.trainable and any(
            part.active and part.needs.judge and part.subject.can_be_judged for part in self.parts
        )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return tuple(part.metric for part in self.parts)

    @property
    def passes(self) -> list[list[PlannedMetric]]:
        """The metrics that are measured together: all of them, or first the built-in and then the third-party ones."""
        if self.early is None:
            return [list(self.parts)]
        own = [part for part in self.parts if is_builtin(part.metric)]
        others = [part for part in self.parts if not is_builtin(part.metric)]
        return [parts for parts in (own, others) if parts]

    @property
    def groups(self) -> list[list[PlannedMetric]]:
        """The metrics in groups that use the same images in the same pass."""
        return [group for parts in self.passes for group in self.by_images(parts)]

    @staticmethod
    def by_images(parts: Sequence[PlannedMetric]) -> list[list[PlannedMetric]]:
        """Metrics in groups that use the same images."""
        groups: dict[int, list[PlannedMetric]] = {}
        for part in parts:
            groups.setdefault(id(part.subject), []).append(part)
        return list(groups.values())

    @property
    def encode(self) -> int:
        """Number of images to encode."""
        return len(self.subject)

    @property
    def decode(self) -> int:
        """Number of images to decode; equal interventions of several metrics count once."""
        return self.decode_groups(self.groups)

    def decode_groups(self, groups: Iterable[Sequence[PlannedMetric]]) -> int:
        """Number of images to decode for some groups."""
        return sum(self.decodings(parts) * self.images(parts[0].subject) for parts in groups)

    def images(self, subject: Subject) -> int:
        """Number of a subject's images in the share."""
        return sum(map(len, subject.blocks(*self.share)))

    @staticmethod
    def decodings(parts: Sequence[PlannedMetric]) -> int:
        """Number of images decoded for each image of a group."""
        active = [part for part in parts if part.active]
        each = sum(map(len, wanted_interventions(active).values())) + sum(part.needs.own for part in active)
        return each + any(part.needs.reconstruction for part in active)


def _foreseen(parts: Sequence[PlannedMetric], advisor: Advisor) -> list[Problem]:
    """What the metrics will not be able to measure."""
    found = []
    for part in parts:
        if part.measurement is not None:
            found += problems([advisor.explained(part.measurement, part.subject)])
        else:
            moved = frozenset(intervention.characteristic for intervention in part.needs.interventions)
            found += advisor.foreseen(part.metric.name, part.subject, regions=part.needs.regions, moved=moved)
    return joined(found)


def wanted_interventions(parts: Sequence[PlannedMetric]) -> dict[str, list[Intervention]]:
    """Distinct interventions of the metrics for each characteristic, in the order of the first request."""
    wanted: dict[str, dict[Intervention, None]] = {}
    for part in parts:
        for intervention in part.needs.interventions:
            wanted.setdefault(intervention.characteristic, {})[intervention] = None
    return {name: list(interventions) for name, interventions in wanted.items()}
