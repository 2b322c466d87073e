"""Looks at more and more images: sizes, levels, the choice of the next look, and coverage under stopping."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ccvae_eval.api import evaluate
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import Estimate, Value
from ccvae_eval.core.typed import plain
from ccvae_eval.evaluation.plan import Plan
from ccvae_eval.evaluation.runner import run
from ccvae_eval.evaluation.stopping import ERROR, Looks, widest_interval
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.plugins.registry import metrics
from ccvae_eval.report import paper
from ccvae_eval.report.page import answer
from ccvae_eval.statistics.intervals import mean_estimate, proportion_estimate
from ccvae_eval.statistics.resampling import ResampleWeights
from tests.support.fakes import Squares, SquaresJudge, SquaresVAE
from tests.support.metric_settings import FAST
from tests.support.runs import measurement, run_of


@pytest.mark.parametrize(("images", "sizes"), [
    (20, [20]), (64, [64]), (65, [64, 65]), (128, [64, 128]), (500, [64, 128, 256, 500]),
])  # fmt: skip
def test_sizes_double_up_to_the_sample(images: int, sizes: list[int]) -> None:
    looks = Looks(np.arange(images), 0.1)
    assert looks.sizes == sizes
    assert looks.level == 1 - ERROR / len(sizes)


def test_each_look_has_the_images_of_the_one_before() -> None:
    ids = np.arange(1000, 1500)
    looks = Looks(ids, 0.1, seed=3)
    before = set[int]()
    for look, size in enumerate(looks.sizes):
        images = looks.images(look)
        assert len(images) == size
        assert (np.diff(images) > 0).all()
        assert before < set(images.tolist()) <= set(ids.tolist())
        before = set(images.tolist())
    assert Looks(ids, 0.1, seed=4).images(0).tolist() != looks.images(0).tolist()


def test_the_next_look_is_the_first_that_is_expected_to_suffice() -> None:
    looks = Looks(np.arange(1000), 0.1)  # 64, 128, 256, 512, 1000
    assert looks.following(0, 0.1) is None
    assert looks.following(0, 0.13) == 1
    assert looks.following(0, 0.2) == 2
    assert looks.following(0, 0.21) == 3
    assert looks.following(0, 5.0) == 4
    assert looks.following(0, math.inf) == 4
    assert looks.following(1, 0.14) == 2
    assert looks.following(4, 5.0) is None


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan])
def test_the_width_must_be_positive(width: float) -> None:
    with pytest.raises(UsageError, match=r"`width`: width must be above 0, got"):
        Looks(np.arange(100), width)


def row(low: float, high: float, **more: Any) -> Value:
    return Value("focus", Estimate((low + high) / 2, low, high, 64), **more)


def test_the_headline_means_decide() -> None:
    narrow = measurement("locality", "focus", [row(0.4, 0.5), row(0, 1, characteristic="Hat"), row(0, 1, at={"a": 1})])
    wide = measurement("drift", "focus", [row(0.4, 0.6)])
    assert widest_interval([narrow]) == pytest.approx(0.1)
    assert widest_interval([narrow, wide]) == pytest.approx(0.2)
    assert widest_interval([]) == 0
    undefined = measurement("locality", "focus", [row(math.nan, math.nan)])
    assert widest_interval([undefined, narrow]) == pytest.approx(0.1)
    for remedy in ("--sample 400", "--limit 400"):
        rare = replace(row(math.nan, math.nan), characteristic="Hat", remedy=remedy)
        assert widest_interval([measurement("locality", "focus", [row(0.4, 0.5), rare])]) == math.inf


def test_a_count_is_not_waited_for() -> None:
    count = measurement("measurement", "distance", [replace(row(0, 3), name="distance")])
    assert widest_interval([count, measurement("locality", "focus", [row(0.4, 0.5)])]) == pytest.approx(0.1)
    rare = replace(row(math.nan, math.nan), name="distance", characteristic="Hat", remedy="--sample 400")
    assert widest_interval([measurement("measurement", "distance", [rare])]) == math.inf


def test_every_interval_of_every_metric_has_the_level_of_the_plan() -> None:
    every = [metrics[name](**settings) for name, settings in FAST.items()]

    def planned() -> Plan:
        return Plan.of(prepare(SquaresVAE(scale=0.3), Squares(96), np.arange(96), judge=SquaresJudge()), every)

    usual, wider = run(planned()), run(replace(planned(), level=0.999))
    grew = 0
    for one, other in zip(usual, wider, strict=True):
        for value, at_level in zip(one.values, other.values, strict=True):
            before, after = value.estimate, at_level.estimate
            assert repr(before.value) == repr(after.value)
            if math.isfinite(before.low) and before.low < before.high:
                address = f"{one.metric}.{value.name}@{value.characteristic} {value.at}"
                assert after.high - after.low >= before.high - before.low, address
                grew += after.high - after.low > before.high - before.low
    assert grew > 100


def test_an_evaluation_stops_when_its_interval_is_narrow_enough() -> None:
    data = Squares(1500)  # 500 images in the split test
    wanted: dict[str, Any] = {"metrics": ["accuracy"], "judge": "none", "gallery": False, "split": "test"}
    found = evaluate(SquaresVAE(), data, width=0.08, **wanted)
    stopping = found.header.data["stopping"]
    assert stopping["reached"]
    assert stopping["of"] == 500
    assert found.header.data["n"] == stopping["looks"][-1] < 500
    estimate = found.find("accuracy.balanced_accuracy").estimate
    assert estimate.high - estimate.low <= 0.08
    assert stopping["level"] == 1 - ERROR / 4
    never = evaluate(SquaresVAE(), data, width=1e-6, **wanted)
    assert never.header.data["stopping"]["looks"] == [64, 500]
    assert not never.header.data["stopping"]["reached"]
    again = evaluate(SquaresVAE(), data, width=0.08, **wanted)
    assert repr(again.measurements[0].values) == repr(found.measurements[0].values)


def test_a_run_says_how_many_images_it_has_saved() -> None:
    looks = Looks(np.arange(2000), 0.1)
    assert str(looks.record([0, 2], 0.05)) == (
        "after 64 and 256 of 2,000 images: 1,680 images saved; intervals at level 0.9917, at least 95% for all looks "
        "together"
    )
    assert "of 2,000 images, width 0.1 not reached: no images saved" in str(looks.record([0, 5], 0.2))


def test_the_paragraphs_on_methods_state_the_looks() -> None:
    stopping = plain(Looks(np.arange(2000), 0.1).record([0, 2], 0.05))
    stated = "looked at 64 and 256 of 2,000 images, to reach intervals of width 0.1; each interval has the level 0.9917"
    for text in (lambda runs: paper.methods({"a": runs}), lambda runs: answer.methods(runs[0])):
        assert stated in text([run_of(stopping=stopping)])
        assert "looked at" not in text([run_of()])
        assert "looked at" not in text([run_of(stopping={"looks": "many"})])


POPULATIONS = {
    "uniform": (lambda random, n: random.random(n), 0.5, mean_estimate, 0.095),
    "skewed": (lambda random, n: random.exponential(size=n), 1.0, mean_estimate, 0.3),
    "proportion": (lambda random, n: (random.random(n) < 0.2).astype(float), 0.2, proportion_estimate, 0.1),
}
"""Draws, true mean, estimate, and the wanted width."""


@pytest.mark.parametrize("kind", POPULATIONS)
@pytest.mark.parametrize(
    ("repeats", "least"),
    [
        pytest.param(200, 0.93, id="short", marks=pytest.mark.slow),
        pytest.param(2000, 0.95, id="full", marks=pytest.mark.soak),
    ],
)
def test_coverage_under_stopping(kind: str, repeats: int, least: float) -> None:
    """At least the 95% that is stated; the union bound over the looks gives more, about 98.5%."""
    draw, true, estimate, width = POPULATIONS[kind]
    looks, random = Looks(np.arange(2000), width), np.random.default_rng(0)
    covered, taken = 0, []
    for _ in range(repeats):
        values, look = draw(random, 2000), 0
        while True:
            images = looks.images(look)
            found = estimate(values[images], ResampleWeights(0, len(images), level=looks.level)).estimate
            following = looks.following(look, found.high - found.low)
            if following is None:
                break
            look = following
        taken.append(look)
        covered += found.low <= true <= found.high
    assert len(set(taken)) > 1, "the data decide where to stop"
    assert covered / repeats >= least
