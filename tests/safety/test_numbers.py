"""Numbers under pressure: a value is right, or undefined or failed with a reason; JSON never has NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ccvae_eval import Gaussian, evaluate
from ccvae_eval.core.errors import CcvaeEvalError, DataError, NonFiniteError
from ccvae_eval.evaluation.run import Run
from ccvae_eval.model.interface import Batch, Label, LabelSchema, LatentLayout
from tests.support.fakes import Squares, SquaresVAE

METRICS = ("density", "locality", "accuracy", "reconstruction", "diversity")
DECODED = ("locality", "reconstruction", "diversity")
DATA = Squares(900)


class Pressed(SquaresVAE):
    """The squares' model with changed codes and images."""

    def __init__(
        self, codes: Callable[[Tensor], Tensor] = Tensor.clone, images: Callable[[Tensor], Any] = Tensor.clone
    ) -> None:
        super().__init__()
        self.codes, self.images = codes, images

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Gaussian:
        q = super().encode(images, labels)
        return Gaussian(self.codes(q.loc), q.scale)

    def decode(self, codes: Tensor) -> Any:
        return self.images(super().decode(codes))


class Scaled(SquaresVAE):
    """The same model with codes in other units."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit = unit

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Gaussian:
        q = super().encode(images, labels)
        return Gaussian(q.loc * self.unit, q.scale * self.unit)

    def decode(self, codes: Tensor) -> Tensor:
        return super().decode(codes / self.unit)

    def predict(self, images: Tensor, codes: Tensor) -> Mapping[str, Tensor | Gaussian]:
        return super().predict(images, codes / self.unit)

    def conditional_prior(self, labels: Tensor) -> Gaussian:
        prior = super().conditional_prior(labels)
        return Gaussian(prior.loc * self.unit, prior.scale * self.unit)


def run_of(model: Any, metrics: tuple[str, ...] = METRICS, data: Any = DATA, sample: int = 160) -> Run:
    run = evaluate(model, data, metrics, sample=sample, judge="none", references=False, gallery=False, progress=False)
    assert json.loads(json.dumps(run.as_plain(), allow_nan=False)), "JSON has no NaN"
    return run


def statuses(run: Run) -> dict[str, tuple[str, str]]:
    return {m.metric: (m.status, m.reason.code if m.reason else "") for m in run}


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_images_that_are_not_finite_fail_the_metrics_that_decode(number: float) -> None:
    found = statuses(run_of(Pressed(images=lambda x: torch.where(x > 0.9, number, x))))
    assert {name for name, state in found.items() if state == ("failed", "nan")} == set(DECODED)
    assert {name for name, state in found.items() if state == ("ok", "")} == {"density", "accuracy"}


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_codes_that_are_not_finite_end_the_evaluation(number: float) -> None:
    with pytest.raises(NonFiniteError, match="encoder returned NaN or infinity"):
        run_of(Pressed(codes=lambda z: z * number))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_values_of_full_precision(dtype: torch.dtype) -> None:
    def rounded(x: Tensor) -> Tensor:
        return x.to(dtype)

    half = run_of(Pressed(rounded, rounded))
    full = run_of(Pressed(lambda x: rounded(x).float(), lambda x: rounded(x).float()))
    assert set(statuses(half).values()) == {("ok", "")}
    assert half.rows() == full.rows()


class Constant(SquaresVAE):
    """Encodes every image as the same point."""

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Gaussian:
        zeros = torch.zeros_like(super().encode(images, labels).loc)
        return Gaussian(zeros, zeros)


def test_constant_codes_are_undefined_or_at_chance() -> None:
    run = run_of(Constant(), (*METRICS, "disentanglement"))
    assert statuses(run)["locality"] == ("undefined", "undefined")
    assert run["density.auc"] == 0.5 or math.isnan(run["density.auc"])
    assert run["disentanglement.mig"] == 0 or math.isnan(run["disentanglement.mig"])
    assert all(v.estimate.defined or v.note for m in run for v in m.values)


@pytest.mark.parametrize("unit", [1e-30, 1e-12, 1e12, 1e25])
def test_no_value_depends_on_the_units_of_the_codes(unit: float) -> None:
    metrics = ("density", "locality", "accuracy", "disentanglement")
    one, other = run_of(Scaled(1.0), metrics), run_of(Scaled(unit), metrics)
    assert statuses(one) == statuses(other)
    compared = 0
    for row, scaled in zip(one.rows(), other.rows(), strict=True):
        if row["name"] != "wasserstein" and row["characteristic"] is None and not row["at"]:
            assert (row["value"] is None) == (scaled["value"] is None), row["name"]
            if row["value"] is not None:
                compared += 1
                assert scaled["value"] == pytest.approx(row["value"], rel=1e-3, abs=1e-3), row["name"]
    assert compared > 20


@pytest.mark.parametrize("error", [MemoryError("no room"), torch.OutOfMemoryError("no room on the GPU")])
def test_memory_that_runs_out_fails_the_metrics_that_need_it(error: Exception) -> None:
    def fails(_: Tensor) -> Tensor:
        raise error

    found = statuses(run_of(Pressed(images=fails)))
    assert {name for name, state in found.items() if state == ("failed", "oom")} == set(DECODED)
    assert {name for name, state in found.items() if state == ("ok", "")} == {"density", "accuracy"}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images_give_undefined_values_with_a_reason(count: int) -> None:
    for m in run_of(SquaresVAE(), (*METRICS, "disentanglement"), sample=count):
        assert m.status in ("ok", "undefined")
        assert m.status == "ok" or (m.reason and m.reason.text)
        for v in m.values:
            assert v.estimate.defined or v.note, f"{m.metric}.{v.name}@{v.characteristic} has no reason"


class Empty(Squares):
    """Images of which no split has any."""

    def split(self, name: str) -> Any:
        return np.arange(0)


def test_no_image_is_a_refusal() -> None:
    with pytest.raises(DataError, match="the test split is empty"):
        run_of(SquaresVAE(), data=Empty(90))


class Bad(Squares):
    """Images with pixels that are not numbers."""

    def batch(self, ids: Any) -> Batch:
        batch = super().batch(ids)
        return replace(batch, images=torch.where(batch.images > 0.9, math.nan, batch.images))


def test_images_with_nan_end_the_evaluation_with_a_reason() -> None:
    with pytest.raises(CcvaeEvalError, match="NaN"):
        run_of(SquaresVAE(), data=Bad(90))


def wide_schema(count: int) -> LabelSchema:
    return LabelSchema(tuple(Label(f"label {k:04d}") for k in range(count)))


class WideData(Squares):
    """Squares with very many random labels."""

    def __init__(self, labels: int) -> None:
        super().__init__(400)
        self.wide = wide_schema(labels)
        self.bits = np.random.default_rng(0).integers(0, 2, (self.count, labels)).astype(np.float32)

    @property
    def schema(self) -> LabelSchema:
        return self.wide

    def labels_of(self, ids: Any) -> Any:
        return self.bits[np.asarray(ids)]

    def batch(self, ids: Any) -> Batch:
        return replace(super().batch(ids), labels=torch.from_numpy(self.labels_of(ids)))


class WideModel(SquaresVAE):
    """A model that predicts very many labels, of which ten have a latent dimension."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.labels = wide_schema(labels)
        self.layout = LatentLayout(10, {name: (k,) for k, name in enumerate(self.labels.names[:10])})

    def predict(self, images: Tensor, codes: Tensor) -> Mapping[str, Tensor | Gaussian]:
        del images
        return {name: torch.full((len(codes), 2), math.log(0.5)) for name in self.labels.names}


@pytest.mark.parametrize("labels", [120, pytest.param(1000, marks=pytest.mark.soak)])
def test_very_many_labels_are_evaluated(labels: int) -> None:
    run = run_of(WideModel(labels), ("accuracy",), WideData(labels), sample=120)
    assert set(statuses(run).values()) == {("ok", "")}
    assert len({v.characteristic for v in run.measurement("accuracy").values}) == labels + 1
    assert run["accuracy.balanced_accuracy"] == 0.5
