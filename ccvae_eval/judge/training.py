"""Training and calibration of a judge, and its balanced accuracy.

A judge is trained on degraded copies of the images in the ``judge`` split, because it has to classify the blurry images
of a VAE. Held-out images calibrate its probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import rankdata
from torch import Generator, Tensor
from torch.nn import functional

from ccvae_eval.checkpoint.metadata import without_path
from ccvae_eval.core.errors import UndefinedError, UnsupportedError
from ccvae_eval.core.random_streams import stream_key, torch_stream
from ccvae_eval.core.types import Ids, Images, Labels
from ccvae_eval.data.interface import DataSet, Renders
from ccvae_eval.judge.artifact import (
    FIXED,
    SETTLED,
    Judge,
    JudgeNetwork,
    JudgeRecord,
    Moments,
    downsampled,
    initialise,
    output_sizes,
    outputs_of,
)
from ccvae_eval.model.interface import LabelSchema, supports

Progress = Callable[[int, int], None]
Estimate = Callable[[Sequence[str], float], None]

STEPS = 800
TIMED_STEPS = 5
"""Steps after which the duration of the training is estimated."""
CHECK_STEPS = 50
"""Steps between two checks of a training that ends when the accuracy is settled."""
LEAST_GAIN, PATIENCE = 0.01, 2
"""The accuracy is settled when this many checks in a row have not raised its maximum by at least the gain."""
USUAL_STEPS = 250
"""Steps of most trainings of this kind, for the estimate of the duration."""
WARM_UP_STEPS = 20
SMALL_BATCH = 64
"""Images of a step whose weights are averaged, which makes up for a noisier gradient."""
AVERAGING = 0.97
"""Share of the former average in the moving average of the weights."""
BATCH = 128
LEARNING_RATE = 4e-3
WARM_UP = 0.1
WEIGHT_DECAY = 1e-2
MAX_IMAGES = 24_000
HELD_OUT = 5
"""One image in this many is held out."""
MIN_IMAGES_PER_CLASS = 10
"""Images of each class that a label needs in the ``judge`` split, held-out images included."""
MAX_WEIGHT = 10.0
READ_BATCH = 1024
BYTE = 255

REFERENCE_EDGE = 64
BLUR = (0.4, 2.0)
"""Range of the blur's standard deviation, in pixels of an image with an edge of 64."""
SHRINKAGE = (1.5, 4.0)
GAIN, OFFSET, NOISE = 0.12, 0.06, 0.03

MIN_AGREEMENT = 0.8


@dataclass(frozen=True, slots=True)
class _Examples:
    """Downsampled images as bytes, and their labels in the judge's schema."""

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
    recipe: str = FIXED,
    start: Judge | None = None,
    progress: Progress | None = None,
    estimate: Estimate | None = None,
) -> Judge:
    """Train a judge on the ``judge`` split of a data set; the same arguments give the same judge in every bit.

    The judge classifies binary and categorical labels, and predicts the values of continuous labels by the squared
    error of their standardised values. Labels with fewer than ten images of a class (continuous: with fewer than ten
    known values, or a single one) are left out, with the reason in the record. The cross entropy weights the classes of
    a label equally, with weights of at most ten. After training, the weights are rounded to float16, as in the file,
    and the temperature of each label is fitted on held-out images, original and degraded.

    The recipe "fixed" makes all steps, of 128 images each, and the learning rate decays. The recipe "settled" makes
    steps of 64 images with a constant learning rate, and keeps a moving average of the weights. Every 50 steps it
    measures the balanced accuracy of the averaged network on the held-out images, sharp and blurred, as the mean over
    the labels. It ends when two such checks in a row have not raised the maximum by at least 0.01.

    Args:
        data: the data set; at most 24,000 images are used.
        seed: seed of weights, batches and degradations.
        steps: greatest number of training steps.
        labels: the labels to classify; None = all.
        recipe: "fixed" or "settled".
        start: a judge of the same data with other labels or in another size, whose convolutions the training starts
            from; None = random weights.
        progress: called with (steps done, steps).
        estimate: called once, after five steps, with the labels and the expected number of seconds of the training.

    Raises:
        UnsupportedError: the data are points.
        UndefinedError: the judge split is too small, or no label can be learned from it.
    """
    if len(data.input_shape) != 3:
        raise UnsupportedError("a judge needs images, these data are points", where=data.spec)
    fitted, held_out = _split(data, seed)
    schema, left_out = _learnable(data, labels, np.concatenate([fitted, held_out]))
    examples, validation = _read(data, fitted, schema), _read(data, held_out, schema)
    moments = _moments(examples.labels, schema)
    for part in (examples, validation):
        for name, (mean, deviation) in moments.items():
            column = part.labels[:, schema.index(name)]
            column.copy_((column.double() - mean) / deviation)
    network = JudgeNetwork(data.input_shape, output_sizes(schema))
    initialise(network, torch_stream(seed, "judge/weights"))
    if start is not None:
        network.trunk.load_state_dict(start.network.trunk.state_dict())
    images = validation.images(slice(None))
    training = _steps(network, examples, schema, steps, torch_stream(seed, "judge/batches"), recipe)
    training = _reported(
        training, schema, steps, min(steps, USUAL_STEPS) if recipe == SETTLED else steps, progress, estimate
    )
    if recipe == SETTLED:
        network, steps = _settled(network, training, images, validation.labels, schema)
        if progress is not None:
            progress(steps, steps)
    else:
        for _ in training:
            pass
    _round(network)
    network.eval().requires_grad_(False)
    worse = degraded(images, torch_stream(seed, "judge/held out"))
    temperatures = _temperatures(network, torch.cat([images, worse]), validation.labels.repeat(2, 1), schema)
    accuracy, balanced = _accuracies(network, images, validation.labels, schema)
    _, blurred_accuracy = _accuracies(network, reference_blur(images), validation.labels, schema)
    renderer = data.renderer if supports(data, Renders) else ""
    record = JudgeRecord(
        without_path(data.spec), data.digest, renderer, seed, steps, len(fitted),
        accuracy, balanced, blurred_accuracy, left_out, recipe=recipe,
        started_from="" if start is None else start.sha256,
    )  # fmt: skip
    return Judge(network, schema, tuple(data.input_shape), temperatures, record, moments)


def _split(data: DataSet, seed: int) -> tuple[Ids, Ids]:
    """The ids to train on and those held out; whether an image is held out does not depend on the seed."""
    ids = data.split("judge")
    if len(ids) > MAX_IMAGES:
        order = np.argsort([stream_key(seed, "judge/sample", int(i)) for i in ids], kind="stable")
        ids = np.sort(ids[order[:MAX_IMAGES]])
    held = np.array([stream_key(0, "judge/held out", int(i)) % HELD_OUT == 0 for i in ids], np.bool_)
    if not held.any() or held.all():
        raise UndefinedError("the judge split has too few images", where=data.spec)
    return ids[~held], ids[held]


def _learnable(data: DataSet, labels: Sequence[str] | None, ids: Ids) -> tuple[LabelSchema, dict[str, str]]:
    """The labels that a judge can learn, and for each other label the reason why it is left out."""
    left_out = {}
    for label in data.schema.select(tuple(labels)) if labels is not None else data.schema:
        column = data.labels_of(ids)[:, data.schema.index(label.name)]
        counts = [int((column == k).sum()) for k in range(label.cardinality)] or [int((~np.isnan(column)).sum())]
        if min(counts) < MIN_IMAGES_PER_CLASS:
            rarest = f"of class {label.class_name(int(np.argmin(counts)))}" if label.cardinality else "have this label"
            left_out[label.name] = f"{min(counts)} images {rarest}, {MIN_IMAGES_PER_CLASS} are needed"
        elif label.kind == "continuous" and np.nanmin(column) == np.nanmax(column):
            left_out[label.name] = "the label has the same value in every image"
    known = [name for name in (labels or data.schema.names) if name not in left_out]
    if not known:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise UndefinedError("a judge can learn no label of the data", where=data.spec, why=why)
    return data.schema.select(known), left_out


def _read(data: DataSet, ids: Ids, schema: LabelSchema) -> _Examples:
    columns = [data.schema.index(name) for name in schema.names]
    pixels, labels = [], []
    for first in range(0, len(ids), READ_BATCH):
        batch = data.batch(ids[first : first + READ_BATCH])
        pixels.append(downsampled(batch.images).mul(BYTE).round_().to(torch.uint8))
        labels.append(batch.labels[:, columns])
    return _Examples(torch.cat(pixels), torch.cat(labels))


def _moments(labels: Labels, schema: LabelSchema) -> dict[str, Moments]:
    """Mean and standard deviation of each continuous label over its known values."""
    known = {
        label.name: column[~column.isnan()].double()
        for label, column in zip(schema, labels.T, strict=True)
        if label.kind == "continuous"
    }
    return {name: (float(values.mean()), float(values.std()) or 1.0) for name, values in known.items()}


def _class_weights(labels: Labels, schema: LabelSchema) -> list[Tensor]:
    """Class weights of each label: classes have equal total weight, and the mean weight of an image is 1.

    Empty for a continuous label.
    """
    weights = []
    for column, label in zip(labels.T, schema, strict=True):
        counts = torch.tensor([int((column == k).sum()) for k in range(label.cardinality)]).double()
        weights.append((counts.sum() / (label.cardinality * counts.clamp_min(1))).clamp_max(MAX_WEIGHT).float())
    return weights


def _losses(logits: Tensor, labels: Labels, schema: LabelSchema, weights: Sequence[Tensor]) -> Tensor:
    """Mean loss of each label over the rows in which it is known, shape (L,).

    The weighted cross entropy, or half the squared error of a continuous label.
    """
    parts = torch.split(logits, output_sizes(schema), dim=1)
    losses = []
    for part, column, weight in zip(parts, labels.T, weights, strict=True):
        known = ~column.isnan()
        if len(weight):
            target = column.nan_to_num().long()
            each = functional.cross_entropy(part, target, reduction="none") * weight[target]
        else:
            each = (part[:, 0] - column.nan_to_num()).square() / 2
        losses.append(torch.where(known, each, 0.0).sum() / known.sum().clamp_min(1))
    return torch.stack(losses)


def _steps(
    network: JudgeNetwork, examples: _Examples, schema: LabelSchema, steps: int, generator: Generator, recipe: str
) -> Iterator[int]:
    """Trains a network; yields the number of steps after each step."""
    weights = _class_weights(examples.labels, schema)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    order, batch = torch.empty(0, dtype=torch.long), BATCH if recipe == FIXED else SMALL_BATCH
    network.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            share = _schedule(step / steps) if recipe == FIXED else min((step + 1) / WARM_UP_STEPS, 1)
            group["lr"] = LEARNING_RATE * share
        while len(order) < batch:
            order = torch.cat([order, torch.randperm(len(examples), generator=generator)])
        rows, order = order[:batch], order[batch:]
        logits = network(degraded(examples.images(rows), generator))
        loss = _losses(logits, examples.labels[rows], schema, weights).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        yield step + 1


def _reported(
    training: Iterator[int], schema: LabelSchema, steps: int, usual: int, progress: Progress | None,
    estimate: Estimate | None,
) -> Iterator[int]:  # fmt: skip
    """The same steps, with reports of the progress and of the estimated duration."""
    second = 0.0
    for done in training:
        if done == 1:
            second = perf_counter()  # the first step is slower
        elif done == TIMED_STEPS and estimate is not None:
            estimate(schema.names, (perf_counter() - second) / (done - 1) * usual)
        if progress is not None:
            progress(done, steps)
        yield done


def _settled(
    network: JudgeNetwork, training: Iterator[int], images: Images, labels: Labels, schema: LabelSchema
) -> tuple[JudgeNetwork, int]:
    """Trains until the accuracy on held-out images is settled; the averaged network and the number of steps."""
    averaged = deepcopy(network).eval().requires_grad_(False)
    blurry = reference_blur(images)
    best, checks, done = 0.0, 0, 0
    for done in training:
        share = min(AVERAGING, done / (done + 9))  # the first steps leave the average soon
        for mean, weight in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
            if mean.ndim:
                mean.lerp_(weight, 1 - share)
        if done % CHECK_STEPS:
            continue
        accuracies = [_accuracies(averaged, x, labels, schema)[1].values() for x in (images, blurry)]
        accuracy = float(np.nanmean([list(each) for each in accuracies]))
        checks = 0 if accuracy >= best + LEAST_GAIN else checks + 1
        best = max(best, accuracy)
        if checks == PATIENCE:
            break
    return averaged, done


def _schedule(done: float) -> float:
    """Factor of the learning rate: linear warm-up, then cosine decay."""
    if done < WARM_UP:
        return (done + 1e-3) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


@torch.no_grad()
def _round(network: JudgeNetwork) -> None:
    """Round the weights to float16, so that a trained judge equals its saved copy."""
    for weight in network.state_dict().values():
        if weight.ndim:
            weight.copy_(weight.half().float())


def _temperatures(network: JudgeNetwork, images: Images, labels: Labels, schema: LabelSchema) -> tuple[float, ...]:
    """Temperature of minimal loss for each label (Guo et al. 2017), with equally weighted classes; 1 without classes.

    The soft targets of :func:`_platt_targets` keep the confidence of an error-free judge finite.
    """
    logits = outputs_of(network, images).double()
    weights = [weight.double() for weight in _class_weights(labels, schema)]
    parts = torch.split(logits, output_sizes(schema), dim=1)

    def best(part: Tensor, column: Tensor, weight: Tensor) -> float:
        if not len(weight):
            return 1.0
        known = ~column.isnan()
        part, target = part[known], column[known].long()
        targets = _platt_targets(target, part.shape[1])
        importance = weight[target] / weight[target].sum()

        def loss(log_temperature: float) -> float:
            log_probs = torch.log_softmax(part / math.exp(log_temperature), 1)
            return -float((importance[:, None] * targets * log_probs).sum())

        return math.exp(minimize_scalar(loss, bounds=(-5.0, 5.0), method="bounded").x)

    return tuple(best(*each) for each in zip(parts, labels.T, weights, strict=True))


def _platt_targets(target: Tensor, classes: int) -> Tensor:
    """Soft targets (Platt 1999), shape (N, K): (n + 1)/(n + 2) for a class of n images, the rest for the others.

    >>> _platt_targets(torch.tensor([0, 0, 1]), 2)[1:]
    tensor([[0.7500, 0.2500],
            [0.3333, 0.6667]], dtype=torch.float64)
    """
    uncertainty = 1 / (torch.bincount(target, minlength=classes).double() + 2)
    rest = (uncertainty / (classes - 1))[target][:, None].expand(-1, classes)
    return rest.scatter(1, target[:, None], 1 - uncertainty[target][:, None])


def _accuracies(
    network: JudgeNetwork, images: Images, labels: Labels, schema: LabelSchema
) -> tuple[dict[str, float], dict[str, float]]:
    """Accuracy and balanced accuracy of each label; R2 and rank correlation of a continuous label."""
    logits = outputs_of(network, images)
    parts = dict(zip(schema.names, torch.split(logits, output_sizes(schema), dim=1), strict=True))
    plain = {
        name: _accuracy(part[~column.isnan()], column[~column.isnan()])
        for (name, part), column in zip(parts.items(), labels.T, strict=True)
    }
    return plain, balanced_accuracies(parts, labels, schema)


def _accuracy(predicted: Tensor, true: Tensor) -> float:
    """Accuracy of one label from its logits, shape (N, K); R2 of predicted values, shape (N, 1)."""
    if predicted.shape[1] > 1:
        return float((predicted.argmax(1) == true).double().mean())
    error, spread = (true - predicted[:, 0]).double().square().sum(), (true - true.mean()).double().square().sum()
    return 1 - float(error / spread) if spread > 0 else math.nan


def blurred(images: Images, deviation: float) -> Images:
    """Gaussian blur with replicated edges.

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
    """The images, downscaled by a factor and upscaled again."""
    size = [max(2, round(edge / factor)) for edge in images.shape[-2:]]
    small = functional.interpolate(images, size, mode="bilinear", antialias=True)
    return functional.interpolate(small, images.shape[-2:], mode="bilinear")


def degraded(images: Images, generator: Generator) -> Images:
    """Degrade a batch: blur a third of the images, rescale a third, then vary the contrast and brightness of each image
    and add slight noise.

    The strengths of blur, rescaling and noise are the same for the whole batch.

    Args:
        images: shape :math:`(N, C, H, W)`; not modified.
        generator: the source of randomness.
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


def reference_blur(images: Images) -> Tensor:
    """The strong blur under which the record gives the accuracy: 1.5 pixels in 64."""
    return blurred(images, 1.5 * min(images.shape[-2:]) / REFERENCE_EDGE)


def balanced_accuracies(log_probs: Mapping[str, Tensor], labels: Labels, schema: LabelSchema) -> dict[str, float]:
    """Balanced accuracy of each label: the mean recall of its classes; the rank correlation of a continuous label.

    Args:
        log_probs: log-probabilities of the classes of each label, shape :math:`(N, K)`; predicted values of a
            continuous label, shape :math:`(N, 1)`.
        labels: the true labels, shape :math:`(N, L)` in the schema's order; missing ones are ignored.
        schema: the labels; those without log-probabilities are left out.

    Returns:
        Balanced accuracy in [0, 1], or rank correlation in [-1, 1], by label; NaN if fewer than two classes or values
        occur.

    >>> from ccvae_eval.model.interface import binary_schema
    >>> log_probs = {"Hat": torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]]).log()}
    >>> balanced_accuracies(log_probs, torch.tensor([[0.0], [0.0], [1.0], [1.0]]), binary_schema("Hat"))
    {'Hat': 0.75}
    """
    return {
        label.name: rank_correlation(log_probs[label.name][:, 0].cpu(), column)
        if label.kind == "continuous"
        else mean_recall(log_probs[label.name].argmax(1).cpu(), column)
        for label, column in zip(schema, labels.T.cpu(), strict=True)
        if label.name in log_probs
    }


def mean_recall(predicted: Tensor, true: Tensor) -> float:
    """Balanced accuracy of one label, shapes (N,), NaN = a missing label; NaN if fewer than two classes occur."""
    classes = sorted(set(true[~true.isnan()].tolist()))
    recalls = [float((predicted[true == k] == k).double().mean()) for k in classes]
    return sum(recalls) / len(recalls) if len(recalls) > 1 else math.nan


def rank_correlation(predicted: Tensor, true: Tensor) -> float:
    """Spearman's correlation of predicted and true values, shapes (N,), NaN = unknown; NaN if one is constant.

    For normal variables a rank correlation of .8 means that both lie on the same side of their medians in 80% of the
    images, so it is comparable with a balanced accuracy.

    >>> rank_correlation(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0.1, 0.2, 0.3]))
    1.0
    """
    known = ~(predicted.isnan() | true.isnan())
    ranks = np.stack([rankdata(values[known].numpy()) for values in (predicted, true)])
    if not known.any() or bool((ranks == ranks[:, :1]).all(1).any()):
        return math.nan
    return float(np.corrcoef(ranks)[0, 1])


def trusted_labels(agreement: Mapping[str, float], least: float = MIN_AGREEMENT) -> tuple[str, ...]:
    """The labels on which the judge is reliable, so that judged values may be reported.

    Args:
        agreement: the judge's balanced accuracy on the model's reconstructions for each label, see
            :func:`balanced_accuracies`. A label with NaN is not trusted.
        least: minimum balanced accuracy, inclusive.

    >>> trusted_labels({"Hat": 0.97, "Bangs": 0.71, "Tie": float("nan")})
    ('Hat',)
    """
    return tuple(name for name, share in agreement.items() if share >= least)
