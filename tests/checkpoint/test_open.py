"""Loading a model from a checkpoint: choice of the model, matching of tensors, limits, adapters."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from ccvae_eval.checkpoint import Bundle, CheckpointRecord, open_checkpoint, read_bundle, save_checkpoint, write_bundle
from ccvae_eval.core.errors import CcvaeEvalError, CheckpointError, PluginError, UsageError
from ccvae_eval.model.interface import ModelContext, binary_schema, uniform_prior
from ccvae_eval.plugins import registry
from ccvae_eval.plugins.registry import models

SCHEMA = binary_schema("Glasses", "Smile")
CONTEXT = ModelContext(SCHEMA, (1, 4, 4), uniform_prior(SCHEMA))


def tiny(**settings: Any) -> Any:
    return models["tiny"].from_settings(settings, CONTEXT)


def write_tiny(
    path: Path, model: Any, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]] = lambda t: t, **record: Any
) -> Path:
    """A checkpoint of ``tiny`` with its tensors and its record changed."""
    plain = {**CheckpointRecord("tiny", asdict(model.settings), CONTEXT).as_plain(), **record}
    write_bundle(path, change(dict(model.state_dict())), {"model": plain})
    return path


def test_a_model_that_is_not_installed(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "x.pt", tiny(), name="tinyy")
    with pytest.raises(CheckpointError, match=r"needs the model 'tinyy', which is not installed") as refused:
        open_checkpoint(path)
    assert "Did you mean 'tiny'?" in refused.value.hint
    assert "--plugin" in refused.value.hint


def test_an_unknown_model_argument_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'absent' is not a registered model"):
        open_checkpoint(write_tiny(tmp_path / "x.pt", tiny()), model="absent")


def test_missing_unexpected_and_misshaped_tensors_are_listed(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        del tensors["latents.bias"]
        return {**tensors, "body.0.weight": torch.ones(4, 17), "more": torch.ones(2)}

    with pytest.raises(CheckpointError, match="1 missing, 1 unexpected, 1 of another shape") as refused:
        open_checkpoint(write_tiny(tmp_path / "x.pt", tiny(), change))
    assert refused.value.hint.splitlines() == [
        "missing     latents.bias  (3,) float32",
        "unexpected  more  (2,) float32",
        "mis-shaped  body.0.weight  (4, 17) float32 in the file, (4, 16) float32 in the model",
    ]


def test_a_complex_tensor_does_not_match_a_real_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="1 of another shape"):
        open_checkpoint(
            write_tiny(tmp_path / "x.pt", tiny(), lambda t: {**t, "latents.bias": torch.ones(3, dtype=torch.complex64)})
        )


def test_a_long_list_is_shortened(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="30 unexpected") as refused:
        open_checkpoint(
            write_tiny(tmp_path / "x.pt", tiny(), lambda t: t | {f"m{i}": torch.ones(1) for i in range(30)})
        )
    assert "... and 10 more" in refused.value.hint
    assert len(refused.value.hint.splitlines()) == 21


def test_the_error_names_the_model_that_fits(tmp_path: Path) -> None:
    model = models["tinyhead"].from_settings({"hidden": 6}, CONTEXT)
    with pytest.raises(CheckpointError, match="2 unexpected") as refused:
        open_checkpoint(write_tiny(tmp_path / "x.pt", model))
    assert refused.value.hint.splitlines()[-1] == "It looks like tinyhead (6/6 keys)."
    assert open_checkpoint(tmp_path / "x.pt", model="tinyhead").name == "tinyhead"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "state_dict.vae."])
def test_prefixes_of_wrappers_are_removed_with_a_note(prefix: str, tmp_path: Path) -> None:
    model = tiny()
    path = write_tiny(tmp_path / "x.pt", model, lambda t: {prefix + name: tensor for name, tensor in t.items()})
    opened = open_checkpoint(path)
    assert opened.notes == (f"prefix {prefix!r} was removed from the names of the weights",)
    assert all(torch.equal(opened.model.state_dict()[n], t) for n, t in model.state_dict().items())


@pytest.mark.parametrize("average", ["ema.", "ema_model.", "a_shadow."])
def test_plain_weights_take_precedence_over_an_average(average: str, tmp_path: Path) -> None:
    model = tiny()

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        averaged = {average + name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        return averaged | {"model." + name: tensor for name, tensor in tensors.items()} | {"steps": torch.tensor(4)}

    opened = open_checkpoint(write_tiny(tmp_path / "x.pt", model, change))
    assert opened.notes == (
        "prefix 'model.' was removed from the names of the weights",
        "5 tensors without prefix 'model.' were ignored",
        f"a second copy of the weights with prefix {average!r} was ignored",
    )
    assert all(torch.equal(opened.model.state_dict()[n], t) for n, t in model.state_dict().items())


@pytest.mark.parametrize("average", ["ema.", "ema.module."])
def test_an_average_beside_weights_without_a_prefix_is_ignored(average: str, tmp_path: Path) -> None:
    model = tiny()

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        averaged = {average + name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        return {**tensors, **averaged, "ema.decay": torch.tensor(0.99)}

    opened = open_checkpoint(write_tiny(tmp_path / "x.pt", model, change))
    assert opened.notes == (f"a second copy of the weights with prefix {average!r} was ignored",)
    assert all(torch.equal(opened.model.state_dict()[n], t) for n, t in model.state_dict().items())


def test_tensors_that_only_resemble_a_copy_are_unexpected(tmp_path: Path) -> None:
    first = next(iter(tiny().state_dict()))
    path = write_tiny(tmp_path / "x.pt", tiny(), lambda t: {**t, f"other.{first}": t[first]})
    with pytest.raises(CheckpointError, match="1 unexpected"):
        open_checkpoint(path)


def test_an_average_is_used_without_plain_weights(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "x.pt", tiny(), lambda t: {"ema." + name: tensor for name, tensor in t.items()})
    assert open_checkpoint(path).notes == ("prefix 'ema.' was removed from the names of the weights",)


def test_weights_that_are_not_finite_give_a_note(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**tensors, "latents.bias": torch.tensor([1.0, float("nan"), 0.0])}

    opened = open_checkpoint(write_tiny(tmp_path / "x.pt", tiny(), change))
    assert opened.notes == ("1 tensors contain NaN or infinity: latents.bias",)
    assert opened.model.state_dict()["latents.bias"].isnan().tolist() == [False, True, False]


def test_another_precision_is_converted_with_a_note(tmp_path: Path) -> None:
    opened = open_checkpoint(
        write_tiny(tmp_path / "x.pt", tiny(), lambda t: {n: tensor.to(torch.bfloat16) for n, tensor in t.items()})
    )
    assert opened.notes == ("weights of type torch.bfloat16 were converted to the model's type",)
    assert next(opened.model.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("setting", "size", "message"),
    [
        ("latent", 10**9, "far too large"),
        ("latent", 10**30, "far too large"),
        ("latent", 900_000, "of another shape"),
        ("latent", -1, "cannot be built"),
        ("layers", 900_000, "cannot be built"),
        ("buffer", 10**6, None),
        ("latent", "3", "cannot be built"),
        ("latents", 3, "cannot be built"),
    ],
)
def test_settings_of_a_hostile_record_are_refused(setting: str, size: Any, message: str | None, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "x.pt", tiny(), settings={setting: size})
    begun = time.process_time()
    if message is None:
        assert open_checkpoint(path).name == "tiny"
    else:
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(path)
    assert time.process_time() - begun < 5


def test_buffers_that_would_fill_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccvae_eval.checkpoint.open.MAX_BUFFER_ELEMENTS", 1000)
    with pytest.raises(CheckpointError, match="its buffers have 1,001 numbers"):
        open_checkpoint(write_tiny(tmp_path / "x.pt", tiny(), settings={"buffer": 1001}))


def test_an_enormous_image_shape_is_refused(tmp_path: Path) -> None:
    context = {**CONTEXT.as_plain(), "input_shape": [3, 10**9, 10**9]}
    with pytest.raises(CheckpointError, match="far too large"):
        open_checkpoint(write_tiny(tmp_path / "x.pt", tiny(), context=context))


def test_given_settings_override_recorded_ones(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "x.pt", tiny(latent=7), settings={"latent": 3})
    opened = open_checkpoint(path, settings={"latent": 7})
    assert opened.record is not None
    assert opened.record.settings == {"latent": 7}


def test_weights_alone_need_a_context(tmp_path: Path) -> None:
    model = tiny(latent=7)
    torch.save(model.state_dict(), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="does not record the labels and input shape of model 'tiny'"):
        open_checkpoint(tmp_path / "x.pt", model="tiny")
    opened = open_checkpoint(tmp_path / "x.pt", model="tiny", settings={"latent": 7}, context=CONTEXT)
    assert all(torch.equal(opened.model.state_dict()[n], t) for n, t in model.state_dict().items())


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="contains no tensors"):
        open_checkpoint(tmp_path / "x.pt")


def test_the_error_of_an_unrecognised_file_says_what_to_do(tmp_path: Path) -> None:
    torch.save({"enc.w": torch.ones(3)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"1 tensors, 3 numbers, first 'enc\.w'") as refused:
        open_checkpoint(tmp_path / "x.pt")
    assert "--plugin" in refused.value.hint


class External:
    """An adapter for files with a tensor ``enc.weight``."""

    score: ClassVar[float] = 0.5

    def matches(self, bundle: Bundle) -> float:
        return self.score if "enc.weight" in bundle.tensors else 0.0

    def settings(self, bundle: Bundle) -> dict[str, Any]:
        return {"latent": bundle.tensors["enc.weight"].shape[0]}

    def build(self, settings: Mapping[str, Any]) -> nn.Module:
        return nn.ModuleDict({"enc": nn.Linear(4, settings["latent"])})


class Preferred(External):
    score = 0.9


class BrokenAdapter(External):
    def matches(self, bundle: Bundle) -> float:
        raise RuntimeError("broken")


class NoModule(External):
    def build(self, settings: Mapping[str, Any]) -> Any:
        return settings


def _adapters(monkeypatch: pytest.MonkeyPatch, **classes: type) -> None:
    entries = [registry.Registration("adapters", name, name, "test", "") for name in classes]
    monkeypatch.setattr(registry, "_files", {**registry._files, Path("adapters.py"): entries})
    monkeypatch.setattr(registry.Registration, "load", lambda self: classes[self.name])


def test_the_adapter_with_the_highest_score_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _adapters(monkeypatch, broken=BrokenAdapter, external=External, preferred=Preferred)
    weights = nn.ModuleDict({"enc": nn.Linear(4, 6)}).state_dict()
    torch.save(weights, tmp_path / "x.pt")
    opened = open_checkpoint(tmp_path / "x.pt")
    assert opened.name == "preferred"
    assert opened.record == CheckpointRecord("preferred", {"latent": 6})
    assert torch.equal(opened.model.state_dict()["enc.weight"], weights["enc.weight"])
    assert open_checkpoint(tmp_path / "x.pt", model="external").name == "external"
    with pytest.raises(CheckpointError, match="2 of another shape"):
        open_checkpoint(tmp_path / "x.pt", settings={"latent": 5})


def test_an_adapter_must_build_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _adapters(monkeypatch, nomodule=NoModule)
    torch.save(nn.ModuleDict({"enc": nn.Linear(4, 6)}).state_dict(), tmp_path / "x.pt")
    with pytest.raises(PluginError, match="must build an nn.Module, got dict"):
        open_checkpoint(tmp_path / "x.pt")


def test_a_registered_class_must_be_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny(tmp_path / "x.pt", tiny())
    monkeypatch.setattr(registry.Registration, "load", lambda self: dict)
    with pytest.raises(PluginError, match="model .* cannot be built .dict is not a subclass of nn.Module"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("class Mine: ...", "'mine' cannot be built .Mine is not a subclass of nn.Module.*\n.*Derive Mine from"),
        (
            "def Mine(): ...",
            "'mine' cannot be built .Mine is not a subclass of nn.Module.*\n.*Register the class itself",
        ),
        ("class Mine(nn.Linear): ...", "model 'mine' needs in_features, out_features"),
        ("class Mine(nn.Module): ...", "do not match model 'mine'"),
    ],
)
def test_the_only_class_of_a_plugin_file_gives_the_error(
    body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_files", {})
    (tmp_path / "my.py").write_text(f"from torch import nn\n{body}\nCCVAE_EVAL = {{'models': {{'mine': Mine}}}}")
    registry.add_plugin_file(tmp_path / "my.py")
    torch.save(nn.ModuleDict({"net": nn.Linear(4, 6)}).state_dict(), tmp_path / "x.pt")
    with pytest.raises(CcvaeEvalError, match=message):
        open_checkpoint(tmp_path / "x.pt")


def test_the_extra_prefix_has_no_meaning_in_a_third_party_file(tmp_path: Path) -> None:
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
