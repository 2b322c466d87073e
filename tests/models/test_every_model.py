"""Every registered model: training on drawn faces, checkpoints, and evaluation with every metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ccvae_eval
from ccvae_eval.api import DEFAULT_METRICS
from ccvae_eval.checkpoint import save_checkpoint
from ccvae_eval.core.errors import CcvaeEvalError, UsageError
from ccvae_eval.data.memory import as_data_set
from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import prepare as prepare_subject
from ccvae_eval.metrics.diversity.metric import Diversity
from ccvae_eval.model.interface import (
    HasBound,
    HasConditionalPrior,
    Intervenes,
    LatentLayout,
    ModelContext,
    Predicts,
    uniform_prior,
)
from ccvae_eval.plugins import registry
from ccvae_eval.training import Finished, Step, TrainingSettings, fit, prepare, record
from tests.support.fakes import Squares, SquaresJudge
from tests.testing.test_models import SETTINGS

NAMES = tuple(SETTINGS)
LABELS = ("Eyeglasses", "Hair_Color", "Wearing_Hat")
FACES = Faces(size=32, n=4000)
HOW = TrainingSettings(labels=LABELS, batch=16, steps=25, rate=0.5, learning_rate=2e-3, validation=0.0)
OPTIONS: Mapping[str, Mapping[str, Any]] = {**SETTINGS, "diva": {"domain": "Hair_Color", "block": 4, "style": 8}}
SAMPLE = 90
STATM, PAGE_SIZE = Path("/proc/self/statm"), 4096
QUICK: Mapping[str, Mapping[str, Any]] = {
    "locality": {"steps": 3}, "diversity": {"draws": 4, "redrawn": 4}, "density": {"curve_draws": 50},
}  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[float], Path]:
    """Name, losses of the first objective at each step, and checkpoint."""
    name = request.param
    model, supervision = prepare(name, OPTIONS[name], FACES, HOW)
    events = list(fit(model, FACES, HOW))
    losses, last = [event.terms["loss"] for event in events if isinstance(event, Step)], events[-1]
    assert isinstance(last, Finished)
    path = tmp_path_factory.mktemp("models") / f"{name}.pt"
    anything: Any = model
    save_checkpoint(path, anything, name=name, data=FACES, training=record(anything, FACES, HOW, supervision, last))
    return name, losses, path


@pytest.fixture(scope="module")
def run(trained: tuple[str, list[float], Path]) -> Run:
    return ccvae_eval.evaluate(trained[2], FACES, sample=SAMPLE, judge="none", references=False, options=QUICK)


def test_short_training_lowers_the_loss(trained: tuple[str, list[float], Path]) -> None:
    _, losses, _ = trained
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_a_checkpoint_restores_the_model(trained: tuple[str, list[float], Path]) -> None:
    name, _, path = trained
    opened = ccvae_eval.load(path)
    again = ccvae_eval.load(path)
    assert (opened.name, type(opened.model)) == (name, registry.models[name])
    batch = FACES.batch(np.arange(4))
    one, other = (model.model.encode(batch.images) for model in (opened, again))  # type: ignore[operator]
    assert torch.equal(one.loc, other.loc)
    assert opened.record is not None
    assert opened.record.training["model"] == name.replace("-", "")


def reason(run: Run, metric: str) -> str:
    measurement = run.measurement(metric)
    return "" if measurement.reason is None else measurement.reason.text


def test_every_metric_gives_a_number_or_a_reason(trained: tuple[str, list[float], Path], run: Run) -> None:
    model: Any = ccvae_eval.load(trained[2]).model
    status = {m.metric: m.status for m in run.measurements}
    assert "failed" not in status.values(), [m.reason for m in run.measurements]
    if model.layout.characteristics:
        assert status["density"] == status["accuracy"] == "ok"
    else:  # after 25 steps no latent dimension may predict a label better than chance
        assert status["density"] == "ok" or "unassigned" in reason(run, "density")
        assert status["accuracy"] == "ok" or not isinstance(model, Predicts)
    if isinstance(model, HasConditionalPrior):
        assert status == dict.fromkeys(DEFAULT_METRICS, "ok")
    else:
        assert status["diversity"] == "unsupported"
        assert f"{type(model).__name__} has no p(z_c|y)" in reason(run, "diversity")
    bounds = [v for v in run.measurement("reconstruction").values if v.name == "bound"]
    assert bool(bounds) is isinstance(model, HasBound)
    assert all(v.estimate.defined and v.estimate.value < 0 for v in bounds)
    if isinstance(model, Intervenes):
        assert status["drift"] == "ok"
        assert {v.characteristic for v in run.measurement("drift").values} == {*LABELS, None}


def test_values_of_given_labels_are_marked(trained: tuple[str, list[float], Path], run: Run) -> None:
    model: Any = ccvae_eval.load(trained[2]).model
    given = getattr(model, "given", ())
    own = [v for v in run.measurement("density").values if v.name == "auc" and v.characteristic is not None]
    for row in own:
        assert row.note.startswith("given") == (row.characteristic in given), row
    accuracy = [v for v in run.measurement("accuracy").values if v.name == "accuracy" and v.characteristic is not None]
    for row in accuracy:
        assert row.note.startswith("given") == (bool(given) and not isinstance(model, Predicts)), row
    leak = [v for v in run.measurement("density").values if v.name == "style_auc" and v.characteristic is not None]
    assert all(not row.note.startswith("given") or given for row in leak)
    if given and leak:  # information about a given label in the style is a finding, so it enters the mean
        mean = run.find("density.style_auc")
        assert mean.estimate.value == pytest.approx(np.mean([row.estimate.value for row in leak]))


def test_point_masses_have_a_spread_of_0(trained: tuple[str, list[float], Path], run: Run) -> None:
    """m2 and condvae: p(z_c|y) is a point mass, and the report says so."""
    name, _, path = trained
    rows = [v for v in run.measurement("diversity").values if v.name == "spread"]
    if name in ("m2", "condvae", "condvae-info"):
        assert {v.estimate.value for v in rows} == {0.0}
        each = [v for v in rows if v.characteristic is not None]
        assert all("by construction: p(z_c|y) is a point mass" in v.note for v in each)
        prior = ccvae_eval.load(path).model.conditional_prior(torch.tensor([[1.0, 2.0, 0.0]]))  # type: ignore[operator]
        assert not bool(prior.scale.any())
    elif rows:
        assert all(v.estimate.value > 0 for v in rows if v.estimate.defined)


def test_a_wrapped_model_can_be_evaluated(trained: tuple[str, list[float], Path]) -> None:
    model: Any = ccvae_eval.load(trained[2]).model
    options: dict[str, Any] = {}
    if isinstance(model, Predicts):
        options["predict"] = lambda codes: model.predict(torch.zeros(len(codes), 3, 32, 32), codes)
    if isinstance(model, HasConditionalPrior):
        options["prior"] = model.conditional_prior
    characteristics = {name: list(columns) for name, columns in model.layout.characteristics.items()}
    wrapped = ccvae_eval.wrap(
        encode=model.encode, decode=model.decode, dim=model.layout.dim, characteristics=characteristics,
        labels=model.labels, **options,
    )  # fmt: skip
    found = ccvae_eval.evaluate(wrapped, FACES, ["density", "accuracy"], sample=60, judge="none", references=False)
    if characteristics:
        assert [m.status for m in found.measurements] == ["ok", "ok"]
    else:
        assert {m.status for m in found.measurements} <= {"ok", "undefined"}


WRONG: Mapping[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "unknown label": ({}, {"labels": ("Eyeglases",)}, "Eyeglasses"),
    "no labelled images": ({}, {"rate": 0.0}, "rate must be above 0"),
    "unknown setting": ({"lattent": 3}, {}, "lattent"),
    "width 0": ({"hidden": 0}, {}, "hidden must be at least 1, got 0"),
    "unknown likelihood": ({"likelihood": "gausian"}, {}, "gausian"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_perceptron_supports_images_of_any_size(name: str) -> None:
    """Convolutions refuse such a size. All weights of the perceptron are trained."""
    data = as_data_set(
        (np.random.default_rng(0).random((40, 3, 9, 7), np.float32), FACES.labels_of(np.arange(40)), FACES.schema)
    )
    how = replace(HOW, steps=2)
    options = {**OPTIONS[name], "hidden": 6}
    with pytest.raises(UsageError, match="do not support images of 3 x 9 x 7"):
        prepare(name, options, data, how)
    model: Any = prepare(name, {**options, "network": "perceptron"}, data, how)[0]
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert list(fit(model, data, how))
    images = data.batch(np.arange(4))
    codes = model.encode(images.images, images.labels).loc
    assert model.decode(codes).shape == (4, 3, 9, 7)
    unchanged = [key for key, tensor in model.named_parameters() if torch.equal(tensor, before[key])]
    assert not [key for key in unchanged if "encoder" in key or "decoder" in key]


@pytest.mark.skipif(not STATM.exists(), reason="the memory of a process is read from /proc")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "vae" else pytest.mark.soak) for name in NAMES]
)
def test_memory_does_not_grow_over_a_thousand_steps(name: str) -> None:
    """Retaining the images of each step alone would take 79 MB."""
    data = Faces(size=32, n=200)
    how = replace(HOW, steps=1000, batch=8)
    model: Any = prepare(name, {**OPTIONS[name], "network": "perceptron", "hidden": 8}, data, how)[0]
    memory = {e.step: resident() for e in fit(model, data, how) if isinstance(e, Step) and e.step in (200, 1000)}
    assert memory[1000] - memory[200] < 8e6


def resident() -> int:
    """Resident memory of this process in bytes."""
    return int(STATM.read_text().split()[1]) * PAGE_SIZE


def test_points_are_refused_by_convolutions() -> None:
    data = as_data_set((np.zeros((40, 5), np.float32), FACES.labels_of(np.arange(40)), FACES.schema))
    with pytest.raises(UsageError, match="network=convolutions needs images"):
        prepare("vae", {"network": "convolutions"}, data, HOW)


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "vae"])
def test_invalid_settings_are_refused_before_training(name: str, case: str) -> None:
    options, how, message = WRONG[case]
    domain = {"domain": "Hair_Color"} if name == "diva" else {}
    with pytest.raises(CcvaeEvalError, match=message):
        prepare(name, {**domain, **options}, FACES, TrainingSettings(**{"labels": LABELS, **how}))


@pytest.mark.parametrize("name", ["condvae", "condvae-info", "csvae", "m2"])
def test_models_that_need_all_labels_refuse_data_without_such_images(name: str) -> None:
    images = np.random.default_rng(0).random((40, 1, 28, 28)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 2, (40, 2)).astype(np.float32)
    labels[::2, 0], labels[1::2, 1] = np.nan, np.nan
    data = as_data_set((images, labels, ["a", "b"]))
    if name == "m2":  # sums over missing labels
        prepare(name, {}, data, TrainingSettings())
        return
    with pytest.raises(CcvaeEvalError, match="needs training images with all 2 labels, but none has them"):
        prepare(name, {}, data, TrainingSettings())


@pytest.mark.parametrize("name", NAMES)
def test_a_model_for_points_refuses_images(name: str) -> None:
    schema = FACES.schema.select(LABELS)
    model = registry.models[name].from_settings(OPTIONS[name], ModelContext(schema, (3,), uniform_prior(schema)))
    with pytest.raises(CcvaeEvalError, match=r"was built for inputs of shape \(3,\), the data has \(3, 32, 32\)"):
        list(fit(model, FACES, HOW))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("vae", "mvae")])
def test_every_label_owns_latent_dimensions(name: str) -> None:
    schema = FACES.schema.select(LABELS)
    model = registry.models[name].from_settings(OPTIONS[name], ModelContext(schema, (3, 32, 32), uniform_prior(schema)))
    layout: LatentLayout = model.layout
    assert tuple(layout.characteristics) == LABELS
    assert layout.style


@pytest.mark.parametrize("name", ["m2", "condvae"])
def test_diversity_of_a_point_mass_is_0_by_construction(name: str) -> None:
    """Trained until the judge recognises the classes: the headline value is 0, and its note says why."""
    data = Squares(300)
    how = TrainingSettings(batch=16, steps=60, learning_rate=5e-3, validation=0.0)
    model, _ = prepare(name, {"style": 8}, data, how)
    for _ in fit(model, data, how):
        pass
    anything: Any = model
    subject = prepare_subject(anything, data, data.split("test"), judge=SquaresJudge())
    found = measure(subject, [Diversity(draws=4)]).measurement("diversity")
    rows = [v for v in found.values if v.name == "spread_valid" and v.characteristic is not None and not v.at]
    defined = [v for v in rows if v.estimate.defined]
    assert defined, [v.note for v in rows]
    (mean,) = [v for v in found.values if v.name == "spread_valid" and v.characteristic is None and not v.at]
    assert mean.estimate.value == 0.0
    assert mean.note.startswith("by construction: p(z_c|y) is a point mass")
    for row in defined:
        assert row.estimate.value == 0.0
        assert "by construction" in row.note
    obeyed = [v for v in found.values if v.name == "obeyed" and v.characteristic is not None and v.estimate.defined]
    assert obeyed


@pytest.mark.parametrize("name", ["ccvae", "condvae", "condvae-info", "csvae", "m2", "mvae"])
def test_the_weights_of_a_vae_can_initialise_other_models(name: str) -> None:
    """``--init-from``: all layers of both trunks have the same shape, except the first layer of the decoder."""
    schema = FACES.schema.select(LABELS)
    context = ModelContext(schema, (3, 32, 32), uniform_prior(schema))
    vae, other = (registry.models[each].from_settings({}, context).state_dict() for each in ("vae", name))
    shared = {key for key, tensor in vae.items() if key in other and other[key].shape == tensor.shape}
    layers = {key for key in vae if ".trunk." in key}
    assert layers - shared <= {"decoder.trunk.0.weight"}
