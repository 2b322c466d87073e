"""Results of a metric: values with a confidence interval, a chance level, a reference and a sample size.

An undefined value is NaN with a reason, never 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # describing a metric needs no array library
    import numpy as np
    from numpy.typing import NDArray

    from ccvae_eval.core.types import Plain

Status = Literal["ok", "undefined", "unsupported", "failed"]

ORACLE = "the oracle, on synthetic data"
COUNT = "count"
"""Unit of values that are summed over the characteristics, not averaged."""
ANOTHER_IMAGE = "another image"
"""Name of the chance level of a comparison with another image, chosen at random."""
BY = "by"
"""Key in ``at`` of a value by class of another label: LABEL:CLASS, LABEL:worst or LABEL:gap."""
WORST, GAP = "worst", "gap"
"""In place of a class: the worst class, and the difference between the largest and the smallest value."""


class Method(StrEnum):
    """Methods of confidence intervals: the text in run.json and values.csv, and one line of description.

    A text in a run may add a condition ("projected bootstrap, conditional on the fit") or come from a third-party
    metric; means over such estimates use the bootstrap.
    """

    description: str

    def __new__(cls, text: str, description: str) -> Method:
        member = str.__new__(cls, text)
        member._value_ = text
        member.description = description
        return member

    NONE = "", "no interval"
    BOOTSTRAP = "bootstrap", "percentiles of the bootstrap resamples"
    BCA = "BCa", "percentiles of the resamples, corrected for bias and skewness (fewer than 300 images)"
    BASIC = "basic bootstrap", "resamples reflected at the value, which subtracts their bias"
    CENTRED = "centred and basic bootstrap", "basic bootstrap, extended to the resamples centred on the value"
    LOG_SCALE = "log-scale bootstrap", "studentised bootstrap of the logarithm of a ratio"
    PROJECTED = "projected bootstrap", "bootstrap of a ROC area, to first order in the image weights"
    SUBSAMPLING = "subsampling", "subsamples without replacement, rescaled to the number of images"
    FIELLER = "Fieller", "Fieller's interval of a ratio"
    WILSON = "wilson", "Wilson's score interval of a proportion"
    EXACT = "exact", "Clopper and Pearson's interval of a proportion"
    EXACT_BOUND = "exact bound", "exact bound for perfectly separated classes"
    EXTENDED = "bootstrap and exact bounds", "bootstrap of a mean, extended by the exact intervals of its perfect parts"
    KORN_GRAUBARD = "exact, effective images", "exact interval at the effective number of images"
    MOVER = "exact, squares added", "exact intervals of the parts, combined as a root of summed squares"
    WELCH = "welch", "Welch's interval of a difference of means"
    STUDENT = "t over training seeds", "Student's t interval; the unit is the training seed"
    VOTES = "of the votes", "interval over the votes of a score"
    CLASSES = "of independent classes", "intervals of the classes of another label, combined"

    @classmethod
    def of_mean(cls, methods: Iterable[str]) -> Method:
        """Method of a mean of estimates: closed form, reflected resamples, or percentiles of the mean resamples.

        >>> Method.of_mean(["wilson", "exact, effective images"]).value
        'exact, squares added'
        >>> Method.of_mean(["wilson", "basic bootstrap"]).value, Method.of_mean(["wilson", "from a plugin"]).value
        ('basic bootstrap', 'bootstrap')
        """
        found = set(methods)
        if found and found <= {cls.WILSON, cls.KORN_GRAUBARD, cls.MOVER}:
            return cls.MOVER
        # the mean has the bias of parts with a basic interval
        return cls.BASIC if cls.BASIC in found else cls.BOOTSTRAP


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95% confidence interval.

    Args:
        value: the point estimate; NaN = undefined.
        low, high: limits of the interval; NaN without an interval.
        n: number of images used.
        method: a :class:`Method`, or another text from a third-party metric; "" without an interval.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    method: str = Method.NONE

    @property
    def defined(self) -> bool:
        """True if the value is a number."""
        return not math.isnan(self.value)


EVERY_UNDEFINED = "undefined for every characteristic"
"""Note of a mean; the reasons may follow after a colon."""
TOO_FEW_IMAGES = re.compile(r"only \d+ images of (?:class .*|a class), (?P<least>\d+) are needed")
"""Form of :func:`too_few_images`."""


def too_few_images(count: int, least: int, class_name: str = "") -> str:
    """Reason of an undefined value: a class has fewer images than the value needs.

    >>> too_few_images(3, 20, "Bald"), TOO_FEW_IMAGES.fullmatch(too_few_images(3, 20))["least"]
    ('only 3 images of class Bald, 20 are needed', '20')
    """
    return f"only {count} images of {f'class {class_name}' if class_name else 'a class'}, {least} are needed"


def undefined(n: int = 0) -> Estimate:
    """Returns the estimate of an undefined value."""
    return Estimate(math.nan, n=n)


@dataclass(frozen=True, slots=True)
class ValueSpec:
    """Description of one value of a metric, for reports and ``explain``.

    Args:
        summary: the meaning of the number in one line.
        unit: "", "bits", "nats", "pixels", "share", ...
        higher_is_better: True, False, or None if neither is better.
        range: least and greatest possible value; None = unbounded.
        chance: name of the null model that gives the chance level; "" without one.
        needs_judge: True if the judge enters the number.
        dials: names of the calibration perturbations that this value detects.
        no_chance: why the value has no chance level.
        reference: name of the source of the reference value.
    """

    summary: str
    unit: str = ""
    higher_is_better: bool | None = None
    range: tuple[float | None, float | None] = (None, None)
    chance: str = ""
    needs_judge: bool = False
    dials: tuple[str, ...] = ()
    no_chance: str = ""
    reference: str = ORACLE


def spec_at(spec: ValueSpec, at: Mapping[str, object]) -> ValueSpec:
    """The description of a value at some coordinates: a gap between classes is at least 0, and best if it is 0.

    >>> spec_at(ValueSpec("focus", higher_is_better=True, range=(-1.0, 1.0)), {"by": "Male:gap"}).range
    (0.0, 2.0)
    """
    if summary_of(at) != GAP:
        return spec
    least, most = spec.range
    span = None if least is None or most is None else most - least
    return replace(spec, higher_is_better=None if spec.higher_is_better is None else False, range=(0.0, span))


def summary_of(at: Mapping[str, object]) -> str:
    """``worst`` or ``gap`` if a value summarises the classes of another label; "" for any other value.

    >>> summary_of({"by": "Male:gap"}), summary_of({"by": "Male:present"})
    ('gap', '')
    """
    last = str(at.get(BY, "")).rpartition(":")[2]
    return last if last in (WORST, GAP) else ""


@dataclass(frozen=True, slots=True)
class Value:
    """One number of a measurement. (metric, name, characteristic, at) is unique in a run.

    Args:
        name: a key of the metric's ``values``.
        estimate: the number with its interval.
        characteristic: the characteristic it belongs to; None = the mean over characteristics.
        at: further coordinates (judged label, from and to class, strength, latent dimension, matcher).
        excluded: images (for a mean: characteristics) left out because the value is undefined for them.
        chance: the chance level; None without one.
        reference: the oracle's value on these data; None if unknown.
        note: why the value is undefined, or a marker for the reader ("assigned", "given").
        in_mean: True if a defined value enters the mean over characteristics.
        remedy: for an undefined value the options to add to the command, or another command.
    """

    name: str
    estimate: Estimate
    characteristic: str | None = None
    at: Mapping[str, str | int | float] = field(default_factory=dict)
    excluded: int = 0
    chance: float | None = None
    reference: float | None = None
    note: str = ""
    in_mean: bool = False
    remedy: str = ""

    @property
    def key(self) -> tuple[str, str | None, tuple[tuple[str, str | int | float], ...]]:
        """Identifies the value within its measurement."""
        return self.name, self.characteristic, tuple(sorted(self.at.items()))


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a measurement is not ok: a code for programs, a text for people, and what to type."""

    code: str
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Result of one metric on one subject.

    Args:
        metric, version: the metric's definition.
        settings: the metric's fields.
        values: the numbers; the first of each name with ``characteristic`` None is the mean over characteristics.
        headline: name of the value to show first.
        status, reason: success or failure, and its cause.
        evidence: per-image contributions, name -> array with one row for each image of the sample.
        pictures: arrays for the metric's figures; stored in pictures.npz, never in run.json.
        notes: sentences for the reader (proportion of clipped ranks, excluded labels, ...).
        seconds: wall time spent in this metric.
        names: names that figures show: ``labels`` of the model in their order, ``ids`` of single images, and
            ``classes/LABEL``; filled in for a figure, never stored.
    """

    metric: str
    version: int
    settings: Mapping[str, Plain]
    headline: str
    values: tuple[Value, ...] = ()
    status: Status = "ok"
    reason: Reason | None = None
    evidence: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    pictures: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def mean_value(name: str, values: list[Value], estimate: Estimate) -> Value:
    """Returns the row of the mean over characteristics, given their rows and the mean as an estimate.

    The row counts the undefined characteristics. Its chance level and reference are means over the defined ones; the
    reference is None unless every defined characteristic has one.
    """
    import numpy as np

    chances = [v.chance for v in values if v.chance is not None and v.estimate.defined]
    references = [v.reference for v in values if v.estimate.defined]
    known = [reference for reference in references if reference is not None]
    return Value(
        name,
        estimate,
        excluded=sum(not v.estimate.defined for v in values),
        chance=float(np.mean(chances)) if chances else None,
        reference=float(np.mean(known)) if known and len(known) == len(references) else None,
        note="" if estimate.defined else EVERY_UNDEFINED,
    )
