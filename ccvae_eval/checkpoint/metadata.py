"""What a checkpoint says about itself: which model it is, what it was built for and how it was trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Protocol, Self

from torch import Tensor

from ccvae_eval.checkpoint.bundle import Bundle
from ccvae_eval.checkpoint.formats import write_bundle
from ccvae_eval.core.errors import CcvaeEvalError, CheckpointError, UsageError
from ccvae_eval.core.types import Plain
from ccvae_eval.model.interface import ModelContext, Rebuildable

EXTRA = "extra/"
"""Begins the names of tensors that are not the model's; no module can be called so, for its name would have a slash."""


class HasSpec(Protocol):
    """What a checkpoint keeps of a data set."""

    @property
    def spec(self) -> str: ...

    @property
    def digest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """The metadata of a checkpoint.

    Args:
        name: the registered model that it asks for.
        settings: of that model.
        context: labels, input shape and p(y) that the model was built for; None where only an adapter knows.
        data_spec: the training data as ``name[,key=value]``, without its path.
        data_digest: of the training data.
        training: seed, supervision rate, epochs, digest of the split, ...
    """

    name: str
    settings: Mapping[str, Plain] = field(default_factory=dict)
    context: ModelContext | None = None
    data_spec: str | None = None
    data_digest: str | None = None
    training: Mapping[str, Plain] = field(default_factory=dict)

    def as_plain(self) -> dict[str, Plain]:
        return {
            "name": self.name,
            "settings": dict(self.settings),
            "context": self.context.as_plain() if self.context else None,
            "data_spec": self.data_spec,
            "data_digest": self.data_digest,
            "training": dict(self.training),
        }

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Self | None:
        """The record of a checkpoint of ours; None for tensors that say nothing about a model.

        Raises:
            CheckpointError: a record that is malformed.
        """
        if bundle.envelope is None or "model" not in bundle.metadata:
            return None
        plain = bundle.metadata["model"]
        try:
            texts = [plain["name"], *(t for t in (plain["data_spec"], plain["data_digest"]) if t is not None)]
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("a name is no text")
            context = plain["context"]
            return cls(
                plain["name"],
                dict(plain["settings"]),
                None if context is None else ModelContext.from_plain(context, str(bundle.path)),
                plain["data_spec"],
                plain["data_digest"],
                dict(plain["training"]),
            )
        except (KeyError, TypeError, ValueError, CcvaeEvalError) as error:
            raise CheckpointError("has a malformed record", where=str(bundle.path), why=str(error)) from None


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
    """Writes a model so that ``open_checkpoint`` gives it back.

    Args:
        path: ends in ``.pt`` or ``.safetensors``.
        model: its settings, context and ``state_dict`` are written.
        name: under which the model is registered.
        data: what it was trained on; its digest and its spec without the path are kept.
        training: plain facts about the training.
        extra: further tensors, such as an optimiser's; ``Opened.extra`` has them again.
        half: store the weights as float16, see :func:`.envelope.write_bundle`.

    Raises:
        UsageError: settings that are no dataclass, or another suffix.
        InputError: it cannot be written there.
    """
    if not is_dataclass(model.settings) or isinstance(model.settings, type):
        raise UsageError(f"the settings of {name} are no dataclass")
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
    """The spec of a data set without the place where it lies on somebody's disk.

    >>> without_path("folder:/home/anna/faces,size=64")
    'folder,size=64'
    >>> without_path("faces,size=64")
    'faces,size=64'
    """
    return re.sub(r"^([^:,]*):.*?((?:,\w+=[^,]*)*)$", r"\1\2", spec)
