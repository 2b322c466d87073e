"""Evaluation of a checkpoint from Python and from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ccvae_eval
from ccvae_eval.api import DEFAULT_METRICS, environment
from ccvae_eval.checkpoint import save_checkpoint
from ccvae_eval.core.errors import InputError, LabelMismatchError, UsageError
from ccvae_eval.data.spec import open_data
from ccvae_eval.evaluation.storage import RUN_SCHEMA
from ccvae_eval.plugins import registry
from ccvae_eval.training import TrainingSettings, fit, prepare
from tests.support.commands import run_command
from tests.support.fakes import Squares, SquaresVAE

SAMPLE = 90
LARGEST_PAGE = 3_000_000
CHECKPOINT = Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt"
LABELS = ["Eyeglasses", "Wearing_Necktie"]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("CCVAE_EVAL_DATA", raising=False)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _validate(schema: dict[str, Any], document: Any, where: str = "run") -> None:
    """Validates a document; supports the parts of JSON Schema that ``RUN_SCHEMA`` uses."""
    for option in schema.get("anyOf", []):
        if option.get("type") == "null" and document is None:
            return
        if option.get("type") == "object" and document is not None:
            schema = option
    if "const" in schema:
        assert document == schema["const"], where
    if "enum" in schema:
        assert document in schema["enum"], where
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
    names = schema.get("type", [])
    if names:
        wanted = tuple(
            kind
            for name in ([names] if isinstance(names, str) else names)
            for kind in ((int, float) if name == "number" else (kinds[name],))
        )
        assert isinstance(document, wanted), f"{where} is {document!r}"
    if isinstance(document, dict):
        for name in schema.get("required", []):
            assert name in document, f"{where} lacks {name}"
            _validate(schema["properties"][name], document[name], f"{where}.{name}")
    if isinstance(document, list) and "items" in schema:
        for item in document:
            _validate(schema["items"], item, f"{where}[]")


def test_the_command_prints_one_document_of_the_published_schema(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = run_command(
        "run",
        str(CHECKPOINT),
        "--sample",
        str(SAMPLE),
        "--json",
        "-o",
        str(out),
        "-c",
        LABELS[0],
        "-c",
        LABELS[1],
    )
    assert code == 0
    document = json.loads(capsys.readouterr().out)
    _validate(RUN_SCHEMA, document)
    default = ["density", "measurement", "locality", "drift", "diversity", "accuracy", "reconstruction"]
    assert [m["metric"] for m in document["measurements"]] == default
    assert document["checkpoint"]["model"] == "ccvae"
    assert document["data"]["n"] == SAMPLE
    keys = [
        (m["metric"], v["name"], v["characteristic"], json.dumps(v["at"], sort_keys=True))
        for m in document["measurements"]
        for v in m["values"]
    ]
    assert len(keys) == len(set(keys)), "(metric, name, characteristic, at) is unique"
    checks = document.pop("checks")
    assert {"code", "severity", "title", "sentence", "remedy"} == set(checks[0])
    assert json.loads((out / "run.json").read_text()) == document
    written = {"run.json", "values.csv", "evidence.npz", "pictures.npz", "report.html", "figures"}
    assert {path.name for path in out.iterdir()} == written
    assert len((out / "report.html").read_bytes()) < LARGEST_PAGE
    figures = {path.name.split("-")[0] for path in (out / "figures").iterdir()}
    assert {"density", "locality", "diversity"} <= figures
    assert ccvae_eval.read(out).as_plain() == document


def test_results_do_not_depend_on_batch_size_threads_or_metric_order(threads: None) -> None:
    def numbers(**more: Any) -> dict[str, Any]:
        metrics = more.pop("metrics", DEFAULT_METRICS)
        more |= {"sample": SAMPLE, "characteristics": LABELS, "references": False}
        run = ccvae_eval.evaluate(CHECKPOINT, metrics=metrics, **more)
        return {m["metric"]: m["values"] for m in run.as_plain()["measurements"]}

    torch.set_num_threads(1)
    expected = numbers()
    assert all(row["value"] is not None for row in expected["locality"] if row["name"] == "focus")
    assert numbers(batch_size=1) == expected
    assert numbers(batch_size=7, metrics=DEFAULT_METRICS[::-1]) == expected
    torch.set_num_threads(2)
    assert numbers(batch_size=256) == expected


def test_the_reference_model_gives_the_references_on_rendered_data() -> None:
    run = ccvae_eval.evaluate(CHECKPOINT, metrics=["locality"], sample=SAMPLE, judge="none", characteristics=LABELS)
    row = run.find("locality.focus@Eyeglasses")
    assert row.reference is not None
    assert row.reference > 0.95
    assert row.reference > row.estimate.value


def test_a_model_in_memory_is_evaluated_on_arrays() -> None:
    data, model = Squares(240), SquaresVAE()
    batch = data.batch(np.arange(240))
    wrapped = ccvae_eval.wrap(
        encode=lambda x: model.encode(x),
        decode=model.decode,
        dim=model.layout.dim,
        characteristics={"Glasses": [0], "Smile": [2]},
    )
    arrays = (batch.images.numpy(), batch.labels.numpy()[:, :2], ["Glasses", "Smile"])
    run = ccvae_eval.evaluate(wrapped, arrays, ["density", "locality"], sample="all", judge="none")
    assert run["density.auc@Glasses"] > 0.9
    assert run.measurement("locality").status == "ok"


def test_a_metric_with_its_own_settings() -> None:
    data, model = Squares(300), SquaresVAE()
    locality = registry.metrics["locality"](steps=3)
    run = ccvae_eval.evaluate(model, data, [locality], judge="none")
    assert run.measurement("locality").settings["steps"] == 3
    with pytest.raises(UsageError, match="Did you mean 'steps'"):
        ccvae_eval.evaluate(model, data, ["locality"], options={"locality": {"step": 3}}, judge="none")


@pytest.mark.parametrize("metric", ["density", registry.metrics["locality"](steps=3)])
def test_options_of_metrics_that_are_not_evaluated_are_refused(metric: Any) -> None:
    with pytest.raises(UsageError, match="'locality', which is not evaluated"):
        ccvae_eval.evaluate(SquaresVAE(), Squares(60), [metric], options={"locality": {"steps": 5}}, judge="none")


@pytest.mark.parametrize("metric", [3, registry.metrics["locality"]])
def test_an_object_that_is_not_a_metric_is_refused(metric: Any) -> None:
    with pytest.raises(UsageError, match="is not a metric"):
        ccvae_eval.evaluate(SquaresVAE(), Squares(60), [metric], judge="none")


def test_a_package_without_version_metadata_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV has several distribution names, and packages may be installed without metadata."""

    def version(package: str) -> str:
        if package == "opencv-python":
            raise PackageNotFoundError(package)
        return "1.2"

    monkeypatch.setattr("ccvae_eval.core.devices.version", version)
    packages: Any = environment(torch.device("cpu"))["packages"]
    assert packages["opencv-python"] == "unknown"
    assert packages["torch"] == "1.2"


def test_training_data_that_need_a_path_must_be_named(tmp_path: Path) -> None:
    data = open_data("faces,size=32,n=60")
    model, _ = prepare("vae", {"latent": 4}, data, TrainingSettings())
    made: Any = model

    class Elsewhere:
        spec, digest = "folder", "00"

    path = tmp_path / "elsewhere.pt"
    save_checkpoint(path, made, name="vae", data=Elsewhere(), training={})
    with pytest.raises(InputError, match="name the data with `data`"):
        ccvae_eval.evaluate(path, metrics=["density"])


def test_data_without_the_model_s_labels_are_refused() -> None:
    data = (torch.zeros(60, 3, 64, 64), torch.arange(60)[:, None] % 2, ["Other"])
    with pytest.raises(LabelMismatchError) as caught:
        ccvae_eval.evaluate(CHECKPOINT, data, ["density"], judge="none")
    assert "Eyeglasses" in str(caught.value)


def test_an_unknown_characteristic_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("locality", str(CHECKPOINT), "-c", "Eyeglases", "--sample", "40", "--judge", "none") == 2
    assert "Did you mean 'Eyeglasses'" in capsys.readouterr().err


def test_one_characteristic_has_the_same_values_as_among_others() -> None:
    both, single = (
        ccvae_eval.evaluate(
            CHECKPOINT, metrics=["locality"], sample=SAMPLE, judge="none", references=False, characteristics=c
        )
        for c in (LABELS, LABELS[:1])
    )
    assert single.find("locality.focus@Eyeglasses") == both.find("locality.focus@Eyeglasses")
    assert {v.characteristic for v in single.measurement("locality").values} == {None, "Eyeglasses"}


SETTINGS = {
    "sample": 160,
    "metrics": ["density", "locality", "accuracy"],
    "judge": "none",
    "characteristics": LABELS,
}
HEADLINES = ("density.auc", "locality.focus", "accuracy.balanced_accuracy")


def _assert_below_shipped(model: Any) -> None:
    """The shipped checkpoint scores above the model, with disjoint intervals (above chance where that is undefined)."""
    shipped = ccvae_eval.evaluate(CHECKPOINT, **SETTINGS)
    other = ccvae_eval.evaluate(model, open_data("faces"), references=False, **SETTINGS)
    for address in HEADLINES:
        best, worse = shipped.find(address), other.find(address)
        assert best.estimate.low > (worse.estimate.high if worse.estimate.defined else worse.chance or 0), address


def test_the_shipped_checkpoint_scores_below_the_reference_model() -> None:
    shipped = ccvae_eval.evaluate(CHECKPOINT, **SETTINGS)
    for address in HEADLINES:
        value = shipped.find(address)
        assert value.reference is not None
        assert value.estimate.high < value.reference + 1e-9, address


def test_the_shipped_checkpoint_beats_an_untrained_network() -> None:
    _assert_below_shipped(prepare("ccvae", {}, open_data("faces"), TrainingSettings())[0])


@pytest.mark.soak
def test_the_shipped_checkpoint_beats_an_unsupervised_vae() -> None:
    settings = TrainingSettings(steps=3000, batch=64, validation=0.0)
    model, _ = prepare("vae", {}, data := open_data("faces"), settings)
    for _ in fit(model, data, settings):
        pass
    _assert_below_shipped(model)
