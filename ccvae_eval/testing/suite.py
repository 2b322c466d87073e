"""The conformance suite for one plugin, as pytest tests: ``ccvae-eval check NAME``.

The tests need the options of :mod:`ccvae_eval.testing.pytest_options`, which name the plugin.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ccvae_eval.api import evaluate
from ccvae_eval.checkpoint import Adapter, Bundle, open_checkpoint, read_bundle, save_checkpoint
from ccvae_eval.checkpoint.adapters import Hints, Reads
from ccvae_eval.checkpoint.building import is_rebuildable
from ccvae_eval.core.errors import require
from ccvae_eval.data.spec import open_data
from ccvae_eval.evaluation.run import Run
from ccvae_eval.model.checks import evaluation_mode
from ccvae_eval.model.interface import GivenLabels, HasConditionalPrior, LabelledVAE, Predicts, supports, type_name
from ccvae_eval.plugins.registry import KINDS, Registry
from ccvae_eval.report.interface import Report
from ccvae_eval.testing.data import check_data_set
from ccvae_eval.testing.metric_fixtures import drawn_faces
from ccvae_eval.testing.metrics import check_features, check_matcher, check_metric
from ccvae_eval.testing.model_fixtures import ModelFixture, model_fixture
from ccvae_eval.testing.models import check_model

TOLERANCE = 1e-5
"""Relative tolerance between batches of different sizes."""
SINGLE_IMAGES = 5
"""Images that are encoded one by one."""


@dataclass(frozen=True)
class PluginUnderTest:
    """A plugin and the inputs of its tests.

    Args:
        name, kind: the plugin's registered name and kind.
        registered: the registered class.
        settings: settings of a model.
        data: the spec of the data set; None if none was given.
    """

    name: str
    kind: str
    registered: Any
    settings: Mapping[str, Any]
    data: str | None


@pytest.fixture(scope="module")
def plugin(request: pytest.FixtureRequest) -> PluginUnderTest:
    options = request.config.option
    if not getattr(options, "ccvae_name", None):
        pytest.skip("name a plugin: -p ccvae_eval.testing.pytest_options --ccvae-name NAME")
    registered = Registry(KINDS[options.ccvae_kind])[options.ccvae_name]
    settings = json.loads(options.ccvae_settings)
    return PluginUnderTest(options.ccvae_name, options.ccvae_kind, registered, settings, options.ccvae_data)


def _registered(plugin: PluginUnderTest, kind: str) -> Any:
    """The plugin's class; skips the test if the plugin is of another kind."""
    if plugin.kind != kind:
        pytest.skip(f"applies to kind {kind} only")
    return plugin.registered


@pytest.fixture(scope="module")
def fixture(plugin: PluginUnderTest) -> ModelFixture:
    return model_fixture(plugin.name, _registered(plugin, "model"), plugin.settings, plugin.data)


def _given(fixture: ModelFixture, rows: slice = slice(None)) -> Tensor | None:
    """The labels, for an encoder that takes them."""
    return fixture.labels[rows] if supports(fixture.model, GivenLabels) else None


def _is_module(model: object) -> bool:
    return isinstance(model, nn.Module)


def test_shapes_ranges_and_determinism(fixture: ModelFixture) -> None:
    """Shapes, ranges and determinism."""
    check_model(fixture.model, fixture.images, fixture.labels)


def test_codes_do_not_depend_on_the_batch(fixture: ModelFixture, plugin: PluginUnderTest) -> None:
    """An image's codes do not depend on its batch."""
    with evaluation_mode(fixture.model):
        batch = fixture.model.encode(fixture.images, _given(fixture))
        for row in range(SINGLE_IMAGES):
            rows = slice(row, row + 1)
            single = fixture.model.encode(fixture.images[rows], _given(fixture, rows))
            same = torch.allclose(single.loc, batch.loc[rows], rtol=TOLERANCE, atol=TOLERANCE)
            text = "encode must give an image the same code alone and in a batch (is a layer in training mode?)"
            require(bool(same), plugin.name, text)


def test_each_label_moves_its_own_latent_dimensions(fixture: ModelFixture, plugin: PluginUnderTest) -> None:
    """Each label moves its own latent dimensions."""
    model = fixture.model
    if not supports(model, HasConditionalPrior):
        pytest.skip("the model has no conditional_prior")
    assert supports(model, LabelledVAE)
    order, known = model.layout.characteristic_columns, fixture.labels.nan_to_num(0)
    with evaluation_mode(model):
        before = model.conditional_prior(known)
        for label in model.labels:
            changed = known.clone()
            changed[:, model.labels.index(label.name)] = 1 - known[:, model.labels.index(label.name)].clamp(0, 1)
            after = model.conditional_prior(changed)
            moved = (after.loc != before.loc).any(0) | (after.scale != before.scale).any(0)
            dimensions = [order[j] for j in torch.nonzero(moved)[:, 0].tolist()]
            own = model.layout.characteristics.get(label.name, ())
            others = [dimension for dimension in dimensions if dimension not in own]
            text = f"p(z_c|y) must depend on label {label.name!r} only in its own latent dimensions, not in {others}"
            require(not others, plugin.name, text)


def test_predict_covers_every_characteristic(fixture: ModelFixture, plugin: PluginUnderTest) -> None:
    """predict covers every characteristic."""
    model = fixture.model
    if not supports(model, Predicts):
        pytest.skip("the model has no predict")
    assert supports(model, LabelledVAE)
    with evaluation_mode(model):
        predicted = model.predict(fixture.images, model.encode(fixture.images, _given(fixture)).loc)
    missing = [name for name in model.layout.characteristics if name not in predicted]
    require(not missing, plugin.name, f"predict must return every characteristic, missing: {', '.join(missing)}")


def test_evaluation_has_no_gradients_and_changes_no_weights(fixture: ModelFixture, plugin: PluginUnderTest) -> None:
    """Evaluation has no gradients and changes no weights."""
    model: Any = fixture.model
    if not _is_module(model):
        pytest.skip("the model is not an nn.Module")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with evaluation_mode(model):
        decoded = model.decode(model.encode(fixture.images, _given(fixture)).loc)
    require(not decoded.requires_grad, plugin.name, "the model must not enable gradients under torch.no_grad()")
    same = all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    require(same, plugin.name, "encode and decode must not change weights or buffers")


def test_saving_and_loading_restores_the_model(fixture: ModelFixture, plugin: PluginUnderTest, tmp_path: Path) -> None:
    """Saving and loading restores the model."""
    if not _is_module(fixture.model):
        pytest.skip("the model is not an nn.Module")
    if is_rebuildable(plugin.registered):
        save_checkpoint(tmp_path / "x.pt", fixture.model, name=plugin.name)
        opened = open_checkpoint(tmp_path / "x.pt")
    else:
        torch.save(fixture.model.state_dict(), tmp_path / "x.pt")
        opened = open_checkpoint(tmp_path / "x.pt", model=plugin.name, settings=plugin.settings)
    loaded: Any = opened.model
    with evaluation_mode(fixture.model), evaluation_mode(loaded):
        before, after = (m.encode(fixture.images, _given(fixture)) for m in (fixture.model, loaded))
        require(bool(torch.equal(before.loc, after.loc)), plugin.name, "state_dict must hold all that encode needs")
        same = torch.equal(fixture.model.decode(before.loc), loaded.decode(before.loc))
    require(bool(same), plugin.name, "state_dict must hold all that decode needs")


def test_a_complete_evaluation_succeeds(fixture: ModelFixture) -> None:
    """A complete evaluation succeeds."""
    run = evaluate(fixture.model, fixture.data, sample="all", judge="none", references=False, device="cpu")
    failed: dict[str, list[str]] = {}
    for m in run.failed:
        failed.setdefault(m.reason.text if m.reason else "", []).append(m.metric)
    texts = "\n".join(f"{', '.join(metrics)} failed: {text}" for text, metrics in failed.items())
    require(not failed, type_name(fixture.model), texts)


def test_metric_and_its_laws(plugin: PluginUnderTest) -> None:
    """The metric's interface and its laws."""
    check_metric(_registered(plugin, "metric")(), drawn_faces())


def test_data_set(plugin: PluginUnderTest) -> None:
    """The data set's interface."""
    _registered(plugin, "data")
    check_data_set(open_data(plugin.data or plugin.name))


def test_matcher(plugin: PluginUnderTest) -> None:
    """The matcher's interface."""
    check_matcher(_registered(plugin, "matcher")())


def test_feature_extractor(plugin: PluginUnderTest) -> None:
    """The feature extractor's interface."""
    check_features(_registered(plugin, "features")())


def test_adapter_rejects_unknown_checkpoints(plugin: PluginUnderTest, tmp_path: Path) -> None:
    """The adapter's interface; unknown checkpoints are refused."""
    adapter = _registered(plugin, "adapter")()
    methods = isinstance(adapter, Adapter | Hints | Reads)
    require(methods, plugin.name, "an adapter must have matches, and one of: settings with build, hints, read")
    torch.save({"unknown.weight": torch.ones(2)}, tmp_path / "x.pt")
    for bundle in (read_bundle(tmp_path / "x.pt"), Bundle({}, {}, {}, tmp_path / "empty.pt", 0, "0" * 64, "pt-zip")):
        score = adapter.matches(bundle)
        text = f"matches must return 0 for a checkpoint of another model, got {score}"
        require(isinstance(score, int | float) and score == 0, plugin.name, text)


def test_report_of_a_run(plugin: PluginUnderTest, tmp_path: Path) -> None:
    """The report of a run."""
    report = _registered(plugin, "report")()
    require(isinstance(report, Report), plugin.name, "a report must have write(run, folder)")
    faces = drawn_faces(count=40)
    run = evaluate(faces.model, faces.data, metrics=["density", "accuracy"], sample=40, judge="none")
    before = run.as_plain()
    files = [Path(file) for file in report.write(run, tmp_path)]
    written = bool(files) and all(file.is_file() and file.stat().st_size for file in files)
    require(written, plugin.name, "write must return the files that it wrote")
    inside = all(tmp_path.resolve() in file.resolve().parents for file in files)
    require(inside, plugin.name, "write must write only inside the given folder")
    require(run.as_plain() == before, plugin.name, "write must not modify the run")
    report.write(Run(run.header, (), {}), tmp_path / "empty")  # a run may have no measurements
