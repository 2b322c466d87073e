"""Imitations of libraries that need not be installed, and of a user's script, for the files of :mod:`.honest_files`."""

from __future__ import annotations

import collections
import enum
import logging
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import torch
from torch import nn


def network() -> nn.Sequential:
    """A small network with parameters and buffers of known values."""
    built = nn.Sequential(
        collections.OrderedDict(enc=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2), dec=nn.Sequential(nn.Linear(2, 3)))
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return built


class AttributeDict(dict):  # type: ignore[type-arg]
    """Lightning's, EasyDict's, Munch's, addict's and yacs's: a dictionary with attributes."""

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(key) from None


def subclass_of(base: type, name: str, module: str, **body: Any) -> type:
    return type(name, (base,), {"__module__": module, "__qualname__": name, **body})


class Node:
    """A node of OmegaConf: attributes in ``__dict__``, and a reference to its parent."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _rebuilt(*arguments: Any) -> Any:
    return {"rebuilt": arguments}


class Frame:
    """A pandas data frame or timestamp: pickled as a call of a function of the library."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


LIBRARIES: dict[str, dict[str, Any]] = {}


def library(module: str, base: type, *names: str) -> None:
    for name in names:
        LIBRARIES.setdefault(module, {})[name] = subclass_of(base, name, module)


library("pytorch_lightning.utilities.parsing", AttributeDict, "AttributeDict")
library("lightning_fabric.utilities.data", AttributeDict, "AttributeDict")
library("pytorch_lightning.callbacks.model_checkpoint", Node, "ModelCheckpoint")
library("pytorch_lightning.callbacks.early_stopping", Node, "EarlyStopping")
library("easydict", AttributeDict, "EasyDict")
library("munch", AttributeDict, "Munch")
library("yacs.config", AttributeDict, "CfgNode")
library("addict.addict", AttributeDict, "Dict")
library("omegaconf.dictconfig", Node, "DictConfig")
library("omegaconf.listconfig", Node, "ListConfig")
library("omegaconf.nodes", Node, "AnyNode")
library("omegaconf.base", Node, "ContainerMetadata", "Metadata")
library("transformers.configuration_utils", Node, "PretrainedConfig")
library("wandb.sdk.wandb_config", Node, "Config")
library("timm.utils.model_ema", nn.Module, "ModelEma")
library("pandas._libs.tslibs.timestamps", Node, "Timestamp")
for _module, _function in (
    ("pandas._libs.tslibs.timestamps", "_unpickle_timestamp"),
    ("pandas._libs.internals", "_unpickle_block"),
    ("jax._src.array", "_reconstruct_array"),
):
    _copy = types.FunctionType(_rebuilt.__code__, globals(), _function)
    _copy.__module__, _copy.__qualname__ = _module, _function
    LIBRARIES.setdefault(_module, {})[_function] = _copy


class Mode(enum.Enum):
    TRAIN = "train"
    TEST = 2


class Level(enum.IntEnum):
    LOW = 1


class Name(str, enum.Enum):  # noqa: UP042 - as before Python 3.11
    ADAM = "adam"


class Parts(enum.Flag):
    ENCODER = 1
    DECODER = 2


@dataclass
class Optim:
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Settings:
    latent: int = 10
    mode: Mode = Mode.TRAIN
    optim: Optim = field(default_factory=Optim)
    root: Path = Path("runs/one")


@dataclass(slots=True)
class Slotted:
    latent: int = 10
    name: str = "vae"


class Slots:
    __slots__ = ("latent",)

    def __init__(self) -> None:
        self.latent = 3


Point = collections.namedtuple("Point", "x y")


class Model(nn.Module):
    """A user's model with everything that such models carry besides weights."""

    class Config:
        def __init__(self) -> None:
            self.latent = 3

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.config = Model.Config()
        self.logger = logging.getLogger("model")
        self.distribution = torch.distributions.Normal
        self.activation = torch.relu
        self.modules_by_name = {"enc": self.net[0]}


OWN: dict[str, tuple[Any, ...]] = {
    "train_vae": (Mode, Level, Name, Parts, Optim, Settings, Slotted, Slots, Point, Model)
}


@contextmanager
def imitated_libraries() -> Iterator[None]:
    """Puts the imitations into ``sys.modules``, and the classes of a user's script under the name of its module."""
    added: dict[str, types.ModuleType] = {}
    former = {kind: kind.__module__ for kinds in OWN.values() for kind in kinds}
    for full, content in [*LIBRARIES.items(), *((m, {k.__name__: k for k in kinds}) for m, kinds in OWN.items())]:
        parts = full.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            if name not in added:
                added[name] = types.ModuleType(name)
                added[name].__spec__ = ModuleSpec(name, None)  # torch asks for that of pandas
        added[full].__dict__.update(content)
    shadowed = {name: sys.modules.get(name) for name in added}
    sys.modules.update(added)
    for module, kinds in OWN.items():
        for kind in kinds:
            kind.__module__ = module
    Model.Config.__module__ = "train_vae"
    Model.Config.__qualname__ = "Model.Config"
    try:
        yield
    finally:
        for kind, module in former.items():
            kind.__module__ = module
        for name, original in shadowed.items():
            if original is None:
                del sys.modules[name]
            else:
                sys.modules[name] = original


def kind_of(module: str, name: str) -> Any:
    return LIBRARIES[module][name]
