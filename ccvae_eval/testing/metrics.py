"""Conformance tests of metrics, and of the feature extractors and matchers that metrics use.

A metric is tested for the form of its measurement and for every law that it declares (``evaluation.metric.LAWS``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ccvae_eval.core.errors import NonFiniteError, require
from ccvae_eval.core.results import Measurement, Value
from ccvae_eval.data.sets.faces.dataset import Faces
from ccvae_eval.evaluation.metric import LAWS, Metric, settings_of
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.matchers.interface import Matcher, Matches
from ccvae_eval.metrics.shared.features import Features
from ccvae_eval.model.fixed_batches import FIXED_BATCH
from ccvae_eval.testing.metric_fixtures import MetricFixture, NotFinite, PermutedLabels, Reordered, Rescaled

SAME = 1e-9
"""Relative tolerance for sums over characteristics in another order."""

RESCALED = 1e-6
"""Relative tolerance for rescaled codes: fits on standardised codes differ by rounding."""

CHANCE_HALF_WIDTHS = 2.0
"""Allowed distance from chance for permuted labels, in half-widths of the 95% confidence interval."""

CODE_UNIT = "code"
"""Unit of values in units of the latent space, which rescaling changes."""


def check_metric(metric: Metric, fixture: MetricFixture) -> None:
    """Tests the form of a metric and every law that it declares.

    Args:
        metric: the metric with its default settings, which ``fixture.settings`` overrides.
        fixture: the model and images to test it on.

    Raises:
        ContractBroken: a test fails; the message names the metric and the requirement.
    """
    who = getattr(metric, "name", type(metric).__name__)
    _check_form(metric, who)
    metric = replace(metric, **fixture.settings.get(metric.name, {}))  # type: ignore[type-var]
    plain = _measured(metric, fixture)
    _check_measurement(metric, plain, len(fixture.ids), who)
    for law in sorted(metric.laws):
        CHECKS[law](metric, fixture, plain)


def _check_form(metric: Metric, who: str) -> None:
    require(isinstance(metric, Metric), who, "a metric must have every member of ccvae_eval.evaluation.metric.Metric")
    require(is_dataclass(metric), who, "a metric must be a dataclass")
    require(type(metric).__dataclass_params__.frozen, who, "the dataclass must be frozen")  # type: ignore[attr-defined]
    doc = (type(metric).__doc__ or "").strip()
    own = bool(doc) and not doc.startswith(f"{type(metric).__name__}(")
    require(own and len(doc.splitlines()[0]) <= 120, who, "the docstring must begin with a summary of one line")
    require(metric.headline in metric.values, who, f"the headline {metric.headline!r} must be a key of values")
    unknown = set(metric.laws) - LAWS
    require(not unknown, who, f"laws must be among {', '.join(sorted(LAWS))}, got {', '.join(sorted(unknown))}")
    for field in fields(metric):  # type: ignore[arg-type]
        require(hasattr(metric, field.name), who, f"setting {field.name!r} must have a default")
    try:
        json.dumps(settings_of(metric), allow_nan=False)
    except (TypeError, ValueError):
        require(False, who, "settings must be plain values")
    for name, spec in metric.values.items():
        require(bool(spec.summary), who, f"value {name!r} must have a summary")
        low, high = spec.range
        require(low is None or high is None or low < high, who, f"the range of {name!r} must be in ascending order")


def _run(metric: Metric, fixture: MetricFixture, batch_size: int = 256) -> Run:
    subject = prepare(fixture.model, fixture.data, fixture.ids, judge=fixture.judge, batch_size=batch_size)
    return measure(subject, [metric])


def _measured(metric: Metric, fixture: MetricFixture, batch_size: int = 256) -> Measurement:
    return _run(metric, fixture, batch_size).measurement(metric.name)


def _check_measurement(metric: Metric, found: Measurement, images: int, who: str) -> None:
    reason = found.reason.text if found.reason else ""
    require(found.status == "ok", who, f"the status must be ok on the test fixture, got {found.status} {reason}")
    signed = found.metric == metric.name and found.version == metric.version
    require(signed, who, "the measurement must have the metric's name and version")
    require(dict(found.settings) == settings_of(metric), who, "the measurement must record the metric's settings")
    keys = [value.key for value in found.values]
    require(len(set(keys)) == len(keys), who, "(name, characteristic, at) must be unique")
    names = {value.name for value in found.values}
    without = names - set(metric.values)
    require(not without, who, f"every value must have a spec, missing for {', '.join(sorted(without))}")
    require(metric.headline in names, who, "the headline must be among the values")
    for value in found.values:
        _check_value(metric, value, images, who)
    for name, array in found.evidence.items():
        require(len(array) == images, who, f"evidence {name!r} must have one row for each image")


def _check_value(metric: Metric, value: Value, images: int, who: str) -> None:
    spec, estimate = metric.values[value.name], value.estimate
    where = f"{value.name} of {value.characteristic or 'the mean'} {dict(value.at) or ''}".strip()
    if not estimate.defined:
        require(bool(value.note), who, f"{where} is undefined and must give the reason in its note")
        return
    low, high = spec.range
    slack = SAME * max(1.0, abs(estimate.value))
    inside = (low is None or estimate.value >= low - slack) and (high is None or estimate.value <= high + slack)
    require(inside, who, f"{where} must be in [{low}, {high}], got {estimate.value}")
    if not (math.isnan(estimate.low) or math.isnan(estimate.high)):
        require(estimate.low <= estimate.high, who, f"the interval of {where} must be in ascending order")
        require(bool(estimate.method), who, f"the interval of {where} must name its method")
    require(0 < estimate.n <= images, who, f"n of {where} must be in [1, {images}], got {estimate.n}")
    require(not spec.chance or value.chance is not None, who, f"{where} must have a chance level ({spec.chance})")


def _compare(before: Measurement, after: Measurement, who: str, law: str, tolerance: float) -> None:
    """Requires that both measurements have the same rows with the same numbers."""
    rows = {value.key: value for value in after.values}
    require(set(rows) == {value.key for value in before.values}, who, f"{law}: the rows must be the same")
    for value in before.values:
        other = rows[value.key]
        for end in ("value", "low", "high"):
            a, b = getattr(value.estimate, end), getattr(other.estimate, end)
            same = (math.isnan(a) and math.isnan(b)) or abs(a - b) <= tolerance * max(1.0, abs(a))
            require(same, who, f"{law}: {end} of {value.key} must stay {a}, got {b}")


def _image_order(metric: Metric, fixture: MetricFixture, plain: Measurement) -> None:
    backwards = replace(fixture, ids=np.asarray(fixture.ids)[::-1].copy())
    _compare(plain, _measured(metric, backwards), metric.name, "image order", 0.0)


def _batch_size(metric: Metric, fixture: MetricFixture, plain: Measurement) -> None:
    _compare(plain, _measured(metric, fixture, batch_size=32), metric.name, "batch size", 0.0)


def _same_seed(metric: Metric, fixture: MetricFixture, plain: Measurement) -> None:
    again = _measured(metric, fixture)
    _compare(plain, again, metric.name, "same seed same number", 0.0)
    for name, array in plain.evidence.items():
        same = np.array_equal(array, again.evidence[name], equal_nan=array.dtype.kind == "f")
        require(bool(same), metric.name, f"same seed same number: evidence {name!r} must stay the same")


def _order_of_characteristics(metric: Metric, fixture: MetricFixture, plain: Measurement) -> None:
    reordered = replace(fixture, model=Reordered(fixture.model))
    _compare(plain, _measured(metric, reordered), metric.name, "order of characteristics", SAME)


def _rescaled_latent(metric: Metric, fixture: MetricFixture, plain: Measurement) -> None:
    found = _measured(metric, replace(fixture, model=Rescaled(fixture.model)))
    raw = {name for name, spec in metric.values.items() if spec.unit == CODE_UNIT}
    kept = [replace(m, values=tuple(v for v in m.values if v.name not in raw)) for m in (plain, found)]
    _compare(kept[0], kept[1], metric.name, "rescaled latent", RESCALED)


def _permuted_label(metric: Metric, fixture: MetricFixture, plain: Measurement) -> None:
    del plain
    run = _run(metric, replace(fixture, data=PermutedLabels(fixture.data)))
    value = run.find(f"{metric.name}.{metric.headline}")
    estimate = value.estimate
    require(value.chance is not None, metric.name, "permuted label: the headline must have a chance level")
    assert value.chance is not None
    reach = CHANCE_HALF_WIDTHS * (estimate.high - estimate.low) / 2
    near = abs(estimate.value - value.chance) <= reach
    text = f"permuted label: the headline must be at chance, {value.chance} +- {reach}, got {estimate.value}"
    require(near, metric.name, text)


def _oracle(metric: Metric, fixture: MetricFixture, plain: Measurement) -> None:
    del plain
    if not fixture.known:
        return
    known = {at: ends for at, ends in fixture.known.items() if at.split(".")[0] == metric.name}
    require(bool(known), metric.name, "oracle: the fixture must have a known value of this metric")
    run = _run(metric, fixture)
    for address, (low, high) in known.items():
        text = f"oracle: {address} must be in [{low}, {high}], got {run[address]}"
        require(low <= run[address] <= high, metric.name, text)


def _nan(metric: Metric, fixture: MetricFixture, plain: Measurement) -> None:
    del plain
    try:
        _measured(metric, replace(fixture, model=NotFinite(fixture.model, "encode")))
    except NonFiniteError:
        pass
    else:
        require(False, metric.name, "nan is an error: an encoder that returns NaN must raise NonFiniteError")
    found = _measured(metric, replace(fixture, model=NotFinite(fixture.model, "decode")))
    subject = prepare(fixture.model, fixture.data, fixture.ids, judge=fixture.judge)
    if metric.needs(subject).decodings():
        code = found.reason.code if found.reason else ""
        failed = found.status == "failed" and code == NonFiniteError.code
        text = f"nan is an error: a decoder that returns NaN must fail with code nan, got {found.status} {code}"
        require(failed, metric.name, text)


CHECKS: Mapping[str, Callable[[Metric, MetricFixture, Measurement], None]] = MappingProxyType(
    {
        "image order": _image_order,
        "batch size": _batch_size,
        "same seed same number": _same_seed,
        "order of characteristics": _order_of_characteristics,
        "rescaled latent": _rescaled_latent,
        "permuted label": _permuted_label,
        "oracle": _oracle,
        "nan is an error": _nan,
    }
)
"""One test for each law in ``ccvae_eval.evaluation.metric.LAWS``."""


FEATURE_TOLERANCE = 1e-5
"""Relative tolerance for an image at another position of its batch."""


def check_features(extractor: Features) -> None:
    """Tests one feature extractor on rendered faces: one finite vector per image, independent of the batch.

    Raises:
        ContractBroken: a test fails; the message names the extractor and the requirement.
    """
    who = type(extractor).__name__
    require(isinstance(extractor, Features), who, "a feature extractor must have a method features(images)")
    images = Faces(size=64, n=FIXED_BATCH).batch(np.arange(FIXED_BATCH)).images
    given, state = images.clone(), torch.get_rng_state()
    with torch.no_grad():
        found = extractor.features(images)
        require(isinstance(found, Tensor), who, f"features must return a tensor, got {type(found).__name__}")
        shape = tuple(found.shape)
        text = f"features of {FIXED_BATCH} images must have shape ({FIXED_BATCH}, F), got {shape}"
        require(len(shape) == 2 and shape[0] == FIXED_BATCH, who, text)
        require(found.is_floating_point(), who, f"features must be floating-point numbers, got {found.dtype}")
        require(bool(torch.isfinite(found).all()), who, "features must be finite")
        again, backwards = extractor.features(images), extractor.features(images.flip(0))
    require(bool(torch.equal(found, again)), who, "features must be the same for the same images (no sampling)")
    require(bool(torch.equal(state, torch.get_rng_state())), who, "no call may use the global random generator")
    require(bool(torch.equal(images, given)), who, "the images must not be modified")
    tolerance = FEATURE_TOLERANCE * float(found.abs().max())
    close = bool(torch.allclose(backwards.flip(0), found, rtol=FEATURE_TOLERANCE, atol=tolerance))
    require(close, who, "the features of an image must not depend on the other images of its batch")
    require(bool((found != found[:1]).any()), who, "different images must have different features")


SHIFT = 1.0
"""The known shift in 64ths of the shorter side, small enough for the search of every matcher."""
CORRECT_SHARE = 0.5
"""Least share of matched points within half a unit of the known shift."""


def check_matcher(matcher: Matcher) -> None:
    """Tests one matcher on rendered faces: identical images, a known shift, and blank images.

    Raises:
        ContractBroken: a test fails; the message names the matcher and the requirement.
    """
    who = getattr(matcher, "name", type(matcher).__name__)
    require(isinstance(matcher, Matcher), who, "a matcher must have name, bounded, search, guard, features and match")
    require(matcher.search > 0 and matcher.guard > 0, who, "search and guard must be positive")
    images = Faces(size=64, n=8).batch(torch.arange(4).numpy()).images
    state = torch.get_rng_state()
    features = matcher.features(images)
    same = matcher.match(features, matcher.features(images.clone()))
    _check_matches_form(same, len(images), who)
    require(bool((same.matched.sum(1) > 0).all()), who, "an image must have matches with itself")
    still = (same.displacement[same.matched] < SHIFT / 2).float().mean() >= CORRECT_SHARE
    require(bool(still), who, "matches of an image with itself must not move")
    again = matcher.match(features, matcher.features(images)).shift
    require(bool(torch.equal(same.shift, again)), who, "matches must be the same for the same images (no sampling)")
    require(bool(torch.equal(state, torch.get_rng_state())), who, "no call may use the global random generator")
    shifted = functional.pad(images, (1, 0, 0, 0), mode="replicate")[..., :-1]
    found = matcher.match(features, matcher.features(shifted))
    error = torch.hypot(found.shift[..., 0] - SHIFT, found.shift[..., 1])[found.matched]
    correct = (error < SHIFT / 2).float().mean() >= CORRECT_SHARE
    require(bool(correct), who, "a shift by one pixel to the right must be found")
    blank = torch.full_like(images, 0.5)
    for first, second in ((matcher.features(blank), features), (features, matcher.features(blank))):
        require(not bool(matcher.match(first, second).matched.any()), who, "a blank image must have no matches")


def _check_matches_form(found: Matches, count: int, who: str) -> None:
    require(isinstance(found, Matches), who, "match must return Matches")
    points = found.points.shape[1]
    for name, tensor, shape in (
        ("points", found.points, (count, points, 2)), ("valid", found.valid, (count, points)),
        ("matched", found.matched, (count, points)), ("shift", found.shift, (count, points, 2)),
        ("confidence", found.confidence, (count, points)),
    ):  # fmt: skip
        require(tuple(tensor.shape) == shape, who, f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    require(not bool((found.matched & ~found.valid).any()), who, "every matched point must be valid")
    confidence = found.confidence[found.matched]
    require(bool(((confidence >= 0) & (confidence <= 1)).all()), who, "confidence must be in [0, 1]")
    require(not bool(found.confidence[~found.matched].any()), who, "confidence must be 0 for unmatched points")
