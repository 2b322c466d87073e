"""The judge itself: an independent image classifier, calibrated, with a record of how good it is.

The judge's network: four convolutions and a linear head for each label.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from ccvae_eval.checkpoint import read_bundle, write_bundle
from ccvae_eval.core.errors import CheckpointError, DataError, UsageError
from ccvae_eval.core.types import Images, Plain
from ccvae_eval.model.fixed_batches import in_chunks
from ccvae_eval.model.interface import LabelSchema

WIDTHS = (16, 32, 64, 64)
LARGEST = 64
"""Longer edges are halved first: attributes show at this size, and the head stays small."""


def reduced(images: Images) -> Images:
    """The images, averaged down by twos until no edge is longer than 64 pixels (nothing below 128 is touched)."""
    while max(images.shape[-2:]) >= 2 * LARGEST:
        images = functional.avg_pool2d(images, 2)
    return images


def reduced_shape(input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that :func:`reduced` makes of an image's."""
    return tuple(reduced(torch.empty(1, *input_shape, device="meta")).shape[1:])


class JudgeNetwork(nn.Module):
    """Logits of all labels, one after the other; 82,600 parameters for 3 x 64 x 64 and nine labels of faces.

    The weights are blank until :func:`initialise` draws them or a state is loaded.

    Args:
        input_shape: (C, H, W).
        cardinalities: the number of classes of each label.
    """

    def __init__(self, input_shape: tuple[int, ...], cardinalities: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = reduced_shape(input_shape)
        layers: list[nn.Module] = []
        for wide in WIDTHS:
            layers += [
                _blank(nn.Conv2d, channels, wide, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU(inplace=True),
            ]
            channels, height, width = wide, math.ceil(height / 2), math.ceil(width / 2)
        self.trunk = nn.Sequential(*layers)
        self.heads = _blank(nn.Linear, channels * height * width, sum(cardinalities))

    def features(self, images: Images) -> Tensor:
        """The last layer before the heads, averaged over places, shape (N, 64)."""
        return self._last_layer(images).mean((2, 3))

    def _last_layer(self, images: Images) -> Tensor:
        centred = reduced(images).contiguous(memory_format=torch.channels_last) - 0.5
        layer: Tensor = self.trunk(centred)
        return layer

    def forward(self, images: Images) -> Tensor:
        features: Any = self._last_layer(images).flatten(1)
        if self.training:
            logits: Tensor = self.heads(features)
        else:
            # a matrix product's bits depend on the number of threads, these sums' do not
            logits = (features.unsqueeze(1) * self.heads.weight).sum(2) + self.heads.bias
        return logits


def _blank(kind: type[nn.Module], *shape: int, **options: Any) -> nn.Module:
    """A layer whose weights are not drawn, so that no global random state is touched."""
    layer = kind(*shape, **options, device="meta").to_empty(device=torch.get_default_device())
    if isinstance(layer, nn.Conv2d):
        layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return layer


@torch.no_grad()
def initialise(network: JudgeNetwork, generator: Generator) -> None:
    """Draws the weights (He et al. 2015 for the convolutions, zero for the heads) without a global generator."""
    for layer in network.trunk:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    for parameter in network.heads.parameters():
        nn.init.zeros_(parameter)


VERSION = 1
"""Of training and network together: another number, other judges."""


@dataclass(frozen=True, slots=True)
class JudgeRecord:
    """Where a judge comes from and how good it is.

    Args:
        trained_on: the spec of the data set; its ``judge`` split was used.
        digest: of the data set.
        renderer: the drawing that made the images, "" for others.
        seed, steps, images: of the training.
        accuracy, balanced_accuracy: for each label, on judge images that were held out.
        blurred_accuracy: balanced, on the same images after a strong blur (1.5 pixels in 64).
        left_out: for each label that the judge does not know, why.
        version: of the way judges are made.
    """

    trained_on: str
    digest: str
    renderer: str
    seed: int
    steps: int
    images: int
    accuracy: Mapping[str, float]
    balanced_accuracy: Mapping[str, float]
    blurred_accuracy: Mapping[str, float]
    left_out: Mapping[str, str] = field(default_factory=dict)
    version: int = VERSION

    @classmethod
    def from_plain(cls, plain: Plain) -> Self:
        """The inverse of ``asdict``, for files of strangers."""

        def shares(key: str) -> dict[str, float]:
            return {str(name): float(share) for name, share in plain[key].items()}

        return cls(
            str(plain["trained_on"]), str(plain["digest"]), str(plain["renderer"]),
            int(plain["seed"]), int(plain["steps"]), int(plain["images"]),
            shares("accuracy"), shares("balanced_accuracy"), shares("blurred_accuracy"),
            {str(name): str(why) for name, why in plain["left_out"].items()}, int(plain["version"]),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Judge:
    """An image classifier that no model under evaluation has seen (docs/metrics.md, section 0).

    Made by :func:`ccvae_eval.judge.train_judge` or :meth:`open`. Its probabilities are calibrated for classes that are
    equally frequent: an image after an intervention knows nothing of the data's prevalences.

    Args:
        network: the logits of all labels.
        labels: the labels that it knows; never a continuous one.
        input_shape: (C, H, W) of the images.
        temperatures: what the logits of each label are divided by.
        record: where it comes from.
        asked: the labels to answer for, see :meth:`answering`; None = all of its own.
    """

    network: JudgeNetwork
    labels: LabelSchema
    input_shape: tuple[int, ...]
    temperatures: tuple[float, ...]
    record: JudgeRecord
    asked: LabelSchema | None = None

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)

    def log_probabilities(self, images: Images) -> Mapping[str, Tensor]:
        """For each label the log-probabilities of its classes, shape (N, K), K = 2 for a binary one.

        On the images' device, in canonical chunks: a row does not depend on the rows beside it.

        Raises:
            DataError: images of another shape than the judge learnt from.
        """
        self.require_shape(tuple(images.shape[1:]))
        with torch.no_grad():
            logits = in_chunks(self.network.to(images.device), images)
        parts = torch.split(logits, [label.cardinality for label in self.labels], dim=1)
        told = {
            label.name: torch.log_softmax(part / temperature, 1)
            for label, part, temperature in zip(self.labels, parts, self.temperatures, strict=True)
        }
        return told if self.asked is None else self._in_order(told, self.asked)

    def features(self, images: Images) -> Tensor:
        """What the network sees before it decides, shape (N, 64): see ``JudgeNetwork.features``.

        Raises:
            DataError: images of another shape than the judge learnt from.
        """
        self.require_shape(tuple(images.shape[1:]))
        with torch.no_grad():
            return in_chunks(self.network.to(images.device).features, images)

    def _in_order(self, told: Mapping[str, Tensor], asked: LabelSchema) -> dict[str, Tensor]:
        answers = {}
        for label in asked:
            if label.name in told:
                own = self.labels[label.name].classes
                order = [own.index(name) for name in label.classes] or [0, 1]
                answers[label.name] = told[label.name][:, order]
        return answers

    def answering(self, schema: LabelSchema) -> Judge:
        """The same judge, answering for the labels of a schema in its order of labels and classes.

        Labels that it does not know, or of which it lacks a class, it does not answer for.
        """
        known = [
            label
            for label in schema
            if label.name in self.labels
            and label.kind == self.labels[label.name].kind
            and set(label.classes) <= set(self.labels[label.name].classes)
        ]
        return replace(self, asked=LabelSchema(tuple(known)))

    def require_shape(self, shape: tuple[int, ...]) -> None:
        """Raises a ``DataError`` for images of another shape than the judge learnt from."""
        if tuple(shape) != self.input_shape:
            raise DataError(
                f"the judge reads images of {_by(self.input_shape)}, these are {_by(shape)}",
                hint="--judge auto trains one for these images, --judge none does without.",
            )

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The weights as they are saved: float16, on the CPU."""
        return {name: weight.half().cpu() for name, weight in self.network.state_dict().items() if weight.ndim}

    @cached_property
    def sha256(self) -> str:
        """Of what decides its answers: weights, temperatures, labels and shape."""
        head = [self.labels.as_plain(), list(self.input_shape), list(self.temperatures)]
        digest = sha256(json.dumps(head).encode())
        for name, weight in self.tensors.items():
            digest.update(name.encode() + weight.numpy().tobytes())
        return digest.hexdigest()

    def as_plain(self) -> dict[str, Plain]:
        """The judge as a run records it; ``accuracy`` is the balanced one."""
        record = asdict(self.record)
        return {
            "sha256": self.sha256,
            **record,
            "accuracy": record["balanced_accuracy"],
            "raw_accuracy": record["accuracy"],
        }

    def metadata(self) -> dict[str, Plain]:
        """What a file says beside the weights."""
        return {
            "kind": KIND,
            "labels": self.labels.as_plain(),
            "input_shape": list(self.input_shape),
            "temperatures": list(self.temperatures),
            "record": asdict(self.record),
        }

    def save(self, path: str | Path) -> None:
        """Writes the judge to a ``.safetensors`` (or ``.pt``) file, whole or not at all."""
        write_bundle(path, self.tensors, self.metadata())

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Reads a judge; nothing in the file is executed.

        Raises:
            CheckpointError: it is missing, damaged, or no judge.
        """
        bundle = read_bundle(path)
        return cls.rebuilt(bundle.metadata, bundle.tensors, str(path))

    @classmethod
    def rebuilt(cls, metadata: Mapping[str, Plain], tensors: Mapping[str, Tensor], where: str) -> Self:
        """A judge from what a file holds; anything that does not fit is a ``CheckpointError``."""
        try:
            if metadata["kind"] != KIND:
                raise ValueError(f"it is a {metadata['kind']}")
            labels = LabelSchema.from_plain(metadata["labels"], where)
            shape = tuple(int(edge) for edge in metadata["input_shape"])
            temperatures = tuple(float(t) for t in metadata["temperatures"])
            record = JudgeRecord.from_plain(metadata["record"])
            if not all(0 < t < math.inf for t in temperatures) or len(temperatures) != len(labels):
                raise ValueError("its temperatures are no temperatures")
            network = _loaded(shape, labels, tensors)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, UsageError) as error:
            raise CheckpointError(
                "is no judge of this version", where=where, why=str(error), hint="Make one with: train judge"
            ) from None
        return cls(network, labels, shape, temperatures, record)


KIND = "judge"


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _loaded(shape: tuple[int, ...], labels: LabelSchema, tensors: Mapping[str, Any]) -> JudgeNetwork:
    """The network with these weights; the shapes are compared before anything is allocated."""
    cardinalities = tuple(label.cardinality for label in labels)
    with torch.device("meta"):
        wanted = {name: t.shape for name, t in JudgeNetwork(shape, cardinalities).state_dict().items() if t.ndim}
    given = {name: t.shape for name, t in tensors.items()}
    if wanted != given:
        raise ValueError("its weights have other names or shapes")
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise ValueError("its weights are not finite")
    network = JudgeNetwork(shape, cardinalities)
    network.load_state_dict({name: t.float() for name, t in tensors.items()}, strict=False)
    return network
