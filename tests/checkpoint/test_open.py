import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from ccvae_eval.checkpoint import Bundle, CheckpointRecord, open_checkpoint, read_bundle, save_checkpoint, write_bundle
from ccvae_eval.core.errors import CheckpointError, PluginError, UsageError
from ccvae_eval.model.interface import ModelContext, binary_schema, uniform_prior
from ccvae_eval.plugins import registry
from ccvae_eval.plugins.registry import models

SCHEMA = binary_schema("Glasses", "Smile")
CONTEXT = ModelContext(SCHEMA, (1, 4, 4), uniform_prior(SCHEMA))


def tiny(**settings: Any) -> Any:
    return models["tiny"].from_settings(settings, CONTEXT)


def written(
    path: Path, model: Any, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]] = lambda t: t, **record: Any
) -> Path:
    """A checkpoint of ``tiny`` with its tensors and its record changed."""
    plain = {**CheckpointRecord("tiny", asdict(model.settings), CONTEXT).as_plain(), **record}
    write_bundle(path, change(dict(model.state_dict())), {"model": plain})
    return path


def test_a_model_that_is_not_installed(tmp_path: Path) -> None:
    path = written(tmp_path / "x.pt", tiny(), name="tinyy")
    with pytest.raises(CheckpointError, match=r"needs the model 'tinyy', which is not installed") as refused:
        open_checkpoint(path)
    assert "Did you mean 'tiny'?" in refused.value.hint
    assert "--plugin" in refused.value.hint


def test_an_unknown_model_on_the_command_line_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown"):
        open_checkpoint(written(tmp_path / "x.pt", tiny()), model="absent")


def test_missing_unexpected_and_misshaped_tensors(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        del tensors["latents.bias"]
        return {**tensors, "body.0.weight": torch.ones(4, 17), "more": torch.ones(2)}

    with pytest.raises(CheckpointError, match="1 missing, 1 unexpected, 1 of another shape") as refused:
        open_checkpoint(written(tmp_path / "x.pt", tiny(), change))
    assert refused.value.hint.splitlines() == [
        "missing     latents.bias  (3,) float32",
        "unexpected  more  (2,) float32",
        "mis-shaped  body.0.weight  (4, 17) float32 in the file, (4, 16) float32 in the model",
    ]


def test_a_complex_tensor_is_not_a_real_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="1 of another shape"):
        open_checkpoint(
            written(tmp_path / "x.pt", tiny(), lambda t: {**t, "latents.bias": torch.ones(3, dtype=torch.complex64)})
        )


def test_a_long_table_is_cut(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="30 unexpected") as refused:
        open_checkpoint(written(tmp_path / "x.pt", tiny(), lambda t: t | {f"m{i}": torch.ones(1) for i in range(30)}))
    assert "... and 10 more" in refused.value.hint
    assert len(refused.value.hint.splitlines()) == 21


def test_it_says_which_model_the_tensors_look_like(tmp_path: Path) -> None:
    model = models["tinyhead"].from_settings({"hidden": 6}, CONTEXT)
    with pytest.raises(CheckpointError, match="2 unexpected") as refused:
        open_checkpoint(written(tmp_path / "x.pt", model))
    assert refused.value.hint.splitlines()[-1] == "It looks like tinyhead (6/6 keys)."
    assert open_checkpoint(tmp_path / "x.pt", model="tinyhead").name == "tinyhead"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "state_dict.vae."])
def test_wrappers_are_taken_off_and_said(prefix: str, tmp_path: Path) -> None:
    model = tiny()
    path = written(tmp_path / "x.pt", model, lambda t: {prefix + name: tensor for name, tensor in t.items()})
    opened = open_checkpoint(path)
    assert opened.notes == (f"{prefix!r} was taken off the names of the weights",)
    assert all(torch.equal(opened.model.state_dict()[n], t) for n, t in model.state_dict().items())


@pytest.mark.parametrize("average", ["ema.", "ema_model.", "a_shadow."])
def test_the_plain_copy_is_taken_and_the_average_left(average: str, tmp_path: Path) -> None:
    model = tiny()

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        averaged = {average + name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        return averaged | {"model." + name: tensor for name, tensor in tensors.items()} | {"steps": torch.tensor(4)}

    opened = open_checkpoint(written(tmp_path / "x.pt", model, change))
    assert opened.notes == (
        "'model.' was taken off the names of the weights",
        "5 tensors outside 'model.' were left out",
        f"a second copy of the weights under {average!r} was left aside",
    )
    assert all(torch.equal(opened.model.state_dict()[n], t) for n, t in model.state_dict().items())


def test_an_average_alone_is_taken(tmp_path: Path) -> None:
    path = written(tmp_path / "x.pt", tiny(), lambda t: {"ema." + name: tensor for name, tensor in t.items()})
    assert open_checkpoint(path).notes == ("'ema.' was taken off the names of the weights",)


def test_weights_that_are_not_finite_are_noted(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**tensors, "latents.bias": torch.tensor([1.0, float("nan"), 0.0])}

    opened = open_checkpoint(written(tmp_path / "x.pt", tiny(), change))
    assert opened.notes == ("1 tensors hold NaN or infinity: latents.bias",)
    assert opened.model.state_dict()["latents.bias"].isnan().tolist() == [False, True, False]


def test_other_precision_is_converted_and_said(tmp_path: Path) -> None:
    opened = open_checkpoint(
        written(tmp_path / "x.pt", tiny(), lambda t: {n: tensor.to(torch.bfloat16) for n, tensor in t.items()})
    )
    assert opened.notes == ("weights of type torch.bfloat16 were converted",)
    assert next(opened.model.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("setting", "size", "message"),
    [
        ("latent", 10**9, "far too large"),
        ("latent", 10**30, "far too large"),
        ("latent", 900_000, "of another shape"),
        ("latent", -1, "do not make"),
        ("layers", 900_000, "do not make"),
        ("buffer", 10**6, None),
        ("latent", "3", "do not make"),
        ("latents", 3, "do not make"),
    ],
)
def test_settings_of_a_hostile_record(setting: str, size: Any, message: str | None, tmp_path: Path) -> None:
    path = written(tmp_path / "x.pt", tiny(), settings={setting: size})
    begun = time.process_time()
    if message is None:
        assert open_checkpoint(path).name == "tiny"
    else:
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(path)
    assert time.process_time() - begun < 5


def test_buffers_that_would_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccvae_eval.checkpoint.open.LARGEST_REST", 1000)
    with pytest.raises(CheckpointError, match="numbers to compute"):
        open_checkpoint(written(tmp_path / "x.pt", tiny(), settings={"buffer": 1001}))


def test_an_enormous_image_shape(tmp_path: Path) -> None:
    context = {**CONTEXT.as_plain(), "input_shape": [3, 10**9, 10**9]}
    with pytest.raises(CheckpointError, match="far too large"):
        open_checkpoint(written(tmp_path / "x.pt", tiny(), context=context))


def test_settings_given_go_over_those_recorded(tmp_path: Path) -> None:
    path = written(tmp_path / "x.pt", tiny(latent=7), settings={"latent": 3})
    opened = open_checkpoint(path, settings={"latent": 7})
    assert opened.record is not None
    assert opened.record.settings == {"latent": 7}


def test_weights_alone_need_a_context(tmp_path: Path) -> None:
    model = tiny(latent=7)
    torch.save(model.state_dict(), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="does not say what model 'tiny' was built for"):
        open_checkpoint(tmp_path / "x.pt", model="tiny")
    opened = open_checkpoint(tmp_path / "x.pt", model="tiny", settings={"latent": 7}, context=CONTEXT)
    assert all(torch.equal(opened.model.state_dict()[n], t) for n, t in model.state_dict().items())


def test_no_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        open_checkpoint(tmp_path / "x.pt")


def test_a_strangers_file_says_what_to_do(tmp_path: Path) -> None:
    torch.save({"enc.w": torch.ones(3)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"1 tensors, 3 numbers, first 'enc\.w'") as refused:
        open_checkpoint(tmp_path / "x.pt")
    assert "--plugin" in refused.value.hint


class Stranger:
    """An adapter: knows files with ``enc.weight``."""

    score: ClassVar[float] = 0.5

    def matches(self, bundle: Bundle) -> float:
        return self.score if "enc.weight" in bundle.tensors else 0.0

    def settings(self, bundle: Bundle) -> dict[str, Any]:
        return {"latent": bundle.tensors["enc.weight"].shape[0]}

    def build(self, settings: Mapping[str, Any]) -> nn.Module:
        return nn.ModuleDict({"enc": nn.Linear(4, settings["latent"])})


class Surer(Stranger):
    score = 0.9


class Broken(Stranger):
    def matches(self, bundle: Bundle) -> float:
        raise RuntimeError("broken")


class NoModule(Stranger):
    def build(self, settings: Mapping[str, Any]) -> Any:
        return settings


def _adapters(monkeypatch: pytest.MonkeyPatch, **classes: type) -> None:
    entries = [registry.Registration("adapters", name, name, "test", "") for name in classes]
    monkeypatch.setattr(registry, "_files", {**registry._files, Path("adapters.py"): entries})
    monkeypatch.setattr(registry.Registration, "load", lambda self: classes[self.name])


def test_the_surest_adapter_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _adapters(monkeypatch, broken=Broken, stranger=Stranger, surer=Surer)
    weights = nn.ModuleDict({"enc": nn.Linear(4, 6)}).state_dict()
    torch.save(weights, tmp_path / "x.pt")
    opened = open_checkpoint(tmp_path / "x.pt")
    assert opened.name == "surer"
    assert opened.record == CheckpointRecord("surer", {"latent": 6})
    assert torch.equal(opened.model.state_dict()["enc.weight"], weights["enc.weight"])
    assert open_checkpoint(tmp_path / "x.pt", model="stranger").name == "stranger"
    with pytest.raises(CheckpointError, match="2 of another shape"):
        open_checkpoint(tmp_path / "x.pt", settings={"latent": 5})


def test_an_adapter_that_makes_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _adapters(monkeypatch, nomodule=NoModule)
    torch.save(nn.ModuleDict({"enc": nn.Linear(4, 6)}).state_dict(), tmp_path / "x.pt")
    with pytest.raises(PluginError, match="made no nn.Module"):
        open_checkpoint(tmp_path / "x.pt")


def test_a_registered_thing_that_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "x.pt", tiny())
    monkeypatch.setattr(registry.Registration, "load", lambda self: dict)
    with pytest.raises(PluginError, match="cannot be rebuilt"):
        open_checkpoint(path)


def test_only_the_models_tensors_begin_with_extra_in_a_strangers_file(tmp_path: Path) -> None:
    """Names of others are not ours to interpret."""
    torch.save({"extra/w": torch.ones(1)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="1 missing|4 missing"):
        open_checkpoint(tmp_path / "x.pt", model="tiny", context=CONTEXT)


def test_a_bundle_cannot_be_changed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.pt", tiny(), name="tiny")
    bundle: Any = read_bundle(tmp_path / "x.pt")
    with pytest.raises(TypeError):
        bundle.tensors["more"] = torch.ones(1)
    with pytest.raises(AttributeError):
        bundle.sha256 = "0"
