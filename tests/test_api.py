"""From a checkpoint to a run, by Python and by the command line."""

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
from ccvae_eval.api import CARD, environment
from ccvae_eval.checkpoint import save_checkpoint
from ccvae_eval.cli.main import main
from ccvae_eval.core.errors import InputError, LabelMismatchError, UsageError
from ccvae_eval.data.spec import open_data
from ccvae_eval.evaluation.storage import RUN_SCHEMA
from ccvae_eval.plugins import registry
from ccvae_eval.training import TrainingSettings, fit, prepare
from tests.support.fakes import Squares, SquaresVAE

EVERY = list(CARD)
SAMPLE = 90
CHECKPOINT = Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt"
SOME = ["Eyeglasses", "Wearing_Necktie"]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("CCVAE_EVAL_DATA", raising=False)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def _required(schema: dict[str, Any], document: Any, where: str = "run") -> None:
    """The parts of JSON Schema that our schema uses."""
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
            _required(schema["properties"][name], document[name], f"{where}.{name}")
    if isinstance(document, list) and "items" in schema:
        for item in document:
            _required(schema["items"], item, f"{where}[]")


def test_the_command_prints_one_document_of_the_published_schema(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = _command(
        "run", str(CHECKPOINT), "--sample", str(SAMPLE), "--json", "-o", str(out), "-c", SOME[0], "-c", SOME[1]
    )
    assert code == 0
    document = json.loads(capsys.readouterr().out)
    _required(RUN_SCHEMA, document)
    card = ["density", "locality", "drift", "diversity", "accuracy", "reconstruction"]
    assert [m["metric"] for m in document["measurements"]] == card
    assert document["checkpoint"]["model"] == "ccvae"
    assert document["data"]["n"] == SAMPLE
    keys = [
        (m["metric"], v["name"], v["characteristic"], json.dumps(v["at"], sort_keys=True))
        for m in document["measurements"]
        for v in m["values"]
    ]
    assert len(keys) == len(set(keys)), "(metric, name, characteristic, at) is unique"
    assert json.loads((out / "run.json").read_text()) == document
    assert {path.name for path in out.iterdir()} == {"run.json", "values.csv", "evidence.npz", "figures"}
    figures = {path.name.split("-")[0] for path in (out / "figures").iterdir()}
    assert {"density", "locality", "diversity"} <= figures
    assert ccvae_eval.read(out).as_plain() == document


def test_no_number_depends_on_batch_size_threads_or_order(threads: None) -> None:
    def numbers(**more: Any) -> dict[str, Any]:
        metrics = more.pop("metrics", EVERY)
        more |= {"sample": SAMPLE, "characteristics": SOME, "references": False}
        run = ccvae_eval.evaluate(CHECKPOINT, metrics=metrics, **more)
        return {m["metric"]: m["values"] for m in run.as_plain()["measurements"]}

    torch.set_num_threads(1)
    expected = numbers()
    assert all(row["value"] is not None for row in expected["locality"] if row["name"] == "focus")
    assert numbers(batch_size=1) == expected
    assert numbers(batch_size=7, metrics=EVERY[::-1]) == expected
    torch.set_num_threads(2)
    assert numbers(batch_size=256) == expected


def test_the_oracle_is_the_reference_on_drawn_data() -> None:
    run = ccvae_eval.evaluate(CHECKPOINT, metrics=["locality"], sample=SAMPLE, judge="none", characteristics=SOME)
    row = run.find("locality.focus@Eyeglasses")
    assert row.reference is not None
    assert row.reference > 0.95
    assert row.reference > row.estimate.value


def test_a_model_in_memory_and_arrays_will_do() -> None:
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


def test_a_metric_of_one_s_own_settings() -> None:
    data, model = Squares(300), SquaresVAE()
    locality = registry.metrics["locality"](steps=3)
    run = ccvae_eval.evaluate(model, data, [locality], judge="none")
    assert run.measurement("locality").settings["steps"] == 3
    with pytest.raises(UsageError, match="Did you mean 'steps'"):
        ccvae_eval.evaluate(model, data, ["locality"], options={"locality": {"step": 3}}, judge="none")


@pytest.mark.parametrize("metric", ["density", registry.metrics["locality"](steps=3)])
def test_options_that_nothing_reads_are_refused(metric: Any) -> None:
    with pytest.raises(UsageError, match="names 'locality', which is not measured here"):
        ccvae_eval.evaluate(SquaresVAE(), Squares(60), [metric], options={"locality": {"steps": 5}}, judge="none")


@pytest.mark.parametrize("metric", [3, registry.metrics["locality"]])
def test_what_is_no_metric_is_told_so(metric: Any) -> None:
    with pytest.raises(UsageError, match="is no metric"):
        ccvae_eval.evaluate(SquaresVAE(), Squares(60), [metric], judge="none")


def test_a_package_without_a_record_of_its_version_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV is installed under several names, and a package may be copied into place."""

    def version(package: str) -> str:
        if package == "opencv-python":
            raise PackageNotFoundError(package)
        return "1.2"

    monkeypatch.setattr("ccvae_eval.core.devices.version", version)
    packages: Any = environment(torch.device("cpu"))["packages"]
    assert packages["opencv-python"] == "unknown"
    assert packages["torch"] == "1.2"


def test_without_data_only_what_needs_no_path_is_opened(tmp_path: Path) -> None:
    data = open_data("faces,size=32,n=60")
    model, _ = prepare("vae", {"latent": 4}, data, TrainingSettings())
    made: Any = model

    class Elsewhere:
        spec, digest = "folder", "00"

    path = tmp_path / "elsewhere.pt"
    save_checkpoint(path, made, name="vae", data=Elsewhere(), training={})
    with pytest.raises(InputError, match="--data"):
        ccvae_eval.evaluate(path, metrics=["density"])


def test_data_without_the_model_s_labels_are_refused_with_the_nearest_names() -> None:
    with pytest.raises(LabelMismatchError) as caught:
        ccvae_eval.evaluate(CHECKPOINT, Squares(60), ["density"], judge="none")
    assert "Eyeglasses" in str(caught.value)


def test_an_unknown_characteristic_offers_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert _command("locality", str(CHECKPOINT), "-c", "Eyeglases", "--sample", "40", "--judge", "none") == 2
    assert "Did you mean 'Eyeglasses'" in capsys.readouterr().err


def test_one_characteristic_alone() -> None:
    two, one = (
        ccvae_eval.evaluate(
            CHECKPOINT, metrics=["locality"], sample=SAMPLE, judge="none", references=False, characteristics=c
        )
        for c in (SOME, SOME[:1])
    )
    assert one.find("locality.focus@Eyeglasses") == two.find("locality.focus@Eyeglasses")
    assert {v.characteristic for v in one.measurement("locality").values} == {None, "Eyeglasses"}


ORDER = {"sample": 160, "metrics": ["density", "locality", "accuracy"], "judge": "none", "characteristics": SOME}
HEADLINES = ("density.auc", "locality.focus", "accuracy.balanced_accuracy")


def _beaten(model: Any) -> None:
    """The shipped checkpoint stands above a model, the intervals apart (above chance, where that is undefined)."""
    shipped = ccvae_eval.evaluate(CHECKPOINT, **ORDER)
    other = ccvae_eval.evaluate(model, open_data("faces"), references=False, **ORDER)
    for address in HEADLINES:
        ours, theirs = shipped.find(address), other.find(address)
        assert ours.estimate.low > (theirs.estimate.high if theirs.estimate.defined else theirs.chance or 0), address


def test_the_shipped_checkpoint_lies_below_the_oracle() -> None:
    shipped = ccvae_eval.evaluate(CHECKPOINT, **ORDER)
    for address in HEADLINES:
        ours = shipped.find(address)
        assert ours.reference is not None
        assert ours.estimate.high < ours.reference + 1e-9, address


def test_the_shipped_checkpoint_beats_an_untrained_network() -> None:
    _beaten(prepare("ccvae", {}, open_data("faces"), TrainingSettings())[0])


@pytest.mark.soak
def test_the_shipped_checkpoint_beats_a_label_less_vae_with_assigned_columns() -> None:
    settings = TrainingSettings(steps=3000, batch=64, validation=0.0)
    model, _ = prepare("vae", {}, data := open_data("faces"), settings)
    for _ in fit(model, data, settings):
        pass
    _beaten(model)
