"""The disentanglement panel without images: of arrays or files of codes and factors, and of several checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ccvae_eval.core import TOOL
from ccvae_eval.core.devices import environment
from ccvae_eval.core.errors import DataError, UndefinedError
from ccvae_eval.core.results import Estimate, Measurement, Reason, Value
from ccvae_eval.data.sets.codes import read_codes
from ccvae_eval.evaluation.metric import settings_of
from ccvae_eval.evaluation.run import Header, Run
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.disentanglement import Disentanglement, panel, udr
from ccvae_eval.metrics.disentanglement.stability import Stability, active_by_kl

CHECKPOINT = "checkpoint"
"""What ``at`` calls a row of one of several checkpoints."""


def score_file(
    codes: Path,
    factors: Path | None = None,
    settings: Disentanglement | None = None,
    *,
    seed: int = 0,
    command: str = "",
) -> Run:
    """The panel of a file of codes and factors (:func:`ccvae_eval.data.sets.codes.read_codes`)."""
    found = read_codes(codes, factors)
    return score_arrays(
        found.codes, found.factors, settings, seed=seed, command=command, name=found.where, digest=found.digest,
        **found.arrays,
    )  # fmt: skip


def score_arrays(
    codes: Any,
    factors: Any,
    settings: Disentanglement | None = None,
    *,
    seed: int = 0,
    command: str = "",
    name: str = "arrays",
    digest: str = "",
    **arrays: Any,
) -> Run:
    """The panel of arrays as a run: what ``ccvae-eval disentanglement --codes`` writes.

    Args:
        codes, factors: as in :func:`ccvae_eval.metrics.disentanglement.panel`.
        settings: which scores, and how.
        seed: of every draw.
        command, name, digest: for the record.
        **arrays: ``names``, ``kinds``, ``blocks``, ``block_names``, ``train``, ``test``.
    """
    metric = settings or Disentanglement()
    begun = datetime.now(UTC)
    rows = len(codes)
    try:
        measurement = panel(codes, factors, metric, seed=seed, where=name, **arrays)
    except UndefinedError as error:
        reason = Reason(error.code, str(error))
        measurement = Measurement(
            metric.name, metric.version, settings_of(metric), metric.headline, status="undefined", reason=reason
        )
    header = Header(
        tool=TOOL,
        environment=environment(torch.device("cpu")),
        checkpoint={"path": None, "sha256": None, "format": None, "model": None, "settings": {}},
        data={
            "name": name, "digest": digest, "n": rows, "labels": [], "split": "train and test", "sample": None,
            "seen_in_training": None,
        },
        regions={"source": None},
        seed=seed,
        command=command,
        started=begun.isoformat(timespec="seconds"),
    )  # fmt: skip
    seconds = (datetime.now(UTC) - begun).total_seconds()
    return _run(header, replace(measurement, seconds=seconds), np.arange(rows))


def _run(header: Header, measurement: Measurement, ids: np.ndarray[Any, np.dtype[np.int64]]) -> Run:
    specs = {measurement.metric: Disentanglement.values}
    return Run(header, (measurement,), specs, {measurement.metric: ids})


class EncodedImages(Protocol):
    """A model's codes of some images, and what a run says of them."""

    @property
    def subject(self) -> Subject: ...

    @property
    def header(self) -> Header: ...


def compare_seeds(setups: Sequence[EncodedImages], metric: Disentanglement) -> Run:
    """UDR of several models on the same images.

    Raises:
        DataError: if they were not prepared on the same images.
    """
    first = setups[0].subject
    for setup in setups[1:]:
        if setup.subject.data.digest != first.data.digest or not np.array_equal(setup.subject.ids, first.ids):
            raise DataError("the checkpoints were not encoded on the same images", hint="--data names one for all.")
    codes = [s.subject.posterior.loc.double().numpy() for s in setups]
    active = [active_by_kl(s.subject.posterior) for s in setups]
    found = udr(codes, active, seed=first.seed)
    names = [Path(str(s.header.checkpoint.get("path") or f"model {i}")).name for i, s in enumerate(setups)]
    called = [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)]
    labelled = any(s.subject.model.layout.characteristics for s in setups)
    notes = [f"codes with a mean KL above .01 nat: {', '.join(map(str, found.active))}"]
    if labelled:
        notes.append("models whose codes are aligned with labels find the same codes trivially")
    values = _stability_values(found, called, len(first))
    reason = None if values[0].estimate.defined else Reason("undefined", values[0].note)
    measurement = Measurement(
        metric.name, metric.version, settings_of(metric), "udr", tuple(values),
        "ok" if reason is None else "undefined", reason, notes=tuple(notes),
    )  # fmt: skip
    header = setups[0].header
    described = {**header.checkpoint, "path": ", ".join(called), "sha256": None}

    return _run(replace(header, checkpoint=described), measurement, first.ids)


def _stability_values(found: Stability, names: list[str], n: int) -> list[Value]:
    chance = None if np.isnan(found.chance) else found.chance
    why = "" if found.total == found.total else "a model has no active code"
    rows = [Value("udr", Estimate(found.total, n=n), chance=chance if not why else None, note=why)]
    for name, number in zip(names, found.models, strict=True):
        note = "" if number == number else "no active code"
        rows.append(Value("udr", Estimate(float(number), n=n), at={CHECKPOINT: name}, chance=chance, note=note))
    return rows
