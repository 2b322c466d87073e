"""Checkpoints as people really save them: each style is a function that writes a file by ``torch.save`` or safetensors.

Libraries that a style needs are imitated by modules that exist while ``imitated_libraries`` is active, so that the file
names the same classes as one that the library wrote. Files are written and read back by torch inside of it; the toolkit
reads them outside, where none of these classes can be imported.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import fractions
import functools
import io
import logging
import pickle
import random
import re
import struct
import tarfile
import types
import typing
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from tests.support.imitated_libraries import (
    LIBRARIES,
    Frame,
    Level,
    Mode,
    Model,
    Name,
    Parts,
    Point,
    Settings,
    Slots,
    Slotted,
    kind_of,
    network,
)

Style = Callable[[Path], None]
STYLES: dict[str, Style] = {}
"""Each style by name; the function writes its file."""


def style(function: Style) -> Style:
    STYLES[function.__name__.replace("_", " ").strip()] = function
    return function


def trained() -> tuple[nn.Sequential, torch.optim.Optimizer, Any]:
    """The network after a step, with its optimiser and schedule."""
    built = network()
    optimiser = torch.optim.AdamW(built.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 10)
    for parameter in built.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    schedule.step()
    return built, optimiser, schedule


def weights() -> dict[str, Tensor]:
    return dict(network().state_dict())


def tensors_of(value: Any, prefix: str = "", around: tuple[int, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """The tensors of what torch has read, with their dotted names; a key that is not plain data has the name "?"."""
    if isinstance(value, Tensor):
        yield prefix or "tensor", value.detach()
    elif isinstance(value, nn.Module):
        yield from tensors_of(dict(value.state_dict()), prefix)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            name = str(key) if isinstance(key, str | int) else "?"
            yield from tensors_of(part, f"{prefix}.{name}" if prefix else name, around)
    elif isinstance(value, list | tuple):
        yield from tensors_of(dict(enumerate(value)), prefix, around)
    elif hasattr(value, "__dict__") and id(value) not in around and not isinstance(value, type | types.ModuleType):
        yield from tensors_of(vars(value), prefix, (*around, id(value)))


def save(value: Any, path: Path, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the legacy format looks for the source of each module
        torch.save(value, path, **options)


def beside(**more: Any) -> dict[str, Any]:
    """The weights and other things, as most training scripts save them."""
    return {"state_dict": weights(), "epoch": 3, **more}


# the weights alone


@style
def state_dict(path: Path) -> None:
    save(network().state_dict(), path)


@style
def state_dict_in_the_legacy_format(path: Path) -> None:
    save(network().state_dict(), path, _use_new_zipfile_serialization=False)


@style
def state_dict_of_half_precision(path: Path) -> None:
    save(network().half().state_dict(), path)


@style
def state_dict_of_bfloat16(path: Path) -> None:
    save(network().bfloat16().state_dict(), path)


@style
def state_dict_of_float8(path: Path) -> None:
    save({k: v.to(torch.float8_e4m3fn) for k, v in weights().items() if v.is_floating_point()}, path)


@style
def state_dict_of_double_precision(path: Path) -> None:
    save(network().double().state_dict(), path)


@style
def state_dict_in_channels_last(path: Path) -> None:
    save(network().to(memory_format=torch.channels_last).state_dict(), path)


@style
def state_dict_with_gradients_kept(path: Path) -> None:
    save(network().state_dict(keep_vars=True), path)


@style
def state_dict_of_data_parallel(path: Path) -> None:
    save(nn.DataParallel(network()).state_dict(), path)


@style
def state_dict_of_a_compiled_model(path: Path) -> None:
    save({f"_orig_mod.{k}": v for k, v in weights().items()}, path)


@style
def state_dict_of_a_compiled_model_in_ddp(path: Path) -> None:
    save({"model": {f"module._orig_mod.{k}": v for k, v in weights().items()}, "step": 10}, path)


@style
def state_dict_of_an_averaged_model(path: Path) -> None:
    save(torch.optim.swa_utils.AveragedModel(network()).state_dict(), path)


@style
def state_dict_with_tied_weights(path: Path) -> None:
    tied = nn.ModuleDict({"a": nn.Linear(2, 2)})
    tied["b"] = tied["a"]
    save(tied.state_dict(), path)


@style
def state_dict_of_views_of_one_storage(path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    save({"rows": whole[1:3], "columns": whole[:, ::2], "turned": whole.t(), "whole": whole}, path)


@style
def state_dict_with_weight_norm(path: Path) -> None:
    save(nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)).state_dict(), path)


@style
def state_dict_in_pickle_protocol_4(path: Path) -> None:
    save(beside(), path, pickle_protocol=4)


@style
def state_dict_saved_on_cuda(path: Path) -> None:
    """The location of a storage is a string in the pickle."""
    save(network().state_dict(), path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    cpu, cuda = (b"X" + struct.pack("<I", len(word)) + word for word in (b"cpu", b"cuda:0"))
    path.write_bytes(raw.replace(cpu, cuda))


@style
def lone_tensor(path: Path) -> None:
    save(torch.arange(6).reshape(2, 3), path)


@style
def list_of_tensors(path: Path) -> None:
    save([*weights().values()], path)


@style
def safetensors_with_metadata(path: Path) -> None:
    safetensors.torch.save_file(weights(), path, {"format": "pt", "config": '{"latent": 10}'})


@style
def tar_of_torch_before_0_1_10(path: Path) -> None:
    """The format of 2016, written by hand because no torch of today writes it; today's torch still reads it."""
    tensors = {name: tensor.contiguous() for name, tensor in weights().items()}
    storages, described = io.BytesIO(), io.BytesIO()
    storages.write(pickle.dumps(len(tensors), protocol=2))
    described.write(pickle.dumps(len(tensors), protocol=2))
    for number, tensor in enumerate(tensors.values()):
        kind = torch.FloatStorage if tensor.dtype == torch.float32 else torch.LongStorage
        storages.write(pickle.dumps((number, "cpu", kind), protocol=2))
        storages.write(struct.pack("<q", tensor.numel()) + tensor.numpy().tobytes())
        described.write(pickle.dumps((100 + number, number, torch.FloatTensor), protocol=2))
        described.write(struct.pack("<ii", tensor.ndim, 0))
        described.write(struct.pack(f"<{2 * tensor.ndim + 1}q", *tensor.shape, *tensor.stride(), 0))
    storages.write(pickle.dumps([], protocol=2))

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return next((str(100 + i) for i, t in enumerate(tensors.values()) if t is value), None)

    pickled = io.BytesIO()
    Pickler(pickled, protocol=2).dump(collections.OrderedDict(tensors))
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in (("storages", storages), ("tensors", described), ("pickle", pickled)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content.getvalue())
            archive.addfile(entry, io.BytesIO(content.getvalue()))


# a checkpoint of a training


@style
def weights_and_optimiser(path: Path) -> None:
    built, optimiser, schedule = trained()
    state = {"model": built.state_dict(), "optimizer": optimiser.state_dict(), "scheduler": schedule.state_dict()}
    save({**state, "epoch": 3, "best": 0.25}, path)


@style
def weights_and_ema(path: Path) -> None:
    average = {k: v * 0.5 for k, v in weights().items()}
    save(beside(ema={"decay": 0.999, "shadow": average, "num_updates": 10}), path)


@style
def weights_and_ema_in_a_list(path: Path) -> None:
    save(beside(ema={"decay": 0.999, "shadow_params": [*network().parameters()], "collected_params": None}), path)


@style
def gradient_scaler_and_zero_optimiser(path: Path) -> None:
    built, optimiser, _ = trained()
    scaler = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "_growth_tracker": 0}
    save({"model": built.state_dict(), "opt": optimiser.state_dict(), "scaler": scaler}, path)


@style
def losses_with_nan_and_infinity(path: Path) -> None:
    save(beside(losses=[1.5, float("nan"), float("inf"), -float("inf")], best=float("inf")), path)


@style
def losses_as_tensors(path: Path) -> None:
    save(beside(history={"loss": [torch.tensor(1.0), torch.tensor(float("nan"))]}), path)


@style
def random_states(path: Path) -> None:
    states = {"torch": torch.get_rng_state(), "numpy": np.random.RandomState(3).get_state()}
    save(
        beside(rng={**states, "python": random.Random(3).getstate(), "cuda": [torch.zeros(16, dtype=torch.uint8)]}),
        path,
    )


@style
def numpy_generators(path: Path) -> None:
    save(beside(rng=np.random.RandomState(3), modern=np.random.default_rng(3)), path)


@style
def accelerate_random_states(path: Path) -> None:
    state = {"random_state": random.Random(1).getstate(), "numpy_random_seed": np.random.RandomState(1).get_state()}
    save({"step": 7, **state, "torch_manual_seed": torch.get_rng_state()}, path)


@style
def accelerate_optimiser(path: Path) -> None:
    save(trained()[1].state_dict(), path)


@style
def lightning_1(path: Path) -> None:
    """Lightning before 1.5 has the classes of callbacks as keys."""
    checkpoint = kind_of("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    stopping = kind_of("pytorch_lightning.callbacks.early_stopping", "EarlyStopping")
    arguments = kind_of("pytorch_lightning.utilities.parsing", "AttributeDict")(latent=10, data="mnist", lr=1e-3)
    built, optimiser, schedule = trained()
    callbacks = {
        checkpoint: {"monitor": "val_loss", "best_model_score": torch.tensor(0.5), "best_model_path": "x.ckpt"},
        stopping: {"wait_count": 0, "stopped_epoch": 0, "best_score": torch.tensor(float("inf")), "patience": 3},
    }
    save(
        {
            "epoch": 2, "global_step": 100, "pytorch-lightning_version": "1.4.9",
            "state_dict": built.state_dict(), "callbacks": callbacks, "optimizer_states": [optimiser.state_dict()],
            "lr_schedulers": [schedule.state_dict()], "hparams_name": "hparams", "hyper_parameters": arguments,
        },
        path,
    )  # fmt: skip


@style
def lightning_2(path: Path) -> None:
    built, optimiser, schedule = trained()
    loop = {"state_dict": {}, "epoch_progress": {"total": {"ready": 2}, "current": {"ready": 2}}}
    key = "ModelCheckpoint{'monitor': 'val_loss', 'mode': 'min', 'every_n_train_steps': 0}"
    save(
        {
            "epoch": 2, "global_step": 100, "pytorch-lightning_version": "2.5.0", "state_dict": built.state_dict(),
            "loops": {"fit_loop": loop, "validate_loop": loop}, "callbacks": {key: {"dirpath": "/x", "kth_value": "x"}},
            "optimizer_states": [optimiser.state_dict()], "lr_schedulers": [schedule.state_dict()],
            "MixedPrecision": {"scale": 65536.0}, "hparams_name": "kwargs",
            "hyper_parameters": kind_of("lightning_fabric.utilities.data", "AttributeDict")(latent=10, root=Path("x")),
        },
        path,
    )  # fmt: skip


# hyper-parameters of every kind


@style
def argparse_namespace(path: Path) -> None:
    save(beside(args=argparse.Namespace(lr=0.1, layers=[1, 2], out=Path("x"), data=None)), path)


@style
def simple_namespace(path: Path) -> None:
    save(beside(args=types.SimpleNamespace(lr=0.1, inner=types.SimpleNamespace(depth=3))), path)


@style
def omegaconf(path: Path) -> None:
    """A DictConfig with nodes that refer to their parent, and types as metadata."""
    metadata = functools.partial(kind_of("omegaconf.base", "ContainerMetadata"), ref_type=typing.Any, object_type=dict)
    root = kind_of("omegaconf.dictconfig", "DictConfig")(_metadata=metadata(key=None, optional=True), _parent=None)
    inner = kind_of("omegaconf.listconfig", "ListConfig")(_metadata=metadata(key="layers"), _parent=root, _content=[])
    for owner, key, value in ((inner, 0, 32), (root, "lr", 0.1), (root, "data", "mnist")):
        described = kind_of("omegaconf.base", "Metadata")(ref_type=typing.Optional[int], key=key)  # noqa: UP045
        node = kind_of("omegaconf.nodes", "AnyNode")(_metadata=described, _parent=owner, _val=value)
        if owner is inner:
            inner._content.append(node)
        else:
            root.__dict__.setdefault("_content", {})[key] = node
    root._content["layers"] = inner
    save(beside(config=root), path)


@style
def easydict_munch_yacs_and_addict(path: Path) -> None:
    kinds = (("easydict", "EasyDict"), ("munch", "Munch"), ("yacs.config", "CfgNode"), ("addict.addict", "Dict"))
    save(beside(**{name: kind_of(module, name)(lr=0.1, net={"depth": 3}) for module, name in kinds}), path)


@style
def dataclass_settings(path: Path) -> None:
    save(beside(config=Settings()), path)


@style
def dataclass_and_class_with_slots(path: Path) -> None:
    save(beside(config=Slotted(), other=Slots()), path)


@style
def class_inside_a_class(path: Path) -> None:
    save(beside(config=Model.Config()), path)


@style
def enumerations(path: Path) -> None:
    save(beside(mode=Mode.TEST, level=Level.LOW, name=Name.ADAM, parts=Parts.ENCODER | Parts.DECODER), path)


@style
def enumerations_in_protocol_5(path: Path) -> None:
    save(beside(mode=Mode.TEST, level=Level.LOW, parts=Parts.ENCODER, config=Model.Config()), path, pickle_protocol=5)


@style
def named_tuples_counters_and_queues(path: Path) -> None:
    counts = collections.Counter(a=2)
    save(beside(point=Point(1, 2), counts=counts, recent=collections.deque([1, 2], maxlen=5)), path)


@style
def defaultdicts(path: Path) -> None:
    found = collections.defaultdict(list, loss=[1.0])
    save(beside(metrics=found, inner=collections.defaultdict(functools.partial(collections.defaultdict, int))), path)


@style
def paths_and_dates(path: Path) -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    dates = {"at": datetime.datetime(2026, 1, 2, tzinfo=zone), "day": datetime.date(2026, 1, 2)}
    took = datetime.timedelta(seconds=3)
    save(beside(root=Path("runs/one"), pure=PurePosixPath("/a"), **dates, took=took, time=datetime.time(1, 2)), path)


@style
def identifiers_decimals_and_fractions(path: Path) -> None:
    numbers = {"price": decimal.Decimal("1.5"), "share": fractions.Fraction(1, 3), "z": 1 + 2j}
    save(beside(run=uuid.UUID(int=7), **numbers), path)


@style
def sets_ranges_slices_and_bytes(path: Path) -> None:
    parts = {"names": {"a", "b"}, "frozen": frozenset({1}), "steps": range(10), "part": slice(1, None)}
    save(beside(**parts, raw=b"\x00\xff", array=bytearray(b"abc")), path)


@style
def numpy_scalars(path: Path) -> None:
    kinds = (np.float64, np.float32, np.float16, np.int64, np.uint8, np.bool_)
    save(beside(**{kind.__name__: kind(1) for kind in kinds}), path)


@style
def numpy_arrays(path: Path) -> None:
    arrays = {"mean": np.ones((2, 3)), "names": np.array(["a", "bc"]), "mixed": np.array([1, None], dtype=object)}
    fields = np.zeros(2, dtype=[("x", "f4"), ("y", "i8")])
    save(
        beside(**arrays, fields=fields, turned=np.asfortranarray(np.ones((2, 2))), time=np.datetime64("2026-01-02")),
        path,
    )


@style
def large_numpy_arrays(path: Path) -> None:
    save(beside(mean=np.arange(300_000.0), index=np.arange(200_000)), path)


@style
def numpy_arrays_in_protocol_5(path: Path) -> None:
    save(
        beside(mean=np.ones((2, 3)), count=np.int64(3), order=np.asfortranarray(np.ones((2, 2)))),
        path,
        pickle_protocol=5,
    )


@style
def sizes_devices_types_and_layouts(path: Path) -> None:
    described = {"shape": torch.Size([3, 4]), "device": torch.device("cuda", 7), "dtype": torch.float16}
    save(beside(**described, layout=torch.strided), path)


@style
def functions_and_classes_by_name(path: Path) -> None:
    chosen = {
        "activation": torch.relu,
        "layer": nn.Linear,
        "metric": np.mean,
        "partial": functools.partial(nn.Linear, 3),
    }
    save(beside(**chosen, kind=type(None), type=typing.Optional[int]), path)  # noqa: UP045


@style
def patterns_and_loggers(path: Path) -> None:
    save(beside(skip=re.compile("bias$"), logger=logging.getLogger("train")), path)


@style
def keys_that_are_not_text(path: Path) -> None:
    keys = {(0, 1): "pair", None: "none", 2.5: "float", True: "flag", Mode.TEST: "mode", torch.float32: "type", b"x": 1}
    save(beside(table=keys, nested={("a", (1, 2)): [1]}, np={np.int64(3): 1}), path)


@style
def data_frames(path: Path) -> None:
    stamp = LIBRARIES["pandas._libs.tslibs.timestamps"]["_unpickle_timestamp"]
    block = LIBRARIES["pandas._libs.internals"]["_unpickle_block"]
    save(beside(at=Frame(stamp, 17, None, None, 10), table=Frame(block, np.ones(3), slice(0, 1), 2)), path)


@style
def jax_array(path: Path) -> None:
    save(beside(other=Frame(LIBRARIES["jax._src.array"]["_reconstruct_array"], "x", (3,), b"raw")), path)


@style
def transformers_and_wandb_settings(path: Path) -> None:
    settings = kind_of("transformers.configuration_utils", "PretrainedConfig")(hidden=8, torch_dtype=torch.float32)
    save(beside(config=settings, wandb=kind_of("wandb.sdk.wandb_config", "Config")(items={"lr": 0.1})), path)


# whole objects


@style
def whole_module(path: Path) -> None:
    save(network(), path)


@style
def whole_module_in_the_legacy_format(path: Path) -> None:
    save(network(), path, _use_new_zipfile_serialization=False)


@style
def whole_module_of_the_user(path: Path) -> None:
    save({"model": Model(), "epoch": 3}, path)


@style
def whole_module_in_data_parallel(path: Path) -> None:
    save(nn.DataParallel(network()), path)


@style
def whole_ema_object(path: Path) -> None:
    average = kind_of("timm.utils.model_ema", "ModelEma")()
    average.module, average.decay = network(), 0.99
    save({"model": network().state_dict(), "ema": average}, path)


@style
def whole_optimiser_and_schedule(path: Path) -> None:
    """The state of a pickled optimiser has the parameters themselves as keys."""
    built, optimiser, _ = trained()
    save({"model": built, "optimizer": optimiser}, path)


@style
def modules_in_lists_and_dictionaries(path: Path) -> None:
    parts = {"layers": nn.ModuleList([nn.Linear(2, 2)]), "scales": nn.ParameterList([torch.ones(2), torch.zeros(1)])}
    save({"nets": [network(), nn.ModuleDict(parts)]}, path)
