"""Evaluation of a checkpoint, or of a model in memory, on labelled images; shared by the command line and Python."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ccvae_eval.checkpoint import Opened, open_checkpoint
from ccvae_eval.core import TOOL
from ccvae_eval.core.devices import device_named, environment
from ccvae_eval.core.types import Ids, Plain
from ccvae_eval.data.interface import BringsData, DataSet, HasRegions, Split
from ccvae_eval.data.memory import as_data_set
from ccvae_eval.data.spec import data_for, open_data
from ccvae_eval.data.splits import sample_ids
from ccvae_eval.evaluation.metric import Metric, default_metrics, metrics_with
from ccvae_eval.evaluation.metric import metric_named as metric_named
from ccvae_eval.evaluation.pictures import gallery as gallery_of
from ccvae_eval.evaluation.pictures import leaking_pairs
from ccvae_eval.evaluation.plan import Plan
from ccvae_eval.evaluation.run import Header, Run
from ccvae_eval.evaluation.runner import run
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.judge import judge_source
from ccvae_eval.model.checks import require_model, require_shape
from ccvae_eval.model.interface import LabelledVAE, supports, type_name
from ccvae_eval.oracle.references import oracle_reference, with_references
from ccvae_eval.plugins import registry

DEFAULT_METRICS = default_metrics()
"""The metrics that are evaluated by default."""

WHOLE_DATA = "all"
"""The recorded split of a run on the first N images of the whole data set."""

Notice = Callable[[str], None]
Stage = Callable[[str, int, int], None]


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
    batch_size: int = 256,
    characteristics: Sequence[str] | None = None,
    judge: str = "auto",
    cache_dir: str | Path | None = None,
    command: str = "",
    notice: Notice | None = None,
    stage: Stage | None = None,
) -> Plan:
    """Opens model, data and judge, encodes the images, and asks the metrics for their needs.

    For the arguments see :func:`evaluate`, which plans and runs; ``command`` is recorded in the run.
    """
    opened = load(model) if isinstance(model, str | Path) else model
    chosen = metrics_with(options or {}, metrics)
    network: Any = opened.model if isinstance(opened, Opened) else opened
    images = data_of(data, opened)
    wanted = sample if sample is not None or limit is not None else max(metric.default_sample for metric in chosen)
    part = split if split is not None or limit is not None else "test"
    ids = sample_ids(images, part, sample=None if wanted in (None, "all") else int(wanted), seed=seed, limit=limit)
    place = device_named(device)
    source = judge_source(
        images, choice=judge, schema=network.labels if len(network.labels) else None,
        labels=None if len(network.labels) else characteristics, cache_dir=cache_dir, notice=notice,
        progress=_staged(stage, "judge"),
    )  # fmt: skip
    subject = prepare(
        network, images, ids, seed=seed, device=place, batch_size=batch_size, judge=source,
        characteristics=None if characteristics is None else tuple(characteristics),
        trained_on=_trained_on(opened, images, part), progress=_staged(stage, "encode"),
    )  # fmt: skip
    suspicions = subject.first_batch_warnings()
    if notice is not None:
        for text in suspicions:
            notice(text)
    planned = Plan.of(subject, chosen, own_samples=sample is None and limit is None)
    header = _header(planned.subject, opened, part or WHOLE_DATA, sample, command)
    return replace(planned, header=replace(header, warnings=(*header.warnings, *suspicions)))


def _trained_on(opened: Opened | LabelledVAE, data: DataSet, split: str | None) -> Ids | None:
    """The training images, if the checkpoint was trained on these data and none of them is evaluated; else None."""
    record = opened.record if isinstance(opened, Opened) else None
    known = record is not None and record.data_digest is not None and record.data_digest == data.digest
    return data.split("train") if known and split in ("judge", "test") else None


def _staged(stage: Stage | None, name: str) -> Callable[[int, int], None] | None:
    return None if stage is None else lambda done, total: stage(name, done, total)


def evaluate(
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
    batch_size: int = 256,
    characteristics: Sequence[str] | None = None,
    judge: str = "auto",
    references: bool = True,
    gallery: bool = True,
    cache_dir: str | Path | None = None,
    command: str = "",
    notice: Notice | None = None,
    stage: Stage | None = None,
    on_plan: Callable[[Plan], None] | None = None,
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
        seed: random seed.
        device: "auto", "cpu", "cuda", ...
        batch_size: images read at once; results do not depend on it.
        characteristics: evaluate only these.
        judge: "auto", "none" or a file; "full" is a judge of every label of the data, for comparisons of models with
            different labels.
        references: add the values of the reference model, if the data are rendered.
        gallery: decode single images for the report: with each label set to other classes, and pairs of labels moved.
        cache_dir: folder for cached judges and references.
        command: the command line to record in the run; default: the program's.
        notice: called with messages for the user.
        stage: called with (stage, done, total) as progress; the stages are "encode", "judge", "measure", "reference".
        on_plan: called with the plan before it is run.

    Returns:
        The run. The model's mode and gradients and the global random state are left unchanged.
    """
    planned = plan(
        model, data, metrics, options=options, split=split, sample=sample, limit=limit, seed=seed, device=device,
        batch_size=batch_size, characteristics=characteristics, judge=judge, cache_dir=cache_dir, command=command,
        notice=notice, stage=stage,
    )  # fmt: skip
    if on_plan is not None:
        on_plan(planned)
    found = run(planned, _staged(stage, "measure"))
    if gallery:
        found = replace(found, gallery=gallery_of(planned.subject, found.ids.values(), leaking_pairs(found)))
    if not references:
        return found
    progress, of = _staged(stage, "reference"), (planned.subject, planned.metrics)
    return with_references(found, oracle_reference(found, *of, cache_dir=cache_dir, notice=notice, progress=progress))


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
        environment=environment(subject.device),
        checkpoint=checkpoint,
        training=training,
        data={
            "name": data.spec,
            "digest": data.digest,
            "n": len(subject),
            "labels": subject.schema.as_plain(),
            "split": split,
            "sample": sample,
            "seen_in_training": seen,
        },
        judge=None if subject.judge is None else subject.judge.as_plain(),
        regions={"source": data.region_source if supports(data, HasRegions) else None},
        seed=subject.seed,
        command=command or " ".join(sys.argv[:1]),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        warnings=tuple(warnings),
    )
