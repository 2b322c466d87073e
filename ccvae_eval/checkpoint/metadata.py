"""The record in a checkpoint: its model, settings, labels, input shape, data and training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from ccvae_eval.checkpoint.bundle import Bundle
from ccvae_eval.checkpoint.formats import write_bundle
from ccvae_eval.core.errors import CheckpointError, UsageError
from ccvae_eval.core.typed import plain, read
from ccvae_eval.core.types import Plain
from ccvae_eval.model.interface import ModelContext, Rebuildable

if TYPE_CHECKING:
    from torch import Tensor

EXTRA = "extra/"
"""Prefix of tensors that are not the model's; weights are named after attributes, which contain no slash."""


class HasSpec(Protocol):
    """The properties of a data set that a checkpoint records."""

    @property
    def spec(self) -> str: ...

    @property
    def digest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """The record of a model in a checkpoint.

    Args:
        name: registered name of the model.
        settings: its settings.
        context: labels, input shape and p(y); None if the checkpoint was written by another program.
        data_spec: the training data as ``name[,key=value]``, without their path.
        data_digest: digest of the training data.
        training: seed, supervision rate, epochs, digest of the split, ...
    """

    name: str
    settings: Mapping[str, Plain] = field(default_factory=dict)
    context: ModelContext | None = None
    data_spec: str | None = None
    data_digest: str | None = None
    training: Mapping[str, Plain] = field(default_factory=dict)

    def as_plain(self) -> dict[str, Plain]:
        """Returns the record as plain data; settings may be infinite, unlike the values of a run."""
        return {**plain(self), "settings": dict(self.settings), "training": dict(self.training)}

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Self | None:
        """Returns the record of a checkpoint of this toolkit; None for any other file.

        Raises:
            CheckpointError: the record is malformed.
        """
        if bundle.envelope is None or "model" not in bundle.metadata:
            return None
        return read(cls, bundle.metadata["model"], f"{bundle.path}: model record", error=CheckpointError, extra=True)


def save_checkpoint(
    path: str | Path,
    model: Rebuildable,
    *,
    name: str,
    data: HasSpec | None = None,
    training: Mapping[str, Plain] | None = None,
    extra: Mapping[str, Tensor] | None = None,
    half: bool = False,
) -> None:
    """Writes a model to a checkpoint that ``open_checkpoint`` loads.

    Args:
        path: ends in ``.pt`` or ``.safetensors``.
        model: its settings, context and ``state_dict`` are written.
        name: the registered name of the model.
        data: the training data; their digest and their spec without the path are recorded.
        training: plain data about the training.
        extra: further tensors, such as an optimiser's; loading returns them as ``Opened.extra``.
        half: store the weights as float16, see :func:`.formats.write_bundle`.

    Raises:
        UsageError: the settings are not a dataclass, or the suffix is another one.
        InputError: the file cannot be written.
    """
    if not is_dataclass(model.settings) or isinstance(model.settings, type):
        raise UsageError(f"the settings of model {name!r} must be a dataclass, got {type(model.settings).__name__}")
    record = CheckpointRecord(
        name,
        asdict(model.settings),
        model.context,
        None if data is None else without_path(data.spec),
        None if data is None else data.digest,
        training or {},
    )
    tensors = {**model.state_dict(), **{EXTRA + key: tensor for key, tensor in (extra or {}).items()}}
    write_bundle(path, tensors, {"model": record.as_plain()}, half=half)


def without_path(spec: str) -> str:
    """Returns the spec of a data set without its path, so that a checkpoint does not reveal it.

    >>> without_path("folder:/home/anna/faces,size=64")
    'folder,size=64'
    >>> without_path("faces,size=64")
    'faces,size=64'
    """
    return re.sub(r"^([^:,]*):.*?((?:,\w+=[^,]*)*)$", r"\1\2", spec)
