"""The judge: its network, a calibrated image classifier, and the record of its training and accuracy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from ccvae_eval.checkpoint import read_bundle, write_bundle
from ccvae_eval.core.errors import CheckpointError, DataError, InputError, UsageError
from ccvae_eval.core.typed import NullIsNan, Range, plain, read
from ccvae_eval.core.types import Images, Plain
from ccvae_eval.model.fixed_batches import fixed_batch, in_fixed_batches
from ccvae_eval.model.interface import LabelSchema

VERSION = 1
"""Version of the recipes and the network; changes whenever the resulting judges do."""
FIXED, SETTLED = "fixed", "settled"
"""Recipes: a fixed number of steps; or steps until the accuracy on held-out images is settled."""
Share = Annotated[float, NullIsNan()]
Moments = tuple[
    Annotated[float, Range(above=-math.inf, below=math.inf)], Annotated[float, Range(above=0, below=math.inf)]
]
"""Mean and standard deviation of a label."""
WIDTHS = (16, 32, 64, 64)
INPUT_EDGE = 64
"""Edges of at least twice this length are halved first: attributes are visible at this size, and the head is small."""


def downsampled(images: Images) -> Images:
    """The images, halved by averaging until every edge is shorter than 128 pixels."""
    while max(images.shape[-2:]) >= 2 * INPUT_EDGE:
        images = functional.avg_pool2d(images, 2)
    return images


def output_sizes(labels: LabelSchema) -> list[int]:
    """Number of outputs for each label: one logit for each class, one number for a continuous label."""
    return [max(label.cardinality, 1) for label in labels]


class JudgeNetwork(nn.Module):
    """Four convolutions and a linear head; gives the concatenated outputs for all labels.

    The weights are uninitialised until :func:`initialise` or ``load_state_dict`` sets them.

    Args:
        input_shape: (C, H, W).
        outputs: number of outputs for each label.
    """

    def __init__(self, input_shape: tuple[int, ...], outputs: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = downsampled(torch.empty(1, *input_shape, device="meta")).shape[1:]
        layers: list[nn.Module] = []
        for out_channels in WIDTHS:
            layers += [
                _uninitialised(nn.Conv2d, channels, out_channels, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
            channels, height, width = out_channels, math.ceil(height / 2), math.ceil(width / 2)
        self.trunk = nn.Sequential(*layers)
        self.heads = _uninitialised(nn.Linear, channels * height * width, sum(outputs))

    def features(self, images: Images) -> Tensor:
        """The last convolutional layer, averaged over positions, shape (N, 64)."""
        return self._last_layer(images).mean((2, 3))

    def _last_layer(self, images: Images) -> Tensor:
        centred = downsampled(images).contiguous(memory_format=torch.channels_last) - 0.5
        layer: Tensor = self.trunk(centred)
        return layer

    def forward(self, images: Images) -> Tensor:
        features: Any = self._last_layer(images).flatten(1)
        if self.training:
            logits: Tensor = self.heads(features)
        else:
            # sums, unlike a matrix product, give the same bits for any number of threads
            logits = (features.unsqueeze(1) * self.heads.weight).sum(2) + self.heads.bias
        return logits


def outputs_of(network: Callable[[Tensor], Tensor], images: Images) -> Tensor:
    """Output of a judge's network for any number of images, in fixed batches."""
    return in_fixed_batches(network, images, fixed_batch(images.device, images.shape[1:]))


def _uninitialised(kind: type[nn.Module], *shape: int, **options: Any) -> nn.Module:
    """A layer with uninitialised weights, which leaves the global random state alone."""
    layer = kind(*shape, **options, device="meta").to_empty(device=torch.get_default_device())
    if isinstance(layer, nn.Conv2d):
        layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return layer


@torch.no_grad()
def initialise(network: JudgeNetwork, generator: Generator) -> None:
    """Initialise the weights: He et al. (2015) for the convolutions, zero for the heads."""
    for layer in network.trunk:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    for parameter in network.heads.parameters():
        nn.init.zeros_(parameter)


@dataclass(frozen=True, slots=True)
class JudgeRecord:
    """Origin and accuracy of a judge.

    Args:
        trained_on: spec of the data set whose ``judge`` split was used.
        digest: digest of the data set.
        renderer: renderer of the images; "" for other images.
        seed: seed of the training.
        steps: number of training steps.
        images: number of training images.
        accuracy: accuracy for each label, on held-out images of the ``judge`` split; R2 for a continuous label.
        balanced_accuracy: balanced accuracy for each label, on the same images; rank correlation of the predicted and
            the true values for a continuous label.
        blurred_accuracy: balanced accuracy on the same images after a strong blur (1.5 pixels in 64).
        left_out: the reason for each label that the judge does not classify.
        version: see ``VERSION``.
        recipe: how it was trained, see :func:`ccvae_eval.judge.train_judge`.
        started_from: sha256 of the judge whose convolutions the training started from; "" for random weights.
    """

    trained_on: str
    digest: str
    renderer: str
    seed: int
    steps: int
    images: int
    accuracy: Mapping[str, Share]
    balanced_accuracy: Mapping[str, Share]
    blurred_accuracy: Mapping[str, Share]
    left_out: Mapping[str, str] = field(default_factory=dict)
    version: int = VERSION
    recipe: str = FIXED
    started_from: str = ""


@dataclass(frozen=True, slots=True)
class JudgeMetadata:
    """The contents of a judge file other than the weights; the fields are those of :class:`Judge`."""

    kind: Literal["judge"]
    labels: LabelSchema
    input_shape: tuple[Annotated[int, Range(least=1)], ...]
    temperatures: tuple[Annotated[float, Range(above=0, below=math.inf)], ...]
    record: JudgeRecord
    moments: Mapping[str, Moments] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.temperatures) != len(self.labels):
            what = f"{len(self.labels)} labels need as many temperatures, got {len(self.temperatures)}"
            raise UsageError(what)
        for label in self.labels:
            if (label.kind == "continuous") != (label.name in self.moments):
                raise UsageError(f"moments must name the continuous labels, got {', '.join(self.moments) or 'none'}")


@dataclass(frozen=True, eq=False)
class Judge:
    """An image classifier that is independent of the models under evaluation (docs/metrics.md, section 0).

    Made by :func:`ccvae_eval.judge.train_judge` or :meth:`open`. Its probabilities are calibrated for equally frequent
    classes, because the data's prevalences do not apply to images after an intervention.

    Args:
        network: gives the logits of all labels.
        labels: the labels that it classifies, and continuous labels whose values it predicts.
        input_shape: (C, H, W) of the images.
        temperatures: the divisor of each label's logits; 1 for a continuous label.
        record: its origin and accuracy.
        moments: mean and standard deviation of each continuous label, in which the network states its values.
        requested: the labels to predict, see :meth:`for_labels`; None = all.
    """

    network: JudgeNetwork
    labels: LabelSchema
    input_shape: tuple[int, ...]
    temperatures: tuple[float, ...]
    record: JudgeRecord
    moments: Mapping[str, Moments] = field(default_factory=dict)
    requested: LabelSchema | None = None

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)

    def log_probabilities(self, images: Images) -> Mapping[str, Tensor]:
        """Log-probabilities of the classes of each label, shape (N, K), with K = 2 for a binary label.

        A continuous label has its predicted value instead, shape (N, 1). Computed on the images' device in fixed
        batches, so that a row does not depend on the other rows.

        Raises:
            DataError: the images differ in shape from the training images.
        """
        self.require_shape(tuple(images.shape[1:]))
        with torch.no_grad():
            logits = outputs_of(self.network.to(images.device), images)
        parts = torch.split(logits, output_sizes(self.labels), dim=1)
        log_probs = {
            label.name: torch.log_softmax(part / temperature, 1)
            if label.kind != "continuous"
            else self.moments[label.name][0] + self.moments[label.name][1] * part
            for label, part, temperature in zip(self.labels, parts, self.temperatures, strict=True)
        }
        return log_probs if self.requested is None else self._in_order(log_probs, self.requested)

    def features(self, images: Images) -> Tensor:
        """Features of the images, shape (N, 64), see ``JudgeNetwork.features``.

        Raises:
            DataError: the images differ in shape from the training images.
        """
        self.require_shape(tuple(images.shape[1:]))
        with torch.no_grad():
            return outputs_of(self.network.to(images.device).features, images)

    def _in_order(self, log_probs: Mapping[str, Tensor], requested: LabelSchema) -> dict[str, Tensor]:
        own = {label.name: self.labels[label.name].classes for label in requested if label.name in log_probs}
        orders = {name: [own[name].index(c) for c in requested[name].classes] for name in own}
        return {name: log_probs[name][:, order] if order else log_probs[name] for name, order in orders.items()}

    def for_labels(self, schema: LabelSchema) -> Judge:
        """The judge restricted to the labels of a schema, in its order of labels and classes.

        Labels that the judge does not classify, or of which it lacks a class, are left out.
        """
        own = {label.name: label for label in self.labels}
        shared = [label for label in schema if label.name in own and label.kind == own[label.name].kind]
        known = [label for label in shared if set(label.classes) <= set(own[label.name].classes)]
        return replace(self, requested=LabelSchema(tuple(known)))

    def require_shape(self, shape: tuple[int, ...]) -> None:
        """Raise a ``DataError`` if the images differ in shape from the training images."""
        if tuple(shape) != self.input_shape:
            raise DataError(
                f"the judge needs images of {_by(self.input_shape)}, got {_by(shape)}",
                hint="--judge auto trains a judge for these images; --judge none runs without one.",
            )

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The weights as they are saved: float16, on the CPU."""
        return {name: weight.half().cpu() for name, weight in self.network.state_dict().items() if weight.ndim}

    @cached_property
    def sha256(self) -> str:
        """Digest of everything that determines its predictions: weights, temperatures, labels, moments, input shape."""
        head: list[object] = [self.labels.as_plain(), list(self.input_shape), list(self.temperatures)]
        head += [dict(self.moments)] if self.moments else []  # judges of classes keep the digest of earlier versions
        digest = sha256(json.dumps(head).encode())
        for name, weight in self.tensors.items():
            digest.update(name.encode() + weight.numpy().tobytes())
        return digest.hexdigest()

    def as_plain(self) -> dict[str, Plain]:
        """The judge in the record of a run, where ``accuracy`` is the balanced accuracy."""
        record = asdict(self.record)
        renamed = {"accuracy": record["balanced_accuracy"], "raw_accuracy": record["accuracy"]}
        return {"sha256": self.sha256, **record, **renamed}

    def metadata(self) -> dict[str, Plain]:
        """The contents of a judge file other than the weights."""
        found: dict[str, Plain] = plain(
            JudgeMetadata("judge", self.labels, self.input_shape, self.temperatures, self.record, self.moments)
        )
        return found

    def save(self, path: str | Path) -> None:
        """Write the judge atomically to a ``.safetensors`` (or ``.pt``) file."""
        write_bundle(path, self.tensors, self.metadata())

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read a judge from a file without executing code from it.

        Raises:
            CheckpointError: the file is missing or damaged, or does not contain a judge.
        """
        bundle, where = read_bundle(path), str(path)
        try:
            found = read(JudgeMetadata, dict(bundle.metadata), extra=True)
            network = _loaded(found.input_shape, found.labels, bundle.tensors)
        except (InputError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                "the file is not a judge of this version",
                where=where,
                why=str(error),
                hint="Train a judge with: ccvae-eval train judge",
            ) from None
        return cls(network, found.labels, found.input_shape, found.temperatures, found.record, found.moments)


def judged_on_cpu(judge: Judge, batches: Sequence[Images]) -> list[Mapping[str, Tensor]]:
    """The judge's log-probabilities of several batches of equal size, brought to the CPU in one transfer."""
    found = [judge.log_probabilities(images) for images in batches]
    flat = [values for judged in found for values in judged.values()]
    if not flat:
        return [dict(judged) for judged in found]
    columns = torch.cat(flat, 1).cpu()
    parts = torch.split(columns, [values.shape[1] for values in flat], dim=1)
    # in the memory order of the originals, on which the bits of sums depend
    moved = (torch.empty_like(v, device="cpu").copy_(part) for v, part in zip(flat, parts, strict=True))
    return [{name: next(moved) for name in judged} for judged in found]


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _loaded(shape: tuple[int, ...], labels: LabelSchema, tensors: Mapping[str, Any]) -> JudgeNetwork:
    """The network with the given weights; their shapes are checked before memory is allocated."""
    outputs = output_sizes(labels)
    with torch.device("meta"):
        expected = {name: t.shape for name, t in JudgeNetwork(shape, outputs).state_dict().items() if t.ndim}
    given = {name: t.shape for name, t in tensors.items()}
    if expected != given:
        raise ValueError("its weights have other names or shapes")
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise ValueError("its weights are not finite")
    network = JudgeNetwork(shape, outputs)
    network.load_state_dict({name: t.float() for name, t in tensors.items()}, strict=False)
    return network
