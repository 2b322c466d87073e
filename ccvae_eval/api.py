"""Evaluation of a checkpoint, or of a model in memory, on labelled images; shared by the command line and Python."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ccvae_eval.checkpoint import Opened, open_checkpoint
from ccvae_eval.core import TOOL
from ccvae_eval.core.devices import device_named, environment
from ccvae_eval.core.errors import UsageError, suggestion
from ccvae_eval.core.types import Ids, Plain
from ccvae_eval.data.interface import BringsData, DataSet, HasRegions, Split
from ccvae_eval.data.memory import as_data_set
from ccvae_eval.data.spec import data_for, open_data
from ccvae_eval.data.splits import sample_ids
from ccvae_eval.evaluation.metric import Metric, make_metric, metric_class
from ccvae_eval.evaluation.pictures import gallery
from ccvae_eval.evaluation.run import Header, Run
from ccvae_eval.evaluation.runner import Plan, needs_characteristics, needs_judge, plan_of
from ccvae_eval.evaluation.runner import evaluate as evaluate_subject
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.judge import Judge, judge_for
from ccvae_eval.model.checks import require_model, require_shape
from ccvae_eval.model.interface import LabelledVAE
from ccvae_eval.oracle.references import oracle_reference, with_references
from ccvae_eval.plugins import registry

DEFAULT_METRICS = ("density", "locality", "drift", "diversity", "accuracy", "reconstruction")
"""The metrics that are evaluated by default."""

WHOLE_DATA = "all"
"""The recorded split of a run on the first N images of the whole data set."""

Notice = Callable[[str], None]
Stage = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Setup:
    """A model and its encoded images, with the metrics to compute on them."""

    subject: Subject
    metrics: tuple[Metric, ...]
    header: Header
    own_samples: bool
    references: bool
    cache_dir: str | Path | None = None
    notice: Notice | None = None

    @property
    def plan(self) -> Plan:
        return plan_of(self.subject, self.metrics, own_samples=self.own_samples)

    def measure(self, stage: Stage | None = None) -> Run:
        """Computes the metrics and, where possible, their references.

        Args:
            stage: called with ("measure", batches done, batches), then with ("reference", ...).
        """
        subject, metrics, progress = self.subject, self.metrics, _staged(stage, "measure")
        run = evaluate_subject(subject, metrics, header=self.header, own_samples=self.own_samples, progress=progress)
        run = replace(run, gallery=gallery(subject, run.ids.values()))
        if not self.references:
            return run
        progress = _staged(stage, "reference")
        return with_references(
            run,
            oracle_reference(run, subject, metrics, cache_dir=self.cache_dir, notice=self.notice, progress=progress),
        )


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


def metric_named(name: str, settings: Mapping[str, Any] | None = None) -> Metric:
    """A registered metric with the given settings; the error for an unknown name suggests the nearest one."""
    known = {f.name: f for f in fields(metric_class(name))}
    for key in settings or {}:
        if key not in known:
            raise UsageError(f"metric {name!r} has no setting {key!r}", hint=suggestion(key, known))
    return make_metric(name, settings or {})


def _metrics_with(options: Mapping[str, Mapping[str, Any]], metrics: Sequence[str | Metric]) -> list[Metric]:
    """The metrics; those given by name get their options. Options for other metrics are refused."""
    by_name = {metric for metric in metrics if isinstance(metric, str)}
    for metric in metrics:
        if isinstance(metric, type) or not isinstance(metric, str | Metric):
            hint = "Pass a metric's name, or an instance such as Locality(steps=5)."
            raise UsageError(f"{metric!r} is not a metric", hint=hint)
    for name in options:
        if name not in by_name:
            hint = f"Options apply to metrics given by name: {', '.join(sorted(by_name)) or 'none'}"
            raise UsageError(f"an option is set for metric {name!r}, which is not evaluated", hint=hint)
    return [metric_named(m, options.get(m)) if isinstance(m, str) else m for m in metrics]


def set_up(
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
    cache_dir: str | Path | None = None,
    command: str = "",
    notice: Notice | None = None,
    stage: Stage | None = None,
) -> Setup:
    """Opens model, data and judge, and encodes the images; for the arguments see :func:`evaluate`."""
    opened = load(model) if isinstance(model, str | Path) else model
    chosen = _metrics_with(options or {}, metrics)
    given = [metric.name for metric in chosen]
    if len(set(given)) != len(given):
        raise UsageError(f"each metric may be given once, got {', '.join(given)}")
    network: Any = opened.model if isinstance(opened, Opened) else opened
    images = data_of(data, opened)
    wanted = sample if sample is not None or limit is not None else max(metric.default_sample for metric in chosen)
    part = split if split is not None or limit is not None else "test"
    ids = sample_ids(images, part, sample=None if wanted in (None, "all") else int(wanted), seed=seed, limit=limit)
    place = device_named(device)

    def selected_judge(train: bool) -> Judge | None:
        return judge_for(
            images,
            choice=judge,
            schema=network.labels if len(network.labels) else None,
            cache_dir=cache_dir,
            train=train,
            notice=notice or (lambda _: None),
            progress=_staged(stage, "judge"),
        )

    # an invalid judge file is refused before encoding; the need to train a judge is known only after it
    judge_model = None if judge == "auto" else selected_judge(train=False)
    selected = None if characteristics is None else tuple(characteristics)
    subject = prepare(
        network, images, ids, seed=seed, device=place, batch_size=batch_size, characteristics=selected,
        progress=_staged(stage, "encode"),
    )  # fmt: skip
    subject = _with(subject, trained_on=_trained_on(opened, images, part))
    if subject.unrestricted is not None and not any(needs_characteristics(metric, subject) for metric in chosen):
        subject = subject.unrestricted
    if judge == "auto":
        judge_model = selected_judge(any(needs_judge(metric, subject) for metric in chosen))
    subject = _with(subject, judge=judge_model)
    header = _header(subject, opened, part or WHOLE_DATA, sample, command)
    own_samples = sample is None and limit is None
    return Setup(subject, tuple(chosen), header, own_samples, references, cache_dir, notice)


def _with(subject: Subject, **changes: Any) -> Subject:
    """The subject with some fields replaced, also in its unrestricted form."""
    unrestricted = None if subject.unrestricted is None else replace(subject.unrestricted, **changes)
    return replace(subject, unrestricted=unrestricted, **changes)


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
    **arguments: Any,
) -> Run:
    """Evaluates a model on labelled images.

    Args:
        model: path of a checkpoint, the result of :func:`load`, or a model (see :func:`wrap`).
        data: a spec such as ``"folder:PATH"``, a ``DataSet``, a torch ``Dataset`` of (image, label), or a tuple
            (images, labels, label names). Default: ``CCVAE_EVAL_DATA``, else the checkpoint's training data if they
            need no path.
        metrics: names of metrics, or metrics with their own settings.
        **arguments: optional settings of the evaluation.

            - ``options``: settings of the metrics given by name, {metric: {setting: value}}.
            - ``split``: "train", "judge" or "test" (default).
            - ``sample``: number of images, or "all"; default: set by each metric.
            - ``limit``: use the first N images of the split, or of the whole data set if no split is named.
            - ``seed``: random seed (0).
            - ``device``: "auto" (default), "cpu", "cuda", ...
            - ``batch_size``: images processed at once (256); results do not depend on it.
            - ``characteristics``: evaluate only these.
            - ``judge``: "auto" (default), "none" or a file.
            - ``references``: add the values of the reference model, if the data are rendered (True).
            - ``cache_dir``: folder for cached judges and references.
            - ``notice``: called with a text; ``stage``: called with (stage, done, total).

    Returns:
        The run. The model's mode and gradients and the global random state are left unchanged.
    """
    return set_up(model, data, metrics, **arguments).measure(arguments.get("stage"))


def data_of(data: Any, opened: Opened | LabelledVAE) -> DataSet:
    """The data set of an evaluation: the given one, the one that comes with the model, or the checkpoint's own."""
    network: Any = opened.model if isinstance(opened, Opened) else opened
    require_model(network, opened.name if isinstance(opened, Opened) else type(network).__name__)
    images = network.own_data if data is None and isinstance(network, BringsData) else _chosen_data(data, opened)
    require_shape(network, images.input_shape, images.spec)
    return images


def _chosen_data(data: Any, opened: Opened | LabelledVAE) -> DataSet:
    if data is None or isinstance(data, str):
        record = opened.record if isinstance(opened, Opened) else None
        return open_data(data_for(data, record.data_spec if record else None))
    return data if isinstance(data, DataSet) else as_data_set(data)


def _header(
    subject: Subject, opened: Opened | LabelledVAE, split: str, sample: int | str | None, command: str
) -> Header:
    data, warnings, name = subject.data, [], type(subject.model).__name__
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
        regions={"source": data.region_source if isinstance(data, HasRegions) else None},
        seed=subject.seed,
        command=command or " ".join(sys.argv[:1]),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        warnings=tuple(warnings),
    )
