"""fit and prepare: training, stopping conditions, errors, and resuming to the same weights after a kill."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from ccvae_eval.checkpoint import read_bundle, write_bundle
from ccvae_eval.core.errors import CcvaeEvalError, CheckpointError, DataError, NonFiniteError, UsageError
from ccvae_eval.core.types import Codes, Gaussian
from ccvae_eval.model.interface import Batch, LabelSchema, LatentLayout, Objective
from ccvae_eval.plugins.registry import Registration
from ccvae_eval.training import (
    HISTORY,
    STATE,
    Epoch,
    Event,
    Finished,
    Saved,
    Started,
    Step,
    TrainingSettings,
    Validation,
    fit,
    prepare,
    record,
)
from tests.support.clouds import Clouds, NoiseImages
from tests.support.paths import ROOT

SETTINGS = TrainingSettings(epochs=3, batch=20, rate=0.5, learning_rate=1e-2, save_minutes=0.0)
"""Five steps per epoch."""


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def built(settings: TrainingSettings = SETTINGS, name: str = "ccvae", **options: Any) -> nn.Module:
    defaults = {"ccvae": {"style": 1, "hidden": 16, "class_block": 1}, "vae": {"latent": 3, "hidden": 16}}[name]
    return prepare(name, defaults | options, Clouds(), settings)[0]


def trained(settings: TrainingSettings = SETTINGS, **options: Any) -> tuple[nn.Module, list[Event]]:
    model = built(settings)
    return model, list(fit(model, Clouds(), settings, **options))


def of(kind: type[Any], events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def test_events_report_each_step_epoch_and_validation() -> None:
    _, events = trained()
    assert events[0] == Started(step=0, steps=15, images=95, labelled=48, validation=5)
    assert [event.step for event in of(Step, events)] == list(range(1, 16))
    assert [(event.epoch, event.step) for event in of(Epoch, events)] == [(0, 5), (1, 10), (2, 15)]
    assert [event.epoch for event in of(Validation, events)] == [0, 1, 2]
    assert not of(Saved, events), "nothing is written without a folder"
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.step, last.epoch) == ("epochs", 15, 2)
    assert {"loss", "supervised.rows", "unsupervised.value"} <= of(Epoch, events)[0].terms.keys()
    assert of(Epoch, events)[0].terms["supervised.rows"] == 48
    assert of(Validation, events)[0].terms["labels.rows"] == 10


def test_training_lowers_the_loss_and_predicts_the_labels() -> None:
    settings = dataclasses.replace(SETTINGS, epochs=30, validation=0.2, learning_rate=2e-2)
    events = list(fit(built(settings, prior_mean=2), Clouds(), settings))
    first, last = of(Validation, events)[0], of(Validation, events)[-1]
    assert last.terms["loss"] < first.terms["loss"] - 1
    assert last.terms["labels.accuracy"] > 0.9


def test_same_seed_gives_same_weights_without_global_random_state() -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    first, again = trained()[0], trained()[0]
    other = trained(dataclasses.replace(SETTINGS, seed=1))[0]
    assert same(weights_of(first), weights_of(again))
    assert not same(weights_of(first), weights_of(other))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # type: ignore[index]


RESUMED = {
    "plain": SETTINGS,
    "averaged": dataclasses.replace(SETTINGS, average=0.9),
    "patient": dataclasses.replace(SETTINGS, patience=1, epochs=6, learning_rate=0.3),
}


@pytest.mark.parametrize("kind", RESUMED)
@pytest.mark.parametrize("steps", [1, 7, 10])
def test_an_interrupted_training_resumes_to_the_same_weights(kind: str, steps: int, tmp_path: Path) -> None:
    settings = RESUMED[kind]
    whole, expected = trained(settings)
    saved = 0
    for event in fit(built(settings), Clouds(), settings, folder=tmp_path):
        saved += isinstance(event, Saved)
        if saved == steps:
            break  # work after the saved state is lost
    model = built(dataclasses.replace(settings, epochs=settings.epochs))
    resumed = list(fit(model, Clouds(), settings, folder=tmp_path, resume=True))
    assert resumed[0].step == steps
    assert same(weights_of(whole), weights_of(model))
    last, expected_last = resumed[-1], expected[-1]
    assert (last.reason, last.step) == (expected_last.reason, expected_last.step)  # type: ignore[union-attr]
    before, after = ([(v.step, v.terms) for v in of(Validation, events)] for events in (expected, resumed))
    assert before[len(before) - len(after) :] == after
    rows = (tmp_path / HISTORY).read_text().splitlines()[1:]
    assert len(rows) == 2 * (expected_last.epoch + 1)  # type: ignore[union-attr]
    losses = [float(row.split(",")[4]) for row in rows if row.startswith("train")]
    assert losses == [event.terms["loss"] for event in of(Epoch, expected)]


def test_a_stopped_training_is_saved_and_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole, _ = trained()
    calls: list[int] = []
    first = built()
    events = list(fit(first, Clouds(), SETTINGS, folder=tmp_path, stop=lambda: bool(calls.append(1)) or len(calls) > 7))
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "stopped"
    assert of(Epoch, events)[-1].step == events[-1].step, "the unfinished epoch is reported"
    second = built()
    list(fit(second, Clouds(), SETTINGS, folder=tmp_path, resume=True))
    assert same(weights_of(whole), weights_of(second))


def test_a_finished_training_can_be_extended(tmp_path: Path) -> None:
    longer = dataclasses.replace(SETTINGS, epochs=5)
    whole, _ = trained(longer)
    model = built()
    list(fit(model, Clouds(), SETTINGS, folder=tmp_path))
    list(fit(model, Clouds(), longer, folder=tmp_path, resume=True))
    assert same(weights_of(whole), weights_of(model))


CHILD = """
import sys
from pathlib import Path
from tests.training.test_training import SETTINGS, built
from tests.support.clouds import Clouds
from ccvae_eval.training import Saved, fit
for event in fit(built(), Clouds(), SETTINGS, folder=Path(sys.argv[1]), resume=True):
    if isinstance(event, Saved):
        print(event.step, flush=True)
"""


@pytest.mark.slow
def test_a_killed_training_resumes_from_its_last_saved_state(tmp_path: Path) -> None:
    whole, _ = trained()
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stdout is not None
    with child.stdout as lines:
        for line in lines:
            if int(line) >= 6:
                os.kill(child.pid, signal.SIGKILL)
                break
    assert child.wait() == -signal.SIGKILL
    model = built()
    events = fit(model, Clouds(), SETTINGS, folder=tmp_path, resume=True)
    started = next(events)
    assert isinstance(started, Started)
    assert 6 <= started.step < 15
    list(events)
    assert same(weights_of(whole), weights_of(model))


def test_a_folder_with_a_training_is_not_overwritten(tmp_path: Path) -> None:
    list(fit(built(), Clouds(), SETTINGS, folder=tmp_path))
    with pytest.raises(UsageError, match="already contains a training"):
        fit(built(), Clouds(), SETTINGS, folder=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"), [({"batch": 10}, "batch"), ({"seed": 1}, "seed"), ({"rate": 0.4}, "rate")]
)
def test_a_training_with_other_settings_is_not_resumed(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    list(fit(built(), Clouds(), SETTINGS, folder=tmp_path))
    other = dataclasses.replace(SETTINGS, **change)
    with pytest.raises(UsageError, match=message):
        fit(built(other), Clouds(), other, folder=tmp_path, resume=True)
    with pytest.raises(UsageError, match="data"):
        fit(built(), Clouds(120), SETTINGS, folder=tmp_path, resume=True)
    with pytest.raises(UsageError, match="style"):
        fit(built(style=2), Clouds(), SETTINGS, folder=tmp_path, resume=True)


def test_a_checkpoint_that_is_not_a_training_state_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / STATE, {"a": torch.zeros(1)}, {"hello": 1})
    with pytest.raises(CheckpointError, match="not the state of a training"):
        fit(built(), Clouds(), SETTINGS, folder=tmp_path, resume=True)


def test_a_malformed_training_state_is_refused_with_the_place(tmp_path: Path) -> None:
    progress = {"step": "many", "averages": {}}
    write_bundle(
        tmp_path / STATE, {"a": torch.zeros(1)}, {"training_state": 1, "fingerprint": {}, "progress": progress}
    )
    with pytest.raises(CheckpointError, match=r"training\.pt: progress\.step must be an integer, got 'many'"):
        fit(built(), Clouds(), SETTINGS, folder=tmp_path, resume=True)


def test_steps_can_limit_a_training_instead_of_epochs() -> None:
    _, events = trained(dataclasses.replace(SETTINGS, steps=7))
    assert events[-1].reason == "steps"  # type: ignore[union-attr]
    assert events[-1].step == 7
    assert [event.step for event in of(Epoch, events)] == [5, 7]


def test_minutes_limit_a_training() -> None:
    _, events = trained(dataclasses.replace(SETTINGS, epochs=10**6, minutes=0.005))
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.reason == "minutes"
    assert 0.3 <= last.seconds < 10


def test_patience_returns_to_the_best_weights() -> None:
    settings = dataclasses.replace(SETTINGS, epochs=100, patience=2, learning_rate=0.3, validation=0.2)
    model, events = trained(settings)
    validations = of(Validation, events)
    losses = [event.terms["loss"] for event in validations]
    assert events[-1].reason == "patience"  # type: ignore[union-attr]
    assert len(losses) < 100
    assert losses.index(min(losses)) == len(losses) - 3
    assert [event.improved for event in validations[-3:]] == [True, False, False]
    shorter = built(settings)
    list(fit(shorter, Clouds(), dataclasses.replace(settings, epochs=len(losses) - 2, patience=0)))
    assert same(weights_of(model), weights_of(shorter))


def test_averaged_weights_are_the_result() -> None:
    settings = dataclasses.replace(SETTINGS, average=0.7, epochs=1, validation=0.0)
    model, plain = built(settings), built(settings)
    expected = weights_of(plain)
    for event in fit(plain, Clouds(), dataclasses.replace(settings, average=0.0)):
        if isinstance(event, Step):
            decay = min(0.7, event.step / (9 + event.step))
            for name, tensor in plain.state_dict().items():
                expected[name] = decay * expected[name] + (1 - decay) * tensor
    list(fit(model, Clouds(), settings))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])


class Duel(nn.Module):
    """Two objectives of the product of two parameters, each of which updates its own parameter.

    Args:
        nan_call: number of the call at which the loss is NaN.
    """

    def __init__(self, nan_call: int = -1) -> None:
        super().__init__()
        self.one, self.two = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
        self.nan_call, self.calls, self.seen = nan_call, 0, list[tuple[float, float]]()
        self.layout, self.labels = LatentLayout(1), LabelSchema(())

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Gaussian:
        return Gaussian(images[:, :1], torch.ones(len(images), 1))

    def decode(self, codes: Codes) -> Tensor:
        return codes.expand(-1, 3)

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        self.calls += 1
        product = self.one * self.two * (torch.nan if self.calls == self.nan_call else 1)
        self.seen.append((self.one.item(), self.two.item()))
        yield Objective("model", product.square(), {"size": 1.0}, (self.one,))
        self.seen.append((self.one.item(), self.two.item()))
        yield Objective("adversary", -self.one * self.two, {"size": 2.0}, (self.two,))


def test_each_objective_updates_its_own_parameters_in_turn() -> None:
    model = Duel()
    settings = dataclasses.replace(SETTINGS, steps=1, validation=0.0, learning_rate=0.1)
    events = list(fit(model, Clouds(), settings))
    assert model.seen == [(1.0, 1.0), (pytest.approx(0.9), 1.0)]
    assert model.two.item() == pytest.approx(1.1)
    assert model.one.grad is None
    assert model.two.grad is None
    assert of(Step, events)[0].terms == pytest.approx(
        {"loss": 1.0, "size": 1.0, "adversary.loss": -0.9, "adversary.size": 2.0}
    )


def test_a_loss_that_is_nan_is_an_error() -> None:
    events = fit(Duel(nan_call=3), Clouds(), dataclasses.replace(SETTINGS, validation=0.0))
    with pytest.raises(NonFiniteError, match="step 3"):
        list(events)


def test_clip_limits_the_norm_of_the_gradient(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, steps=1, clip=1e-3, validation=0.0)
    model = Duel()
    list(fit(model, Clouds(), settings, folder=tmp_path))
    first_moment = read_bundle(tmp_path / STATE).tensors["optimiser|model/0/exp_avg"]
    assert first_moment.item() == pytest.approx(0.1 * 1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "message"), [(object, "object is not a subclass of nn.Module"), (nn.Linear, "must have from_settings")]
)
def test_a_registered_model_that_cannot_be_trained_is_refused(
    kind: type, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Registration, "load", lambda self: kind)
    with pytest.raises(CcvaeEvalError, match=message):
        prepare("ccvae", {}, Clouds(), SETTINGS)


def test_validation_does_not_affect_the_weights() -> None:
    settings = dataclasses.replace(SETTINGS, validation=0.2)
    often, seldom = (trained(dataclasses.replace(settings, validate_every=n))[0] for n in (1, 3))
    assert same(weights_of(often), weights_of(seldom))


def test_models_data_and_settings_that_do_not_match_are_refused() -> None:
    unsupervised = TrainingSettings(rate=0.0)
    with pytest.raises(UsageError, match="train vae"):
        prepare("ccvae", {}, Clouds(), unsupervised)
    assert prepare("vae", {}, Clouds(), unsupervised)[0]
    constant = Clouds().labels.copy()
    constant[:, 0] = 1
    with pytest.raises(DataError, match="Right"):
        prepare("ccvae", {}, Clouds(labels=constant), SETTINGS)
    with pytest.raises(UsageError, match="linear is not trainable"):
        fit(nn.Linear(3, 3), Clouds(), SETTINGS)
    with pytest.raises(UsageError, match="shape"):
        fit(built(), NoiseImages(), SETTINGS)
    with pytest.raises(UsageError, match="Did you mean 'ccvae'"):
        prepare("ccvea", {}, Clouds(), SETTINGS)
    with pytest.raises(UsageError, match="style"):
        prepare("ccvae", {"style": -1}, Clouds(), SETTINGS)
    with pytest.raises(UsageError, match="Did you mean 'Height'"):
        prepare("ccvae", {}, Clouds(), dataclasses.replace(SETTINGS, labels=("Heigth",)))


def test_prepare_uses_the_selected_labels_and_their_frequencies() -> None:
    settings = dataclasses.replace(SETTINGS, labels=("Height",), rate=0.2)
    model, supervision = prepare("ccvae", {"style": "2"}, Clouds(), settings)
    context: Any = model.context
    assert context.labels.names == ("Height",)
    assert context.label_prior == supervision.label_prior
    assert context.input_shape == (3,)
    last = list(fit(model, Clouds(), dataclasses.replace(settings, steps=7)))[-1]
    assert isinstance(last, Finished)
    facts = record(model, Clouds(), settings, supervision, last)  # type: ignore[arg-type]
    assert facts["labelled"] == 19
    assert facts["rate"] == 0.2
    assert (facts["steps"], facts["epochs"], facts["ended"]) == (7, 2, "steps")


def test_training_on_images_updates_every_weight() -> None:
    settings = dataclasses.replace(SETTINGS, epochs=1, batch=32)
    model, _ = prepare("ccvae", {"style": 1}, NoiseImages(), settings)
    before = weights_of(model)
    list(fit(model, NoiseImages(), settings))
    updated = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert set(before) - set(updated) == {name for name in before if name.endswith("label_prior")}
