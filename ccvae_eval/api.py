"""Evaluation of a checkpoint, or of a model in memory, on labelled images; shared by the command line and Python."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import cache, wraps
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.checkpoint import Opened, open_checkpoint
from ccvae_eval.core import TOOL
from ccvae_eval.core.devices import device_named, environment, require_precision
from ccvae_eval.core.errors import UsageError, suggestion
from ccvae_eval.core.typed import plain as as_plain
from ccvae_eval.core.types import Ids, Plain
from ccvae_eval.data.interface import BringsData, DataSet, HasRegions, Split
from ccvae_eval.data.labels.relabel import absent_labels, label_columns, remarks
from ccvae_eval.data.memory import Arrays, as_data_set
from ccvae_eval.data.spec import data_for, open_data, sample_size
from ccvae_eval.data.splits import sample_ids
from ccvae_eval.evaluation.metric import Metric, default_metrics, metrics_with
from ccvae_eval.evaluation.metric import metric_named as metric_named
from ccvae_eval.evaluation.pictures import gallery as gallery_of
from ccvae_eval.evaluation.pictures import leaking_pairs, require_pairs
from ccvae_eval.evaluation.plan import Plan
from ccvae_eval.evaluation.remedies import Advisor
from ccvae_eval.evaluation.run import WHOLE_DATA, Header, Run
from ccvae_eval.evaluation.runner import Ended, Progress, Working, run
from ccvae_eval.evaluation.subject import Subject, assignment_half, prepare
from ccvae_eval.judge import judge_source
from ccvae_eval.model.checks import require_model, require_shape
from ccvae_eval.model.interface import LabelledVAE, supports, type_name
from ccvae_eval.oracle.references import oracle_reference, with_references
from ccvae_eval.plugins import registry
from ccvae_eval.training.settings import TrainingSettings

DEFAULT_METRICS = default_metrics()
"""The metrics that are evaluated by default."""

RECORDED_OPTIONS = {
    "rate": "--supervision",
    "label_noise": "--label-noise",
    "batch": "--batch-size",
    "learning_rate": "--learning-rate",
    "seed": "--seed",
}
"""Options of ``train`` for what the record of a training contains."""

P = ParamSpec("P")
Result = TypeVar("Result")
Notice = Callable[[str], None]
Stage = Callable[[str, int, int], None]
Runner = Callable[[Plan, Progress | None, Working | None, Ended | None], Run]


def _known_arguments(function: Callable[P, Result]) -> Callable[P, Result]:
    """The function, which refuses an unknown keyword argument with the closest known name."""
    known = signature(function).parameters

    @wraps(function)
    def checked(*args: P.args, **given: P.kwargs) -> Result:
        for name in given:
            if name not in known:
                raise UsageError(f"{function.__name__} has no argument {name!r}", hint=suggestion(name, known))
        return function(*args, **given)

    return checked


@_known_arguments
def load(
    path: str | Path,
    *,
    model: str | None = None,
    settings: Mapping[str, Plain] | None = None,
    plugins: Iterable[str | Path] = (),
) -> Opened:
    """Opens a checkpoint without executing code from it.

    Args:
        path: the file, or a folder of files that together are one model.
        model: the registered model or adapter to build, if the checkpoint does not name one.
        settings: settings of the model, or constructor arguments of your own class; they override those recorded in
            the checkpoint.
        plugins: Python files to register first. These files are executed.

    Returns:
        The model with its weights, in evaluation mode, and the checkpoint's metadata.
    """
    for file in plugins:
        registry.add_plugin_file(Path(file))
    return open_checkpoint(Path(path), model=model, settings=settings)


@_known_arguments
def plan(
    model: str | Path | Opened | LabelledVAE,
    data: Any = None,
    metrics: Sequence[str | Metric] = DEFAULT_METRICS,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    split: Split | None = None,
    sample: int | str | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "float32",
    batch_size: int = 256,
    characteristics: Sequence[str] | None = None,
    by: str | None = None,
    judge: str = "auto",
    cache_dir: str | Path | None = None,
    metric_timeout: float | None = None,
    early: Callable[[Run], None] | None = None,
    command: str = "",
    notice: Notice | None = None,
    stage: Stage | None = None,
    train: bool = True,
    ids: Ids | None = None,
    level: float = 0.95,
) -> Plan:
    """Opens model, data and judge, encodes the images, and asks the metrics for their needs.

    For the arguments see :func:`evaluate`, which plans and runs; ``command`` is recorded in the run. ``train=False``
    trains no judge: such a plan shows what would be done, and is not to be run. ``ids`` are evaluated in place of the
    sample, by every metric. ``level`` is the confidence level of the intervals.
    """
    sample_size(sample)  # wrong values are refused before anything is opened
    require_precision(precision)
    opened = load(model) if isinstance(model, str | Path) else model
    chosen = metrics_with(options or {}, metrics)
    network: Any = opened.model if isinstance(opened, Opened) else opened
    images = data_of(data, opened)
    part = _evaluated_split(split, limit)
    size_name = "sample" if limit is None else "limit"
    own_samples = ids is None and _no_size_given(sample, limit)
    drawn = ids is None and limit is None
    if ids is None:
        ids = _evaluated_ids(images, chosen, split, sample, limit, seed)
    place = device_named(device)
    source = judge_source(
        images, choice=judge, schema=network.labels if len(network.labels) else None,
        labels=None if len(network.labels) else characteristics, cache_dir=cache_dir, notice=notice,
        progress=_staged(stage, "judge"),
    )  # fmt: skip
    if (absent := absent_labels(images, network.labels)) and notice is not None:
        notice(f"These labels are missing in the data, so nothing is said about them: {', '.join(absent)}.")
    subject = prepare(
        _in_precision(network, precision, place), images, ids, seed=seed, device=place, batch_size=batch_size,
        judge=source,
        characteristics=None if characteristics is None else tuple(characteristics),
        trained_on=_trained_on(opened, images, part), by=by, progress=_staged(stage, "encode"),
    )  # fmt: skip
    names = characteristics or network.labels.names or None
    suspicions = (*remarks(images, names), *subject.first_batch_warnings())
    if isinstance(images, Arrays) and images.split_by_position and split is None and limit is None:
        tested = len(images.split("test"))
        suspicions += (
            f"Only images of the split test are evaluated, which has {tested:,} of the {len(images):,}; "
            f"--limit {len(images)} evaluates all.",
        )
    if notice is not None:
        if drawn and (wanted := sample_size(sample)) is not None and wanted > len(ids):
            notice(f"Split {part} has only {len(ids):,} images, fewer than --sample {wanted}.")
        for text in suspicions:
            notice(text)

    @cache  # to draw a sample takes long, and the same sizes are tried for many undefined values
    def labels_of(size: int | None, halved: bool) -> NDArray[np.float32]:
        found = sample_ids(images, part, seed=seed, **{size_name: size})
        return label_columns(images, subject.schema, found[~assignment_half(found)] if halved else found)

    advisor = Advisor(labels_of, f"--{size_name}", _retraining(opened, images))
    planned = Plan.of(
        subject, chosen, own_samples=own_samples, advisor=advisor, notice=notice, train=train, limit=metric_timeout,
        early=early,
    )  # fmt: skip
    header = _header(planned.subject, opened, part or WHOLE_DATA, sample, command)
    if precision != "float32":
        header = replace(header, environment={**header.environment, "precision": precision})
    return replace(planned, level=level, header=replace(header, warnings=(*header.warnings, *suspicions)))


def _in_precision(network: Any, precision: str, place: torch.device) -> Any:
    """The model itself, or for another precision than float32 a model on the device that computes in it."""
    if precision == "float32":
        return network
    from ccvae_eval.model.wrap import HalfPrecisionModel

    return HalfPrecisionModel(network.to(place) if isinstance(network, torch.nn.Module) else network)


def _evaluated_split(split: Split | None, limit: int | None) -> Split | None:
    """The split to evaluate, "test" by default; None = the whole data set, whose first ``limit`` images are used."""
    return "test" if split is None and limit is None else split


def _no_size_given(sample: int | str | None, limit: int | None) -> bool:
    """True if neither option gives a number of images: each metric then uses its default."""
    return sample is None and limit is None


def _evaluated_ids(
    images: DataSet, metrics: Sequence[Metric], split: Split | None, sample: int | str | None, limit: int | None,
    seed: int,
) -> Ids:  # fmt: skip
    """The images to evaluate; without a given number, the largest default of the metrics."""
    count = sample_size(sample)
    if _no_size_given(sample, limit):
        count = max(metric.default_sample for metric in metrics)
    return sample_ids(images, _evaluated_split(split, limit), sample=count, seed=seed, limit=limit)


def _trained_on(opened: Opened | LabelledVAE, data: DataSet, split: str | None) -> Ids | None:
    """The training images, if the checkpoint was trained on these data and none of them is evaluated; else None."""
    record = opened.record if isinstance(opened, Opened) else None
    known = record is not None and record.data_digest is not None and record.data_digest == data.digest
    return data.split("train") if known and split in ("judge", "test") else None


def _retraining(opened: Opened | LabelledVAE, data: DataSet) -> str:
    """The command that trains a checkpoint of this toolkit in the same way for ten times as many steps; else ""."""
    record = opened.record if isinstance(opened, Opened) else None
    steps = record.training.get("steps") if record is not None else None
    if not isinstance(opened, Opened) or record is None or not isinstance(steps, int):
        return ""
    network: Any = opened.model
    path, kind = Path(str(opened.bundle.path)), type(network)
    defaults = {f.name: f.default for f in fields(kind.Settings)} if hasattr(kind, "Settings") else {}
    changed = [f"{k}={json.dumps(v)}" for k, v in record.settings.items() if k in defaults and defaults[k] != v]
    labels = ",".join(network.labels.names)
    out = path.with_name(f"{path.stem}-{10 * steps}-steps.pt")
    parts = ["ccvae-eval", "train", opened.name, "--data", data.spec, *(["--labels", labels] if labels else [])]
    parts += [part for text in changed for part in ("--set", text)]
    usual = {f.name: f.default for f in fields(TrainingSettings)}
    for key, option in RECORDED_OPTIONS.items():
        if record.training.get(key, usual[key]) != usual[key]:
            parts += [option, str(record.training[key])]
    return shlex.join([*parts, "--steps", str(10 * steps), "--out", str(out)])


def _staged(stage: Stage | None, name: str) -> Callable[[int, int], None] | None:
    return None if stage is None else lambda done, total: stage(name, done, total)


@_known_arguments
def evaluate(
    model: str | Path | Opened | LabelledVAE,
    data: Any = None,
    metrics: Sequence[str | Metric] = DEFAULT_METRICS,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    split: Split | None = None,
    sample: int | str | None = None,
    limit: int | None = None,
    width: float | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "float32",
    batch_size: int = 256,
    characteristics: Sequence[str] | None = None,
    by: str | None = None,
    judge: str = "auto",
    references: bool = True,
    gallery: bool = True,
    pairs: Sequence[tuple[str, str]] | None = None,
    cache_dir: str | Path | None = None,
    metric_timeout: float | None = None,
    command: str = "",
    notice: Notice | None = None,
    stage: Stage | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    early: Callable[[Run], None] | None = None,
    working: Working | None = None,
    ended: Ended | None = None,
    progress: bool | None = None,
    runner: Runner = run,
) -> Run:
    """Evaluates a model on labelled images.

    Args:
        model: path of a checkpoint, the result of :func:`load`, or a model (see :func:`wrap`).
        data: a spec such as ``"folder:PATH"``, a ``DataSet``, a torch ``Dataset`` of (image, label), or a tuple
            (images, labels, label names). Default: ``CCVAE_EVAL_DATA``, else the checkpoint's training data if they
            need no path.
        metrics: names of metrics, or metrics with their own settings.
        options: settings of the metrics given by name, {metric: {setting: value}}.
        split: "train", "judge" or "test" (default).
        sample: number of images, or "all"; default: set by each metric.
        limit: use the first N images of the split, or of the whole data set if no split is named.
        width: look at more and more of these images, until the confidence interval of every headline value is at most
            so wide; see ``evaluation.stopping``. The intervals then hold for all looks together.
        seed: random seed.
        device: "auto", "cpu", "cuda", ...
        precision: "float32", or "bf16" for an encoder and decoder in bfloat16, see
            :class:`~ccvae_eval.model.wrap.HalfPrecisionModel`; the run records it.
        batch_size: images read at once; results do not depend on it.
        characteristics: evaluate only these.
        by: name of a label of the data: values that are means over images are shown for each of its classes as well,
            with the worst class and the gap between classes, at ``/by=LABEL:CLASS``.
        judge: "auto", "none" or a file; "full" is a judge of every label of the data, for comparisons of models with
            different labels.
        references: add the values of the reference model, if the data are rendered.
        gallery: decode single images for the report: with each label set to other classes, and pairs of labels moved.
        pairs: the pairs of binary labels to move at once in the gallery; default: the two with the strongest leak.
        cache_dir: folder for cached judges and references.
        metric_timeout: the most seconds that each metric may take, without encoding and shared decoding; a metric that
            takes longer fails alone. None = no limit. It works in the main thread.
        command: the command line to record in the run; default: the program's.
        notice: called with messages for the user.
        stage: called with (stage, done, total) as progress; the stages are "encode", "judge", "measure", "reference".
        on_plan: called with the plan before it is run.
        early: called with the run of the built-in metrics before third-party metrics begin, which then decode in a pass
            of their own.
        working: called with the name of the metric at work.
        ended: called with each measurement as it ends, without remedies and references; those of metrics that decode no
            image come first.
        progress: show a progress bar; default: if ``stage`` is None and stderr is a terminal, or in a notebook.
        runner: runs the plan; default: in one pass over the images. ``evaluation.shares.merged`` joins shares of a run.

    Returns:
        The run. The model's mode and gradients and the global random state are left unchanged.
    """
    display = None if stage is not None or progress is False else _display(required=progress is True)
    if display is not None:
        stage, working = display.stage, display.working
    try:
        arguments: dict[str, Any] = {
            "split": split, "sample": sample, "limit": limit, "seed": seed, "device": device, "precision": precision,
            "batch_size": batch_size,
            "characteristics": characteristics, "by": by, "judge": judge, "cache_dir": cache_dir, "command": command,
            "metric_timeout": metric_timeout, "early": early, "notice": notice, "stage": stage,
        }  # fmt: skip

        def measured(**look: Any) -> tuple[Plan, Run]:
            planned = plan(model, data, metrics, options=options, **arguments, **look)
            if on_plan is not None:
                on_plan(planned)
            require_pairs(planned.subject, pairs or ())
            return planned, runner(planned, _staged(stage, "measure"), working, ended)

        if width is None:
            planned, found = measured()
        else:
            model = load(model) if isinstance(model, str | Path) else model
            data = data_of(data, model)
            whole = _evaluated_ids(data, metrics_with(options or {}, metrics), split, sample, limit, seed)
            planned, found = _narrow(whole, width, seed, measured)
        chosen = None if pairs is None else require_pairs(planned.subject, pairs)
        if gallery:
            own = {} if chosen is None else {"most_pairs": len(chosen)}
            of_pairs = leaking_pairs(found) if chosen is None else chosen
            found = replace(found, gallery=gallery_of(planned.subject, found.ids.values(), of_pairs, **own))
            shown = [tuple(map(str, pair)) for pair in found.gallery.get("pads", ())]
            for pair in [pair for pair in chosen or () if pair not in shown]:
                if notice is not None:
                    notice(f"The report does not move {pair[0]} and {pair[1]} at once: this sample gives no paths.")
        if not references:
            return found
        step, of = _staged(stage, "reference"), (planned.subject, planned.metrics)
        return with_references(found, oracle_reference(found, *of, cache_dir=cache_dir, notice=notice, progress=step))
    finally:
        if display is not None:
            display.close()


def _narrow(ids: Ids, width: float, seed: int, measured: Callable[..., tuple[Plan, Run]]) -> tuple[Plan, Run]:
    """Plan and run of the first look whose intervals are narrow enough, else of the whole sample."""
    from ccvae_eval.evaluation.stopping import Looks, widest_interval

    looks, taken = Looks(ids, width, seed), [0]
    while True:
        # nothing that was decoded before is used again, because edits depend on the codes of all images of a look
        planned, found = measured(ids=looks.images(taken[-1]), level=looks.level)
        widest = widest_interval(found)
        following = looks.following(taken[-1], widest)
        if following is None:
            stated = {**found.header.data, "stopping": as_plain(looks.record(taken, widest))}
            return planned, replace(found, header=replace(found.header, data=stated))
        taken.append(following)


def _display(*, required: bool) -> Any:
    """A progress bar on stderr, if it is a terminal or a notebook, or if one is required; else None."""
    found = import_module("ccvae_eval.rendering.progress").ProgressDisplay()
    return found if required or found.live else None


def data_of(data: Any, opened: Opened | LabelledVAE) -> DataSet:
    """The data set of an evaluation: the given one, the one that comes with the model, or the checkpoint's own."""
    network: Any = opened.model if isinstance(opened, Opened) else opened
    require_model(network, opened.name if isinstance(opened, Opened) else type_name(network))
    images = network.own_data if data is None and supports(network, BringsData) else _chosen_data(data, opened)
    require_shape(network, images.input_shape, images.spec)
    return images


def _chosen_data(data: Any, opened: Opened | LabelledVAE) -> DataSet:
    if data is None or isinstance(data, str):
        record = opened.record if isinstance(opened, Opened) else None
        return open_data(data_for(data, record.data_spec if record else None))
    return data if supports(data, DataSet) else as_data_set(data)


def _header(
    subject: Subject, opened: Opened | LabelledVAE, split: str, sample: int | str | None, command: str
) -> Header:
    data, warnings, name = subject.data, [], type_name(subject.model)
    checkpoint: dict[str, Plain] = {"path": None, "sha256": None, "format": None, "settings": {}, "model": name}
    training: dict[str, Plain] | None = None
    seen: bool | None = None
    if isinstance(opened, Opened):
        bundle, record = opened.bundle, opened.record
        checkpoint = {"path": str(bundle.path), "sha256": bundle.sha256, "format": bundle.format, "model": opened.name}
        checkpoint["settings"] = dict(record.settings) if record else {}
        training = dict(record.training) if record else None
        warnings += list(opened.notes)
        if record is not None and record.data_digest is not None:
            seen = record.data_digest == data.digest and split in ("train", WHOLE_DATA)
    if seen:
        some = "Some" if split == WHOLE_DATA else "All"
        warnings.append(f"{some} of these images were used in training: the values are optimistic.")
    if subject.assigned:
        warnings.append(
            "This model has no characteristics: latent dimensions were assigned to labels on one half of the images; "
            "the values are from the other half."
        )
        if subject.unassigned:
            warnings.append(f"No latent dimension predicts better than chance: {', '.join(subject.unassigned)}.")
    return Header(
        tool=TOOL,
        environment={**environment(subject.device), "fixed_batch": subject.fixed_batch},
        checkpoint=checkpoint,
        training=training,
        data={
            "name": data.spec,
            "digest": data.digest,
            "image": list(data.input_shape),
            "n": len(subject),
            "labels": subject.schema.as_plain(),
            "split": split,
            "sample": sample,
            "seen_in_training": seen,
            **({} if subject.by is None else {"by": subject.by}),
        },
        judge=None if subject.judge is None else subject.judge.as_plain(),
        regions={"source": data.region_source if supports(data, HasRegions) else None},
        seed=subject.seed,
        command=command or " ".join(sys.argv[:1]),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        warnings=tuple(warnings),
    )
