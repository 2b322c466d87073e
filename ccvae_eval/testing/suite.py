"""The contract suite for one plugin, ours or a stranger's: ``ccvae-eval check NAME``.

Each test is one promise. They need the options of :mod:`ccvae_eval.testing.pytest_options`.
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
from ccvae_eval.checkpoint import Adapter, Bundle, open_checkpoint
from ccvae_eval.checkpoint.adapters import Hints, Reads
from ccvae_eval.checkpoint.building import is_rebuildable
from ccvae_eval.core.errors import require
from ccvae_eval.data.spec import open_data
from ccvae_eval.evaluation.run import Run
from ccvae_eval.model.checks import undisturbed
from ccvae_eval.model.interface import GivenLabels, HasConditionalPrior, LabelledVAE, Predicts
from ccvae_eval.plugins.registry import KINDS, Registry
from ccvae_eval.report.interface import Report
from ccvae_eval.testing.data import check_data_set
from ccvae_eval.testing.metric_fixtures import drawn_faces
from ccvae_eval.testing.metrics import check_features, check_matcher, check_metric
from ccvae_eval.testing.model_fixtures import ModelFixture, model_fixture
from ccvae_eval.testing.models import check_model

SAME = 1e-5
"""Relative tolerance between batches of different sizes."""
ALONE = 5
"""Images that are encoded one by one."""


@dataclass(frozen=True)
class Tried:
    """A plugin, and what it is tried with.

    Args:
        name, kind: of the plugin.
        registered: what is registered.
        settings: of a model.
        data: the spec of the images, if one was given.
    """

    name: str
    kind: str
    registered: Any
    settings: Mapping[str, Any]
    data: str | None


@pytest.fixture(scope="module")
def tried(request: pytest.FixtureRequest) -> Tried:
    options = request.config.option
    if not getattr(options, "ccvae_name", None):
        pytest.skip("no plugin is named: -p ccvae_eval.testing.pytest_options --ccvae-name NAME")
    registered = Registry(KINDS[options.ccvae_kind])[options.ccvae_name]
    settings = json.loads(options.ccvae_settings)
    return Tried(options.ccvae_name, options.ccvae_kind, registered, settings, options.ccvae_data)


def _only(tried: Tried, kind: str) -> Any:
    if tried.kind != kind:
        pytest.skip(f"for a {kind}")
    return tried.registered


@pytest.fixture(scope="module")
def sitter(tried: Tried) -> ModelFixture:
    return model_fixture(tried.name, _only(tried, "model"), tried.settings, tried.data)


def _given(sitter: ModelFixture, rows: slice = slice(None)) -> Tensor | None:
    return sitter.labels[rows] if isinstance(sitter.model, GivenLabels) else None


def _is_module(model: object) -> bool:
    return isinstance(model, nn.Module)


def test_shapes_ranges_and_determinism(sitter: ModelFixture) -> None:
    check_model(sitter.model, sitter.images, sitter.labels)


def test_an_image_s_code_does_not_depend_on_its_batch(sitter: ModelFixture, tried: Tried) -> None:
    with undisturbed(sitter.model):
        whole = sitter.model.encode(sitter.images, _given(sitter))
        for row in range(ALONE):
            one = slice(row, row + 1)
            alone = sitter.model.encode(sitter.images[one], _given(sitter, one))
            same = torch.allclose(alone.loc, whole.loc[one], rtol=SAME, atol=SAME)
            require(bool(same), tried.name, "encode of an image alone is its row in a batch: is a layer in train mode?")


def test_characteristics_follow_the_labels_order(sitter: ModelFixture, tried: Tried) -> None:
    model = sitter.model
    if not isinstance(model, HasConditionalPrior):
        pytest.skip("it has no conditional_prior")
    assert isinstance(model, LabelledVAE)
    order, known = model.layout.characteristic_columns, sitter.labels.nan_to_num(0)
    with undisturbed(model):
        before = model.conditional_prior(known)
        for label in model.labels:
            changed = known.clone()
            changed[:, model.labels.index(label.name)] = 1 - known[:, model.labels.index(label.name)].clamp(0, 1)
            after = model.conditional_prior(changed)
            moved = (after.loc != before.loc).any(0) | (after.scale != before.scale).any(0)
            theirs = [order[place] for place in torch.nonzero(moved)[:, 0].tolist()]
            own = model.layout.characteristics.get(label.name, ())
            others = [column for column in theirs if column not in own]
            require(
                not others, tried.name, f"p(z_c|y) of label {label.name!r} moves its own columns alone, not {others}"
            )


def test_predict_knows_every_characteristic(sitter: ModelFixture, tried: Tried) -> None:
    model = sitter.model
    if not isinstance(model, Predicts):
        pytest.skip("it has no predict")
    assert isinstance(model, LabelledVAE)
    with undisturbed(model):
        told = model.predict(sitter.images, model.encode(sitter.images, _given(sitter)).loc)
    lacking = [name for name in model.layout.characteristics if name not in told]
    require(not lacking, tried.name, f"predict tells every characteristic, {', '.join(lacking)} is missing")


def test_evaluation_leaves_no_gradient_and_changes_no_weight(sitter: ModelFixture, tried: Tried) -> None:
    model: Any = sitter.model
    if not _is_module(model):
        pytest.skip("it is no nn.Module")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with undisturbed(model):
        decoded = model.decode(model.encode(sitter.images, _given(sitter)).loc)
    require(not decoded.requires_grad, tried.name, "nothing keeps a gradient where torch.no_grad() holds")
    same = all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    require(same, tried.name, "encode and decode change no weight and no buffer")


def test_a_checkpoint_gives_the_same_model_back(sitter: ModelFixture, tried: Tried, tmp_path: Path) -> None:
    if not _is_module(sitter.model):
        pytest.skip("it is no nn.Module")
    if is_rebuildable(tried.registered):
        from ccvae_eval.checkpoint import save_checkpoint

        save_checkpoint(tmp_path / "x.pt", sitter.model, name=tried.name)
        opened = open_checkpoint(tmp_path / "x.pt")
    else:
        torch.save(sitter.model.state_dict(), tmp_path / "x.pt")
        opened = open_checkpoint(tmp_path / "x.pt", model=tried.name, settings=tried.settings)
    again: Any = opened.model
    with undisturbed(sitter.model), undisturbed(again):
        mine, theirs = (m.encode(sitter.images, _given(sitter)) for m in (sitter.model, again))
        require(bool(torch.equal(mine.loc, theirs.loc)), tried.name, "its state_dict holds all that encode needs")
        same = torch.equal(sitter.model.decode(mine.loc), again.decode(mine.loc))
    require(bool(same), tried.name, "its state_dict holds all that decode needs")


def test_an_evaluation_goes_through(sitter: ModelFixture) -> None:
    run = evaluate(sitter.model, sitter.data, sample="all", judge="none", references=False, device="cpu")
    failed = {m.metric: m.reason.text if m.reason else "" for m in run.failed}
    require(not failed, type(sitter.model).__name__, f"no metric fails: {failed}")


def test_the_metric_and_its_laws(tried: Tried) -> None:
    check_metric(_only(tried, "metric")(), drawn_faces())


def test_the_data_set(tried: Tried) -> None:
    _only(tried, "data")
    check_data_set(open_data(tried.data or tried.name))


def test_the_matcher(tried: Tried) -> None:
    check_matcher(_only(tried, "matcher")())


def test_the_features(tried: Tried) -> None:
    check_features(_only(tried, "features")())


def test_the_adapter_refuses_what_it_does_not_know(tried: Tried, tmp_path: Path) -> None:
    adapter = _only(tried, "adapter")()
    methods = isinstance(adapter, Adapter | Hints | Reads)
    require(methods, tried.name, "an adapter has matches, and settings with build, or hints, or read")
    torch.save({"stranger.weight": torch.ones(2)}, tmp_path / "x.pt")
    from ccvae_eval.checkpoint import read_bundle

    for bundle in (read_bundle(tmp_path / "x.pt"), _empty(tmp_path)):
        score = adapter.matches(bundle)
        require(isinstance(score, int | float) and score == 0, tried.name, f"a stranger's file scores 0, not {score}")


def _empty(folder: Path) -> Bundle:
    return Bundle({}, {}, {}, folder / "empty.pt", 0, "0" * 64, "pt-zip")


def test_the_report_of_a_run(tried: Tried, tmp_path: Path) -> None:
    report = _only(tried, "report")()
    require(isinstance(report, Report), tried.name, "a report has write(run, folder)")
    specimen = drawn_faces(count=40)
    run = evaluate(specimen.model, specimen.data, metrics=["density", "accuracy"], sample=40, judge="none")
    before = run.as_plain()
    files = [Path(file) for file in report.write(run, tmp_path)]
    require(bool(files) and all(f.is_file() and f.stat().st_size for f in files), tried.name, "write names its files")
    inside = all(tmp_path.resolve() in file.resolve().parents for file in files)
    require(inside, tried.name, "it writes inside the folder that it was given")
    require(run.as_plain() == before, tried.name, "it leaves the run as it was")
    report.write(Run(run.header, (), {}), tmp_path / "empty")  # a run without measurements is a run
