"""How a judge is made: from the ``judge`` split, on images made worse, held out images deciding how sure it may be.

How far a judge can be trusted: its balanced accuracy for each label.

Worse copies of an image: what the judge must still read, since it will look at a model's blurry pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Generator, Tensor
from torch.nn import functional

from ccvae_eval.checkpoint.metadata import without_path
from ccvae_eval.core.errors import UndefinedError, UnsupportedError
from ccvae_eval.core.random_streams import stream_key, torch_stream
from ccvae_eval.core.types import Ids, Images, Labels
from ccvae_eval.data.interface import DataSet, Renders
from ccvae_eval.judge.artifact import Judge, JudgeNetwork, JudgeRecord, initialise, reduced
from ccvae_eval.model.fixed_batches import in_chunks
from ccvae_eval.model.interface import LabelSchema

LEAST_AGREEMENT = 0.8


def balanced_accuracies(told: Mapping[str, Tensor], labels: Labels, schema: LabelSchema) -> dict[str, float]:
    """For each label the mean over its classes of the share of their images that are seen as theirs.

    Args:
        told: log-probabilities of each label, shape :math:`(N, K)`.
        labels: what is true, shape :math:`(N, L)` in the schema's order; missing ones do not enter.
        schema: the labels; those that nobody was asked about are left out of the answer.

    Returns:
        Label to share; NaN where fewer than two classes occur.

    >>> import torch
    >>> from ccvae_eval.model.interface import binary_schema
    >>> told = {"Hat": torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]]).log()}
    >>> balanced_accuracies(told, torch.tensor([[0.0], [0.0], [1.0], [1.0]]), binary_schema("Hat"))
    {'Hat': 0.75}
    """
    return {
        name: _mean_recall(told[name].argmax(1).cpu(), labels[:, schema.index(name)].cpu())
        for name in schema.names
        if name in told
    }


def _mean_recall(seen: Tensor, true: Tensor) -> float:
    classes = sorted(set(true[~true.isnan()].tolist()))
    recalls = [float((seen[true == k] == k).double().mean()) for k in classes]
    return sum(recalls) / len(recalls) if len(recalls) > 1 else math.nan


def trusted_labels(agreement: Mapping[str, float], least: float = LEAST_AGREEMENT) -> tuple[str, ...]:
    """The labels whose judged values may be shown: the judge agrees with them on this model's pictures.

    Args:
        agreement: for each label the judge's balanced accuracy on the model's reconstructions, as
            :func:`balanced_accuracies` gives it. NaN is not trusted: nobody could check.
        least: the least balanced accuracy.

    >>> trusted_labels({"Hat": 0.97, "Bangs": 0.71, "Tie": float("nan")})
    ('Hat',)
    """
    return tuple(name for name, share in agreement.items() if share >= least)


REFERENCE_EDGE = 64
BLUR = (0.4, 2.0)
"""Deviations of the blur, in pixels of an image of 64."""
SHRINKAGE = (1.5, 4.0)
GAIN, OFFSET, NOISE = 0.12, 0.06, 0.03


def blurred(images: Images, deviation: float) -> Images:
    """A Gaussian blur; the edge is continued by its own pixels.

    >>> blurred(torch.ones(1, 1, 4, 4), 1.0).allclose(torch.ones(1, 1, 4, 4))
    True
    """
    reach = min(math.ceil(2.5 * deviation), min(images.shape[-2:]) - 1)
    channels = images.shape[1]
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=images.dtype) / deviation).square())
    kernel = (kernel / kernel.sum()).to(images.device).expand(channels, 1, -1)
    wide = functional.pad(images, (reach, reach, reach, reach), mode="replicate")
    across = functional.conv2d(wide, kernel[:, :, None, :], groups=channels)
    return functional.conv2d(across, kernel[:, :, :, None], groups=channels)


def rescaled(images: Images, factor: float) -> Images:
    """The images, scaled down by a factor and up again."""
    size = [max(2, round(edge / factor)) for edge in images.shape[-2:]]
    small = functional.interpolate(images, size, mode="bilinear", antialias=True)
    return functional.interpolate(small, images.shape[-2:], mode="bilinear")


def degraded(images: Images, generator: Generator) -> Images:
    """A third of the rows blurred and a third scaled down and up (the same for all rows of the call), the rest sharp;
    then brightness and contrast of each image changed a little and slight noise added.

    Args:
        images: shape :math:`(N, C, H, W)`, not changed.
        generator: what every choice is drawn from.
    """
    third = len(images) // 3
    blur, shrinkage = (low + (high - low) * _uniform(generator) for low, high in (BLUR, SHRINKAGE))
    unit = min(images.shape[-2:]) / REFERENCE_EDGE
    parts = [
        blurred(images[:third], max(blur * unit, 0.1)),
        rescaled(images[third : 2 * third], 1 + (shrinkage - 1) * min(unit, 1)),
        images[2 * third :],
    ]
    degree = torch.rand(2, len(images), 1, 1, 1, generator=generator) * 2 - 1
    noise = torch.randn(images.shape, generator=generator)
    worse = torch.cat(parts).mul_(1 + GAIN * degree[0]).add_(OFFSET * degree[1])
    return worse.add_(noise, alpha=NOISE * _uniform(generator)).clamp_(0, 1)


def _uniform(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))


def softened(images: Images) -> Tensor:
    """One fixed, strong degradation for the record: a blur of 1.5 pixels in 64."""
    return blurred(images, 1.5 * min(images.shape[-2:]) / REFERENCE_EDGE)


Progress = Callable[[int, int], None]

STEPS = 800
BATCH = 128
LEARNING_RATE = 4e-3
WARM_UP = 0.1
WEIGHT_DECAY = 1e-2
MOST_IMAGES = 24_000
HELD_OUT = 5
"""One image in so many is held out."""
LEAST_OF_CLASS = 10
"""Images of each class that a label needs, among those learnt from and among those held out together."""
MOST_WEIGHT = 10.0
READ_AT_ONCE = 1024
BYTE = 255


@dataclass(frozen=True, slots=True)
class _Examples:
    """Images in memory: bytes at the size that the network sees, labels of the judge's schema."""

    pixels: Tensor
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows: Tensor | slice) -> Images:
        return self.pixels[rows].float().div_(BYTE)


def train_judge(
    data: DataSet,
    *,
    seed: int = 0,
    steps: int = STEPS,
    labels: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Judge:
    """Trains a judge on the ``judge`` split of a data set; the same seed gives the same judge in every bit.

    Binary and categorical labels; a continuous one, and one with fewer than ten images of some class, is left out and
    the record says why. Classes are weighted to count alike (ten times at most). After training the weights are
    rounded to float16, as they are saved, and each label's temperature is found on held out images, sharp and worse.

    Args:
        data: where from; at most 24,000 images are used.
        seed: of weights, batches and degradations.
        steps: of 128 images each; the default is reached in about half a minute at 64 pixels.
        labels: only these.
        progress: called with (steps done, steps).

    Raises:
        UnsupportedError: the data are points.
        UndefinedError: no judge split, or no label that can be learnt.
    """
    if len(data.input_shape) != 3:
        raise UnsupportedError("a judge looks at images, these data are points", where=data.spec)
    learnt, held = _split(data, seed)
    schema, left_out = _learnable(data, labels, np.concatenate([learnt, held]))
    examples, examination = _read(data, learnt, schema), _read(data, held, schema)
    network = JudgeNetwork(data.input_shape, tuple(label.cardinality for label in schema))
    initialise(network, torch_stream(seed, "judge/weights"))
    _fit(network, examples, schema, steps, torch_stream(seed, "judge/batches"), progress)
    _round(network)
    network.eval().requires_grad_(False)
    sharp = examination.images(slice(None))
    worse = degraded(sharp, torch_stream(seed, "judge/held out"))
    temperatures = _temperatures(network, torch.cat([sharp, worse]), examination.labels.repeat(2, 1), schema)
    shares = [_accuracies(network, images, examination.labels, schema) for images in (sharp, softened(sharp))]
    renderer = data.renderer if isinstance(data, Renders) else ""
    record = JudgeRecord(
        without_path(data.spec), data.digest, renderer, seed, steps, len(learnt),
        shares[0][0], shares[0][1], shares[1][1], left_out,
    )  # fmt: skip
    return Judge(network, schema, tuple(data.input_shape), temperatures, record)


def _split(data: DataSet, seed: int) -> tuple[Ids, Ids]:
    """The ids learnt from and those held out; which image is held out does not depend on the seed."""
    ids = data.split("judge")
    if len(ids) > MOST_IMAGES:
        order = np.argsort([stream_key(seed, "judge/sample", int(i)) for i in ids], kind="stable")
        ids = np.sort(ids[order[:MOST_IMAGES]])
    held = np.array([stream_key(0, "judge/held out", int(i)) % HELD_OUT == 0 for i in ids], np.bool_)
    if not held.any() or held.all():
        raise UndefinedError("the judge split has too few images", where=data.spec)
    return ids[~held], ids[held]


def _learnable(data: DataSet, labels: Sequence[str] | None, ids: Ids) -> tuple[LabelSchema, dict[str, str]]:
    """The labels that a judge can learn, and why the others are left out."""
    left_out = {}
    for label in data.schema.select(tuple(labels)) if labels is not None else data.schema:
        column = data.labels_of(ids)[:, data.schema.index(label.name)]
        counts = [int((column == k).sum()) for k in range(label.cardinality)]
        if label.kind == "continuous":
            left_out[label.name] = "a continuous label"
        elif min(counts) < LEAST_OF_CLASS:
            rarest = label.class_name(int(np.argmin(counts)))
            left_out[label.name] = f"{min(counts)} images of class {rarest}, {LEAST_OF_CLASS} are needed"
    known = [name for name in (labels or data.schema.names) if name not in left_out]
    if not known:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise UndefinedError("no label that a judge can learn", where=data.spec, why=why)
    return data.schema.select(known), left_out


def _read(data: DataSet, ids: Ids, schema: LabelSchema) -> _Examples:
    columns = [data.schema.index(name) for name in schema.names]
    pixels, labels = [], []
    for first in range(0, len(ids), READ_AT_ONCE):
        batch = data.batch(ids[first : first + READ_AT_ONCE])
        pixels.append(reduced(batch.images).mul(BYTE).round_().to(torch.uint8))
        labels.append(batch.labels[:, columns])
    return _Examples(torch.cat(pixels), torch.cat(labels))


def _class_weights(labels: Labels, schema: LabelSchema) -> list[Tensor]:
    """For each label the weight of each class: classes count alike, and an image weighs 1 on average."""
    weights = []
    for column, label in zip(labels.T, schema, strict=True):
        counts = torch.stack([(column == k).sum() for k in range(label.cardinality)]).double()
        weights.append((counts.sum() / (label.cardinality * counts.clamp_min(1))).clamp_max(MOST_WEIGHT).float())
    return weights


def _losses(logits: Tensor, labels: Labels, schema: LabelSchema, weights: Sequence[Tensor]) -> Tensor:
    """The mean weighted cross entropy of each label over the rows where it is known, shape (L,)."""
    parts = torch.split(logits, [label.cardinality for label in schema], dim=1)
    losses = []
    for part, column, weight in zip(parts, labels.T, weights, strict=True):
        known = ~column.isnan()
        target = column.nan_to_num().long()
        each = functional.cross_entropy(part, target, reduction="none") * weight[target]
        losses.append(torch.where(known, each, 0.0).sum() / known.sum().clamp_min(1))
    return torch.stack(losses)


def _fit(
    network: JudgeNetwork,
    examples: _Examples,
    schema: LabelSchema,
    steps: int,
    generator: torch.Generator,
    progress: Progress | None,
) -> None:
    weights = _class_weights(examples.labels, schema)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    order = torch.empty(0, dtype=torch.long)
    network.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * _share_of_rate(step / steps)
        while len(order) < BATCH:
            order = torch.cat([order, torch.randperm(len(examples), generator=generator)])
        rows, order = order[:BATCH], order[BATCH:]
        logits = network(degraded(examples.images(rows), generator))
        loss = _losses(logits, examples.labels[rows], schema, weights).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if progress is not None:
            progress(step + 1, steps)


def _share_of_rate(done: float) -> float:
    """The learning rate's course: up in a line, down in half a cosine."""
    if done < WARM_UP:
        return (done + 1e-3) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


@torch.no_grad()
def _round(network: JudgeNetwork) -> None:
    """Rounds the weights to float16, so that a judge just trained is the judge that will be opened again."""
    for weight in network.state_dict().values():
        if weight.ndim:
            weight.copy_(weight.half().float())


def _temperatures(network: JudgeNetwork, images: Images, labels: Labels, schema: LabelSchema) -> tuple[float, ...]:
    """For each label the temperature of least loss (Guo et al. 2017), classes counting alike.

    The targets are :func:`_platt_targets`, so that a judge without a mistake is as sure as so many images without a
    mistake allow, and no surer.
    """
    logits = in_chunks(network, images).double()
    weights = [weight.double() for weight in _class_weights(labels, schema)]
    parts = torch.split(logits, [label.cardinality for label in schema], dim=1)

    def best(part: Tensor, column: Tensor, weight: Tensor) -> float:
        known = ~column.isnan()
        part, target = part[known], column[known].long()
        targets = _platt_targets(target, part.shape[1])
        importance = weight[target] / weight[target].sum()

        def loss(log_temperature: float) -> float:
            told = torch.log_softmax(part / math.exp(log_temperature), 1)
            return -float((importance[:, None] * targets * told).sum())

        return math.exp(minimize_scalar(loss, bounds=(-5.0, 5.0), method="bounded").x)

    return tuple(best(*each) for each in zip(parts, labels.T, weights, strict=True))


def _platt_targets(target: Tensor, classes: int) -> Tensor:
    """A class seen n times is believed to (n + 1)/(n + 2), the others share the rest (Platt 1999); shape (N, K).

    >>> _platt_targets(torch.tensor([0, 0, 1]), 2)[1:]
    tensor([[0.7500, 0.2500],
            [0.3333, 0.6667]], dtype=torch.float64)
    """
    doubt = 1 / (torch.bincount(target, minlength=classes).double() + 2)
    rest = (doubt / (classes - 1))[target][:, None].expand(-1, classes)
    return rest.scatter(1, target[:, None], 1 - doubt[target][:, None])


def _accuracies(
    network: JudgeNetwork, images: Images, labels: Labels, schema: LabelSchema
) -> tuple[dict[str, float], dict[str, float]]:
    """For each label the accuracy and the balanced accuracy."""
    logits = in_chunks(network, images)
    told = dict(zip(schema.names, torch.split(logits, [label.cardinality for label in schema], dim=1), strict=True))
    plain = {}
    for name, part in told.items():
        column = labels[:, schema.index(name)]
        known = ~column.isnan()
        plain[name] = float((part.argmax(1) == column)[known].double().mean())
    return plain, balanced_accuracies(told, labels, schema)
