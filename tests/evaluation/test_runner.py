"""The pass over the images: shared decodings, isolated failures, reproducible numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from ccvae_eval.core.errors import UndefinedError, UnsupportedError
from ccvae_eval.core.results import Estimate, Measurement, Value, ValueSpec
from ccvae_eval.evaluation.interventions import Do, Redraw, Traverse
from ccvae_eval.evaluation.metric import Decoded, Needs, metric_class, settings_of
from ccvae_eval.evaluation.plan import Plan
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.runner import run as run_plan
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.statistics.resampling import ResampleWeights
from tests.support.fakes import Squares, SquaresVAE


@dataclass(frozen=True)
class Brightness:
    """Mean brightness of the traversals of one characteristic."""

    characteristic: str = "Glasses"
    positions: tuple[float, ...] = (0.0, 1.0)
    trouble: str = ""

    name: ClassVar[str] = "brightness"
    version: ClassVar[int] = 1
    headline: ClassVar[str] = "mean"
    default_sample: ClassVar[int] = 80
    values: ClassVar[Mapping[str, ValueSpec]] = {"mean": ValueSpec("mean brightness")}
    laws: ClassVar[frozenset[str]] = frozenset()

    def needs(self, subject: Subject) -> Needs:
        if self.trouble == "unsupported":
            raise UnsupportedError("cannot")
        return Needs(tuple(Traverse(self.characteristic, p) for p in self.positions), reconstruction=True)

    def start(self, subject: Subject) -> _Sum:
        return _Sum(self, np.full(len(subject), np.nan))


@dataclass(frozen=True)
class Darkness(Brightness):
    name: ClassVar[str] = "darkness"


@dataclass
class _Sum:
    metric: Brightness
    seen: Any

    def update(self, batch: Decoded) -> None:
        if self.metric.trouble == "update":
            raise ValueError("broken metric")
        images = [batch.images[i] for i in batch.images if isinstance(i, Traverse)]
        self.seen[batch.chunk.rows] = torch.stack(images).double().mean((0, 2, 3, 4)).numpy()

    def compute(self, weights: ResampleWeights) -> Measurement:
        if self.metric.trouble == "undefined":
            raise UndefinedError("no such thing")
        value = Value("mean", Estimate(float(self.seen.mean()), n=len(self.seen)))
        evidence = {"mean": self.seen}
        return Measurement(self.metric.name, 1, settings_of(self.metric), "mean", (value,), evidence=evidence)


class CountingVAE(SquaresVAE):
    """Counts the calls of encoder and decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        self.calls["decode"] += 1
        assert len(codes) == 32, "the network is called on fixed batches only"
        return super().decode(codes)

    def encode(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        self.calls["encode"] += 1
        assert len(images) == 32
        return super().encode(images, labels)


def _subject(model: Any = None, count: int = 100, **more: Any) -> Subject:
    data = Squares(count)
    return prepare(model or SquaresVAE(), data, np.arange(count), **more)


def test_equal_interventions_are_decoded_once_for_all_metrics() -> None:
    model = CountingVAE()
    subject = _subject(model, count=64)
    assert model.calls["encode"] == 2
    metrics = [Brightness(), Darkness(positions=(1.0, 0.5))]
    assert Plan.of(subject, metrics).decode == 64 * 4
    run = measure(subject, metrics)
    assert model.calls["decode"] == 2 * (3 + 1), "three distinct traversals and the reconstruction, for two chunks"
    assert [m.status for m in run] == ["ok", "ok"]


@pytest.mark.parametrize("batch_size", [1, 7, 33, 256])
def test_no_number_depends_on_the_batch_size_or_order(batch_size: int) -> None:
    metrics = [Brightness(), Darkness(characteristic="Hair")]
    expected = measure(_subject(), metrics)
    found = measure(_subject(batch_size=batch_size), metrics[::-1])
    for name in ("brightness", "darkness"):
        a, b = expected.measurement(name), found.measurement(name)
        np.testing.assert_array_equal(a.evidence["mean"], b.evidence["mean"])
        assert a.values == b.values


def test_no_number_depends_on_the_order_of_the_ids() -> None:
    data, model = Squares(80), SquaresVAE()
    forward = prepare(model, data, np.arange(80))
    backward = prepare(model, data, np.arange(80)[::-1])
    assert forward.codes.equal(backward.codes)
    assert forward.ids.tolist() == backward.ids.tolist()


@pytest.mark.parametrize(
    ("trouble", "status", "code"),
    [
        ("update", "failed", "plugin"),
        ("undefined", "undefined", "undefined"),
        ("unsupported", "unsupported", "unsupported"),
    ],
)
def test_a_failing_metric_does_not_affect_the_others(trouble: str, status: str, code: str) -> None:
    run = measure(_subject(), [Brightness(trouble=trouble), Darkness()])
    troubled = run.measurement("brightness")
    assert troubled.status == status
    assert troubled.reason is not None
    assert troubled.reason.code == code
    assert run.measurement("darkness").status == "ok"
    assert bool(run.failed) == (status == "failed")


def test_nan_from_the_decoder_fails_the_metrics_that_requested_it() -> None:
    class Broken(SquaresVAE):
        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return super().decode(codes) * torch.nan

    run = measure(_subject(Broken()), [Brightness()])
    assert run.measurement("brightness").reason is not None
    assert run.measurement("brightness").reason.code == "nan"  # type: ignore[union-attr]


def test_metrics_that_decode_nothing_end_first() -> None:
    seen: list[str] = []
    metrics = [metric_class(name)() for name in ("reconstruction", "accuracy", "density")]
    plan = Plan.of(_subject(), metrics)
    found = run_plan(plan, lambda done, total: seen.append("pass"), None, lambda m: seen.append(m.metric))
    assert list(dict.fromkeys(seen)) == ["accuracy", "density", "pass", "reconstruction"]
    assert [m.metric for m in found] == ["reconstruction", "accuracy", "density"]
    assert repr(found.measurement("density").values) == repr(measure(_subject(), metrics[2:]).measurements[0].values)


def test_own_samples_restrict_each_metric_to_its_default_sample() -> None:
    run = run_plan(Plan.of(_subject(), [Brightness()], own_samples=True))
    assert run.measurement("brightness").values[0].estimate.n == 80
    assert len(run.ids["brightness"]) == 80
    assert measure(_subject(), [Brightness()]).measurement("brightness").values[0].estimate.n == 100


def test_the_mode_of_the_model_and_the_global_random_state_are_restored() -> None:
    class Noisy(SquaresVAE):
        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            torch.rand(3)
            return super().decode(codes)

    model = Noisy()
    model.train()
    state = torch.get_rng_state()
    measure(_subject(model), [Brightness()])
    assert model.training
    assert torch.get_rng_state().equal(state)


def test_an_undefined_path_makes_the_metric_undefined() -> None:
    subject = replace(_subject(), labels=torch.zeros(100, 3))
    run = measure(subject, [Brightness()])
    assert run.measurement("brightness").status == "undefined"


def test_interventions_change_only_the_dimensions_of_their_characteristic() -> None:
    subject = _subject()
    chunk = next(subject.chunks())
    for intervention in (Do("Glasses"), Redraw("Glasses"), Traverse("Glasses", 0.3)):
        codes = intervention.codes(subject, chunk)
        columns = list(subject.layout["Glasses"])
        others = [c for c in range(subject.layout.dim) if c not in columns]
        assert codes[:, others].equal(chunk.codes[:, others])
        assert not codes[:, columns].equal(chunk.codes[:, columns])


def test_do_moves_the_code_to_the_other_class() -> None:
    subject = _subject(count=160)
    for chunk in subject.chunks():
        then = subject.target_class("Glasses")[chunk.rows]
        column = subject.layout["Glasses"][0]
        codes = Do("Glasses").codes(subject, chunk)[:, column]
        assert bool(((codes > 0) == (then == 1)).all())
        assert bool((then != subject.classes("Glasses")[chunk.rows]).all())


def test_target_classes_are_uniform_over_the_other_classes() -> None:
    subject = _subject(count=3000)
    now, then = subject.current_class("Hair"), subject.target_class("Hair")
    assert bool((now != then).all())
    for k in range(3):
        others = torch.bincount(then[now == k], minlength=3)
        assert others[k] == 0
        share = others.max() / others.sum()
        assert share < 0.56, "each of the two other classes gets about half"
