"""Shares of a run: joined, they give the bits of one process; shares that do not belong together are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ccvae_eval.core.errors import DataError, InputError, UsageError
from ccvae_eval.evaluation.plan import Plan
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.runner import estimated_seconds, run, update
from ccvae_eval.evaluation.shares import DESCRIPTION, identity, merged, read_shares, require_mergeable, write_share
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.reconstruction.metric import Reconstruction
from ccvae_eval.plugins.registry import metrics
from ccvae_eval.report.terminal import plan_line
from tests.support.fakes import Squares, SquaresJudge, SquaresVAE
from tests.support.metric_settings import FAST

SIZE = 16
"""Side of the images: the smallest that every metric accepts."""
QUICK = Reconstruction(importance=0, draws=2)


def planned(count: int, *chosen: Any, seed: int = 0, decoder: Any = None, by: str | None = None) -> Plan:
    """A plan as of a process of its own."""
    model = SquaresVAE(scale=0.3, size=SIZE)
    if decoder is not None:
        model.decode = decoder
    data = Squares(count, size=SIZE)
    return Plan.of(prepare(model, data, np.arange(count), judge=SquaresJudge(), seed=seed, by=by), chosen)


def share(folder: Path, index: int, count: int, plan: Plan) -> Path:
    """Measures a share of a plan and writes it."""
    plan = replace(plan, share=(index, count))
    update(plan)
    return write_share(plan, folder, ["run", "model.pt"])


def require_same_bits(one: Run, other: Run) -> None:
    for plain, found in zip(one, other, strict=True):
        assert repr(plain.values) == repr(found.values), plain.metric
        assert (plain.status, plain.reason, plain.notes) == (found.status, found.reason, found.notes)
        for kind in ("evidence", "pictures"):
            before, after = getattr(plain, kind), getattr(found, kind)
            assert list(before) == list(after)
            for name in before:
                assert (before[name].dtype, before[name].shape) == (after[name].dtype, after[name].shape)
                assert before[name].tobytes() == after[name].tobytes(), f"{plain.metric}: {name}"


@pytest.mark.parametrize(
    ("count", "workers"),
    [
        pytest.param(1100, (2,), marks=pytest.mark.slow, id="short"),
        pytest.param(5000, (1, 2, 5), marks=pytest.mark.soak, id="5,000 images"),
    ],
)
def test_any_number_of_workers_gives_the_bits_of_one(count: int, workers: tuple[int, ...], tmp_path: Path) -> None:
    every = [metrics[name](**settings) for name, settings in FAST.items()]
    whole = run(planned(count, *every))
    assert [m.status for m in whole] == ["ok"] * len(FAST)
    for of in workers:
        folder = tmp_path / str(of)
        for index in range(1, of + 1):
            share(folder, index, of, planned(count, *every))
        require_same_bits(whole, merged(read_shares([folder]), planned(count, *every)))
    assert set(FAST) == set(metrics) - {name for name in metrics if metrics.find(name).distribution != "ccvae-eval"}


def test_the_plan_of_a_share_counts_its_own_images() -> None:
    whole = planned(1100, QUICK)
    first, second, third = (replace(whole, share=(index, 3)) for index in (1, 2, 3))
    assert 1100 * second.decode == 76 * whole.decode > 0
    assert first.decode + second.decode == whole.decode
    assert third.decode == estimated_seconds(third) == 0
    assert plan_line(second) == f"1,100 images to encode, {second.decode:,} to decode"
    empty = "share 3/3 has no images, because shares consist of whole blocks of 1,024"
    assert plan_line(third) == f"1,100 images to encode, 0 to decode: {empty}"
    codes_only = replace(planned(40, metrics["accuracy"]()), share=(2, 2))
    assert plan_line(codes_only) == "40 images to encode, 0 to decode"


def test_the_progress_of_a_share_ends_at_its_own_images() -> None:
    steps: list[tuple[int, int]] = []
    plan = replace(planned(1100, QUICK), share=(2, 2))
    update(plan, lambda *step: steps.append(step))
    assert steps[-1] == (plan.decode, plan.decode)


def test_shares_of_different_plans_are_refused_by_name(tmp_path: Path) -> None:
    share(tmp_path, 1, 2, planned(40, QUICK))
    share(tmp_path, 2, 2, planned(40, QUICK, seed=1))
    with pytest.raises(InputError, match=r"belong to different plans \(seed: 0 in .*share-1-of-2.npz, 1 in .*share-2"):
        read_shares([tmp_path])


def test_another_plan_than_that_of_the_shares_is_refused(tmp_path: Path) -> None:
    share(tmp_path, 1, 1, planned(40, QUICK))
    shares = read_shares([tmp_path])
    for plan, what in (
        (planned(40, replace(QUICK, draws=3)), "settings of reconstruction"),
        (planned(41, QUICK), "images"),
        (planned(40, QUICK, by="Glasses"), "label of `by`"),
        (planned(40, QUICK, metrics["accuracy"]()), "settings of accuracy"),
    ):
        with pytest.raises(InputError, match=rf"different plans \({what}: .* in this plan"):
            merged(shares, plan)
    with pytest.raises(InputError, match="settings of the model: "):
        merged(shares, planned(40, QUICK), model_settings=["latent=4"])


def test_the_identity_of_a_plan_changes_with_its_images() -> None:
    plan, other = (Plan.of(planned(60).subject.subsample(size), [QUICK]) for size in (59, 60))
    assert identity(plan)["images"] != identity(other)["images"]


def test_the_identity_of_a_plan_changes_with_its_precision() -> None:
    plan = planned(40, metrics["accuracy"]())
    reduced = replace(plan, header=replace(plan.header, environment={**plan.header.environment, "precision": "bf16"}))
    changed = {key for key, value in identity(reduced).items() if value != identity(plan)[key]}
    assert changed == {"precision"}


def test_a_share_may_be_as_large_as_the_evidence_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share(tmp_path, 1, 1, planned(40, metrics["accuracy"]()))
    monkeypatch.setattr("ccvae_eval.data.sets.npz.MAX_ARRAYS_BYTES", 1)
    assert len(read_shares([tmp_path])) == 1


def test_missing_and_repeated_shares_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no shares of a run"):
        read_shares([tmp_path])
    share(tmp_path / "a", 2, 4, planned(40, QUICK))
    with pytest.raises(InputError, match="missing shares: 1/4, 3/4, 4/4"):
        read_shares([tmp_path / "a"])
    share(tmp_path / "b", 2, 4, planned(40, QUICK))
    with pytest.raises(InputError, match=r"share 2/4 is there twice \(.*a/share-2-of-4.npz and .*b/share-2-of-4.npz"):
        read_shares([tmp_path / "a", tmp_path / "b"])
    share(tmp_path / "a", 1, 3, planned(40, QUICK))
    with pytest.raises(InputError, match=r"different runs \(.* is one of 3, .* one of 4"):
        read_shares([tmp_path / "a"])


def test_a_metric_that_failed_in_a_share_has_failed(tmp_path: Path) -> None:
    def decode(codes: Any) -> Any:
        raise RuntimeError("the decoder is out of order")

    broken = planned(1100, QUICK, metrics["accuracy"](), decoder=decode)
    for index in (1, 2):
        share(tmp_path / "b", index, 2, planned(1100, QUICK, metrics["accuracy"]()) if index == 1 else broken)
    found = merged(read_shares([tmp_path / "b"]), planned(1100, QUICK, metrics["accuracy"]()))
    assert [m.status for m in found] == ["failed", "ok"]
    reason = found.measurement("reconstruction").reason
    assert reason is not None
    assert "the decoder is out of order" in reason.text


def rewritten(file: Path, **changed: Any) -> None:
    """The file with other arrays; None = without the array."""
    arrays = {**np.load(file), **changed}
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"0.0": np.array([0.5])}, "rows of images must be ascending integers"),
        ({"0.0": np.arange(40)[::-1]}, "rows of images must be ascending integers"),
        ({"0.0": np.arange(1, 41)}, "out of bounds"),
        ({"0.1": np.zeros(39)}, "columns of '' must have a number for each image"),
        ({"0.1": np.zeros(40, np.complex128)}, "columns of '' must have a number for each image"),
        ({"0.1": None}, "0.1"),
    ],
)
def test_a_damaged_state_is_refused(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    rewritten(share(tmp_path, 1, 1, planned(40, QUICK)), **changed)
    with pytest.raises(DataError, match=rf"share-1-of-1.npz: reconstruction: the share is damaged .*{message}"):
        merged(read_shares([tmp_path]), planned(40, QUICK))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([{}], dtype=object), "it holds Python objects"),
        (np.zeros(3), "the description must be bytes"),
        (np.frombuffer(b"{", np.uint8), "share.json"),
        (np.frombuffer(b'{"format": 2}', np.uint8), "format"),
        (None, "the array 'share.json' is missing"),
    ],
)
def test_a_damaged_description_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    rewritten(share(tmp_path, 1, 1, planned(40, QUICK)), **{DESCRIPTION: content})
    with pytest.raises(InputError, match=message):
        read_shares([tmp_path])


def test_a_share_is_plain_data_and_overwritten_by_the_same_command(tmp_path: Path) -> None:
    for _ in range(2):
        file = share(tmp_path, 1, 2, planned(40, QUICK))
    arrays = dict(np.load(file, allow_pickle=False))
    assert json.loads(arrays[DESCRIPTION].tobytes())["arguments"] == ["run", "model.pt"]
    assert [path.name for path in tmp_path.iterdir()] == ["share-1-of-2.npz"]


class Sum:
    """An accumulator that is not derived from ``ImageAccumulator``."""

    def update(self, batch: Any) -> None:
        """Ignores the images."""


def test_a_metric_whose_state_cannot_be_stored_is_refused() -> None:
    plan = planned(40, QUICK, metrics["accuracy"]())
    require_mergeable(plan)
    plan.parts[0].accumulator = Sum()  # type: ignore[assignment]
    with pytest.raises(UsageError, match="metric 'reconstruction' cannot be measured in shares"):
        require_mergeable(plan)
