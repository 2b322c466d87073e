"""The contract of metrics: what each emits, and the laws that it declares.

The contract of extractors of features: one finite vector for each image, pure, whatever the batch.

The contract of matchers: pure, the same for every batch, silent about blank images, right about a known shift.
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
from ccvae_eval.evaluation.runner import evaluate
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.matchers.interface import Matcher, Matches
from ccvae_eval.metrics.shared.features import Features
from ccvae_eval.model.fixed_batches import CHUNK
from ccvae_eval.testing.metric_fixtures import MetricFixture, NotFinite, PermutedLabels, Reordered, Rescaled

FEATURE_TOLERANCE = 1e-5
"""Relative tolerance where an image stands elsewhere in its batch."""


def check_features(extractor: Features) -> None:
    """Checks one extractor on drawn faces; returns if it keeps the contract.

    Raises:
        ContractBroken: naming the extractor and what it does not keep.
    """
    who = type(extractor).__name__
    require(isinstance(extractor, Features), who, "an extractor has a method features(images)")
    images = Faces(size=64, n=CHUNK).batch(np.arange(CHUNK)).images
    given, state = images.clone(), torch.get_rng_state()
    with torch.no_grad():
        found = extractor.features(images)
        require(isinstance(found, Tensor), who, f"features returns a tensor, not {type(found).__name__}")
        form = tuple(found.shape)
        require(len(form) == 2 and form[0] == CHUNK, who, f"features of {CHUNK} images have shape (N, F), not {form}")
        require(found.is_floating_point(), who, f"features are floating-point numbers, not {found.dtype}")
        require(bool(torch.isfinite(found).all()), who, "features are finite")
        again, turned = extractor.features(images), extractor.features(images.flip(0))
    require(bool(torch.equal(found, again)), who, "the same images give the same numbers (it draws, or trains)")
    require(bool(torch.equal(state, torch.get_rng_state())), who, "no call draws from the global random generator")
    require(bool(torch.equal(images, given)), who, "the images are left as they are")
    room = FEATURE_TOLERANCE * float(found.abs().max())
    alike = bool(torch.allclose(turned.flip(0), found, rtol=FEATURE_TOLERANCE, atol=room))
    require(alike, who, "an image's features do not depend on the others of its batch")
    require(bool((found != found[:1]).any()), who, "different images have different features")


SHIFT = 1.0
"""How far the known shift is, in 64ths of the shorter side: inside every search."""
RIGHT = 0.5
"""The least share of matched points that lie within half a unit of a known shift."""


def check_matcher(matcher: Matcher) -> None:
    """Checks one matcher on drawn faces; returns if it keeps the contract.

    Raises:
        ContractBroken: naming the matcher and what it does not keep.
    """
    who = getattr(matcher, "name", type(matcher).__name__)
    require(isinstance(matcher, Matcher), who, "a matcher has name, bounded, search, guard, features and match")
    require(matcher.search > 0 and matcher.guard > 0, who, "search and guard are positive")
    images = Faces(size=64, n=8).batch(torch.arange(4).numpy()).images
    state = torch.get_rng_state()
    features = matcher.features(images)
    same = matcher.match(features, matcher.features(images.clone()))
    _check_matches_form(same, len(images), who)
    require(bool((same.matched.sum(1) > 0).all()), who, "an image's points are found again in itself")
    moved = same.displacement[same.matched]
    require(bool((moved < SHIFT / 2).float().mean() >= RIGHT), who, "in itself, points are found where they are")
    again = matcher.match(features, matcher.features(images))
    require(bool(torch.equal(same.shift, again.shift)), who, "the same images give the same matches (it draws)")
    require(bool(torch.equal(state, torch.get_rng_state())), who, "no call draws from the global random generator")
    right = functional.pad(images, (1, 0, 0, 0), mode="replicate")[..., :-1]
    told = matcher.match(features, matcher.features(right))
    off = torch.hypot(told.shift[..., 0] - SHIFT, told.shift[..., 1])[told.matched]
    require(bool((off < SHIFT / 2).float().mean() >= RIGHT), who, "a shift by one pixel to the right is found")
    blank = torch.full_like(images, 0.5)
    nothing = matcher.match(matcher.features(blank), features)
    require(not bool(nothing.matched.any()), who, "a blank image has no match; that is a value and no error")
    require(not bool(matcher.match(features, matcher.features(blank)).matched.any()), who, "nor has one with a blank")


def _check_matches_form(found: Matches, count: int, who: str) -> None:
    require(isinstance(found, Matches), who, "match returns Matches")
    points = found.points.shape[1]
    for name, tensor, shape in (
        ("points", found.points, (count, points, 2)), ("valid", found.valid, (count, points)),
        ("matched", found.matched, (count, points)), ("shift", found.shift, (count, points, 2)),
        ("confidence", found.confidence, (count, points)),
    ):  # fmt: skip
        require(tuple(tensor.shape) == shape, who, f"{name} has shape {shape}, not {tuple(tensor.shape)}")
    require(not bool((found.matched & ~found.valid).any()), who, "what is matched is a point")
    sure = found.confidence[found.matched]
    require(bool(((sure >= 0) & (sure <= 1)).all()), who, "confidence is in [0, 1]")
    require(not bool(found.confidence[~found.matched].any()), who, "confidence is 0 where nothing is matched")


SAME = 1e-9
"""Relative tolerance where sums over characteristics are taken in another order."""

RESCALED = 1e-6
"""Relative tolerance where codes were rescaled: a regularised fit sees standardised codes up to rounding."""

WIDER = 2.0
"""How many half-widths of its 95 % interval a permuted label's value may lie from chance."""

CODE_UNIT = "code"
"""The unit of values that are measured in the latent space's own units: rescaling changes them, rightly."""


def check_metric(metric: Metric, specimen: MetricFixture) -> None:
    """Checks one metric's form and every law that it declares; returns if it keeps the contract.

    Args:
        metric: with its default settings; those in ``specimen.settings`` are put in.
        specimen: what to try it on.

    Raises:
        ContractBroken: naming the metric and what it does not keep.
    """
    who = getattr(metric, "name", type(metric).__name__)
    _check_form(metric, who)
    metric = replace(metric, **specimen.settings.get(metric.name, {}))  # type: ignore[type-var]
    plain = _measured(metric, specimen)
    _check_measurement(metric, plain, len(specimen.ids), who)
    for law in sorted(metric.laws):
        CHECKS[law](metric, specimen, plain)


def _check_form(metric: Metric, who: str) -> None:
    require(isinstance(metric, Metric), who, "a metric has every member of ccvae_eval.evaluation.metric.Metric")
    require(is_dataclass(metric), who, "a metric is a dataclass")
    require(type(metric).__dataclass_params__.frozen, who, "its dataclass is frozen")  # type: ignore[attr-defined]
    doc = (type(metric).__doc__ or "").strip()
    own = bool(doc) and not doc.startswith(f"{type(metric).__name__}(")
    require(own and len(doc.splitlines()[0]) <= 120, who, "the docstring begins with a summary of one line")
    require(metric.headline in metric.values, who, f"the headline {metric.headline!r} is one of its values")
    strange = set(metric.laws) - LAWS
    require(not strange, who, f"laws are among {', '.join(sorted(LAWS))}; {', '.join(strange)} is none")
    for field in fields(metric):  # type: ignore[arg-type]
        require(hasattr(metric, field.name), who, f"setting {field.name!r} has a default")
    try:
        json.dumps(settings_of(metric), allow_nan=False)
    except (TypeError, ValueError):
        require(False, who, "settings are plain values")
    for name, spec in metric.values.items():
        require(bool(spec.summary), who, f"value {name!r} says what it is")
        low, high = spec.range
        require(low is None or high is None or low < high, who, f"the range of {name!r} has its ends in order")


def _run(metric: Metric, specimen: MetricFixture, batch_size: int = 256) -> Run:
    subject = prepare(specimen.model, specimen.data, specimen.ids, judge=specimen.judge, batch_size=batch_size)
    return evaluate(subject, [metric])


def _measured(metric: Metric, specimen: MetricFixture, batch_size: int = 256) -> Measurement:
    return _run(metric, specimen, batch_size).measurement(metric.name)


def _check_measurement(metric: Metric, found: Measurement, images: int, who: str) -> None:
    reason = found.reason.text if found.reason else ""
    require(found.status == "ok", who, f"it measures the specimen, status is {found.status} {reason}")
    require(found.metric == metric.name and found.version == metric.version, who, "it signs with name and version")
    require(dict(found.settings) == settings_of(metric), who, "it records its settings")
    keys = [value.key for value in found.values]
    require(len(set(keys)) == len(keys), who, "(name, characteristic, at) is unique")
    names = {value.name for value in found.values}
    require(names <= set(metric.values), who, f"every value has a spec: {', '.join(names - set(metric.values))}")
    require(metric.headline in names, who, "the headline is among the values")
    for value in found.values:
        _check_value(metric, value, images, who)
    for name, array in found.evidence.items():
        require(len(array) == images, who, f"evidence {name!r} has one row for each image")


def _check_value(metric: Metric, value: Value, images: int, who: str) -> None:
    spec, estimate = metric.values[value.name], value.estimate
    where = f"{value.name} of {value.characteristic or 'the mean'} {dict(value.at) or ''}".strip()
    if not estimate.defined:
        require(bool(value.note), who, f"{where} is undefined and says why")
        return
    low, high = spec.range
    slack = SAME * max(1.0, abs(estimate.value))
    inside = (low is None or estimate.value >= low - slack) and (high is None or estimate.value <= high + slack)
    require(inside, who, f"{where} = {estimate.value} is in [{low}, {high}]")
    if not (math.isnan(estimate.low) or math.isnan(estimate.high)):
        require(estimate.low <= estimate.high, who, f"the interval of {where} has its ends in order")
        require(bool(estimate.method), who, f"the interval of {where} says how it was made")
    require(0 < estimate.n <= images, who, f"{where} counts its images, n = {estimate.n}")
    require(not spec.chance or value.chance is not None, who, f"{where} has its chance level ({spec.chance})")


def _compare(before: Measurement, after: Measurement, who: str, law: str, tolerance: float) -> None:
    """Both measurements hold the same rows with the same numbers."""
    theirs = {value.key: value for value in after.values}
    require(set(theirs) == {value.key for value in before.values}, who, f"{law}: the same rows")
    for value in before.values:
        other = theirs[value.key]
        for end in ("value", "low", "high"):
            a, b = getattr(value.estimate, end), getattr(other.estimate, end)
            same = (math.isnan(a) and math.isnan(b)) or abs(a - b) <= tolerance * max(1.0, abs(a))
            require(same, who, f"{law}: {end} of {value.key} is {a} and {b}")


def _image_order(metric: Metric, specimen: MetricFixture, plain: Measurement) -> None:
    turned = replace(specimen, ids=np.asarray(specimen.ids)[::-1].copy())
    _compare(plain, _measured(metric, turned), metric.name, "image order", 0.0)


def _batch_size(metric: Metric, specimen: MetricFixture, plain: Measurement) -> None:
    _compare(plain, _measured(metric, specimen, batch_size=32), metric.name, "batch size", 0.0)


def _same_seed(metric: Metric, specimen: MetricFixture, plain: Measurement) -> None:
    again = _measured(metric, specimen)
    _compare(plain, again, metric.name, "same seed same number", 0.0)
    for name, array in plain.evidence.items():
        same = np.array_equal(array, again.evidence[name], equal_nan=array.dtype.kind == "f")
        require(bool(same), metric.name, f"same seed same number: evidence {name!r}")


def _order_of_characteristics(metric: Metric, specimen: MetricFixture, plain: Measurement) -> None:
    turned = replace(specimen, model=Reordered(specimen.model))
    _compare(plain, _measured(metric, turned), metric.name, "order of characteristics", SAME)


def _rescaled_latent(metric: Metric, specimen: MetricFixture, plain: Measurement) -> None:
    found = _measured(metric, replace(specimen, model=Rescaled(specimen.model)))
    raw = {name for name, spec in metric.values.items() if spec.unit == CODE_UNIT}
    kept = [replace(m, values=tuple(v for v in m.values if v.name not in raw)) for m in (plain, found)]
    _compare(kept[0], kept[1], metric.name, "rescaled latent", RESCALED)


def _permuted_label(metric: Metric, specimen: MetricFixture, plain: Measurement) -> None:
    del plain
    run = _run(metric, replace(specimen, data=PermutedLabels(specimen.data)))
    value = run.find(f"{metric.name}.{metric.headline}")
    estimate = value.estimate
    require(value.chance is not None, metric.name, "permuted label: the headline has a chance level")
    assert value.chance is not None
    reach = WIDER * (estimate.high - estimate.low) / 2
    near = abs(estimate.value - value.chance) <= reach
    require(near, metric.name, f"permuted label: {estimate.value} is near chance, {value.chance} +- {reach}")


def _oracle(metric: Metric, specimen: MetricFixture, plain: Measurement) -> None:
    del plain
    if not specimen.known:
        return
    known = {at: ends for at, ends in specimen.known.items() if at.split(".")[0] == metric.name}
    require(bool(known), metric.name, "oracle: the specimen knows an answer of this metric")
    run = _run(metric, specimen)
    for address, (low, high) in known.items():
        require(low <= run[address] <= high, metric.name, f"oracle: {address} = {run[address]} is in [{low}, {high}]")


def _nan(metric: Metric, specimen: MetricFixture, plain: Measurement) -> None:
    del plain
    try:
        _measured(metric, replace(specimen, model=NotFinite(specimen.model, "encode")))
    except NonFiniteError:
        pass
    else:
        require(False, metric.name, "nan is an error: an encoder that gives NaN is a NonFiniteError")
    found = _measured(metric, replace(specimen, model=NotFinite(specimen.model, "decode")))
    subject = prepare(specimen.model, specimen.data, specimen.ids, judge=specimen.judge)
    if metric.needs(subject).decodings():
        code = found.reason.code if found.reason else ""
        failed = found.status == "failed" and code == NonFiniteError.code
        require(
            failed, metric.name, f"nan is an error: a decoder that gives NaN fails as nan, not {found.status} {code}"
        )


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
"""One check for each law of ``ccvae_eval.evaluation.metric.LAWS``."""
