"""Runs without decoding: the panel of arrays or files of codes and factors, and UDR of several checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from ccvae_eval.core import TOOL
from ccvae_eval.core.devices import environment
from ccvae_eval.core.errors import DataError, UndefinedError
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.results import Estimate, Measurement, Reason, Value
from ccvae_eval.core.types import Bools, Floats, Gaussian
from ccvae_eval.data.sets.codes import read_codes
from ccvae_eval.evaluation.metric import settings_of
from ccvae_eval.evaluation.plan import Plan
from ccvae_eval.evaluation.run import Header, Run
from ccvae_eval.metrics.disentanglement.information_scores import ratio
from ccvae_eval.metrics.disentanglement.metric import Disentanglement
from ccvae_eval.metrics.disentanglement.panel import panel

CHECKPOINT = "checkpoint"
"""Key in ``Value.at`` of a value that belongs to one of several checkpoints."""

MIN_KL = 0.01
"""Mean KL divergence from N(0, 1) in nats above which a latent dimension is active."""


def active_by_kl(posterior: Gaussian) -> Bools:
    """True for latent dimensions whose mean KL(q(z_j|x) || N(0, 1)) exceeds 0.01 nats, shape (D,)."""
    loc, scale = posterior.loc.double().numpy(), posterior.scale.double().numpy()
    with np.errstate(divide="ignore"):
        kl = 0.5 * (loc**2 + scale**2 - 1) - np.log(scale)
    return np.asarray(kl.mean(axis=0) > MIN_KL)


def rank_correlations(one: Floats, other: Floats) -> Floats:
    """Absolute rank correlations of the dimensions of two models, shape (D1, D2); 0 for a constant dimension."""
    ranks = []
    for codes in (one, other):
        centred = rankdata(codes, axis=0) - (len(codes) + 1) / 2
        length = np.sqrt((centred**2).sum(axis=0))
        ranks.append(centred / np.where(length > 0, length, np.inf))
    return np.asarray(np.abs(ranks[0].T @ ranks[1]))


def pair_score(correlations: Floats) -> float:
    """UDR of two models from the correlations of their active dimensions, shape (d_a, d_b).

    In [0, 1], 1 for a one-to-one match; NaN if a model has no active dimension.

    >>> pair_score(np.eye(3)), pair_score(np.full((2, 2), 0.5))
    (1.0, 0.25)
    """
    if not correlations.size:
        return float("nan")
    shares = (ratio(correlations.max(axis=axis) ** 2, correlations.sum(axis=axis)) for axis in (0, 1))
    return sum(float(np.nan_to_num(share).sum()) for share in shares) / sum(correlations.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Stability:
    """UDR of several models.

    Args:
        pairs: UDR of each pair of models, shape (M, M); NaN on the diagonal.
        models: score of each model, the median over the others, shape (M,).
        total: mean over models.
        chance: total after a random rotation of the codes of each model.
        active: number of active latent dimensions of each model.
    """

    pairs: Floats
    models: Floats
    total: float
    chance: float
    active: tuple[int, ...]


def udr(codes: Sequence[Floats], active: Sequence[Bools] | None = None, *, seed: int = 0) -> Stability:
    r"""Unsupervised disentanglement ranking: agreement of the latents of models of other seeds (Duan et al. 2020).

    For two models a and b, R_ij is the absolute rank correlation of active latent dimension i of a with j of b, and
    :math:`r_j = \max_i R_{ij}`, :math:`r_i = \max_j R_{ij}`:

    .. math:: UDR_{ab} = \frac{1}{d_a + d_b} \Big( \sum_j \frac{r_j^2}{\sum_i R_{ij}}
              + \sum_i \frac{r_i^2}{\sum_j R_{ij}} \Big)

    The score of a model is the median over the other models. Latents that are aligned with labels agree trivially.

    Args:
        codes: codes of each model, shape :math:`(N, D_m)`.
        active: latent dimensions of each model that enter, shape :math:`(D_m,)`; default: those that vary.
        seed: seed of the random rotations for the chance level.

    Returns:
        Scores in [0, 1]; NaN for models without active latent dimensions.

    Raises:
        DataError: fewer than two models, or different numbers of rows.
    """
    if len(codes) < 2:
        raise DataError(f"UDR needs at least two models, got {len(codes)}", hint="Name several checkpoints.")
    rows = [len(c) for c in codes]
    if len(set(rows)) > 1:
        raise DataError(f"the models must have codes of the same rows, got {', '.join(map(str, rows))} rows")
    masks = [np.ptp(c, axis=0) > 0 for c in codes] if active is None else list(active)
    used = [c[:, mask] for c, mask in zip(codes, masks, strict=True)]
    pairs = _pairs(used)
    rotated = [_rotated(c, numpy_stream(seed, "rotation", m)) for m, c in enumerate(used)]
    models, chance = (np.array([_defined(row, np.median) for row in each]) for each in (pairs, _pairs(rotated)))
    total, null = _defined(models, np.mean), _defined(chance, np.mean)
    return Stability(pairs, models, total, null, tuple(int(mask.sum()) for mask in masks))


def _defined(values: Floats, statistic: Callable[[Floats], Any]) -> float:
    """A statistic of the values that are not NaN; NaN if all are."""
    known = values[~np.isnan(values)]
    return float(statistic(known)) if len(known) else float("nan")


def _pairs(codes: Sequence[Floats]) -> Floats:
    found = np.full((len(codes), len(codes)), np.nan)
    for a, b in combinations(range(len(codes)), 2):
        found[a, b] = found[b, a] = pair_score(rank_correlations(codes[a], codes[b]))
    return found


def _rotated(codes: Floats, generator: np.random.Generator) -> Floats:
    if not codes.shape[1]:
        return codes
    scaled = (codes - codes.mean(axis=0)) / codes.std(axis=0)
    rotation = np.linalg.qr(generator.standard_normal((codes.shape[1], codes.shape[1])))[0]
    return np.asarray(scaled @ rotation)


def score_file(
    codes: Path,
    factors: Path | None = None,
    settings: Disentanglement | None = None,
    *,
    seed: int = 0,
    command: str = "",
) -> Run:
    """The panel of a file of codes and factors, read by :func:`ccvae_eval.data.sets.codes.read_codes`."""
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
    """The panel of arrays as a run, as ``ccvae-eval disentanglement --codes`` writes it.

    Args:
        codes, factors: as in :func:`ccvae_eval.metrics.disentanglement.panel`.
        settings: the scores and their settings.
        seed: seed of all random streams.
        command, name, digest: the command line, and name and digest of the data, for the run's header.
        **arrays: ``names``, ``kinds``, ``blocks``, ``block_names``, ``train``, ``test``.

    Raises:
        DataError: invalid arrays; see :func:`ccvae_eval.metrics.disentanglement.table_of`.
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
    measurement = replace(measurement, seconds=(datetime.now(UTC) - begun).total_seconds())
    return Run(header, (measurement,), {metric.name: metric.values}, {metric.name: np.arange(rows)})


def compare_seeds(plans: Sequence[Plan], metric: Disentanglement) -> Run:
    """UDR of several models on the same images, as a run.

    Raises:
        DataError: fewer than two models, or models that were prepared on different images.
    """
    first = plans[0].subject
    for plan in plans[1:]:
        if plan.subject.data.digest != first.data.digest or not np.array_equal(plan.subject.ids, first.ids):
            raise DataError(
                "the checkpoints must be encoded on the same images", hint="Name one data set for all with --data."
            )
    codes = [plan.subject.posterior.loc.double().numpy() for plan in plans]
    active = [active_by_kl(plan.subject.posterior) for plan in plans]
    found = udr(codes, active, seed=first.seed)
    names = [Path(str(plan.header.checkpoint.get("path") or f"model {i}")).name for i, plan in enumerate(plans)]
    unique = [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)]
    notes = [f"latent dimensions with a mean KL above {MIN_KL} nats: {', '.join(map(str, found.active))}"]
    if any(plan.subject.model.layout.characteristics for plan in plans):
        notes.append("latents that are aligned with labels agree between models trivially")
    values = _stability_values(found, unique, len(first))
    reason = None if values[0].estimate.defined else Reason("undefined", values[0].note)
    measurement = Measurement(
        metric.name, metric.version, settings_of(metric), "udr", tuple(values),
        "ok" if reason is None else "undefined", reason, notes=tuple(notes),
    )  # fmt: skip
    header = plans[0].header
    header = replace(header, checkpoint={**header.checkpoint, "path": ", ".join(unique), "sha256": None})
    return Run(header, (measurement,), {metric.name: metric.values}, {metric.name: first.ids})


def _stability_values(found: Stability, names: list[str], n: int) -> list[Value]:
    chance = None if np.isnan(found.chance) else found.chance
    reason = "a model has no active latent dimension" if np.isnan(found.total) else ""
    rows = [Value("udr", Estimate(found.total, n=n), chance=None if reason else chance, note=reason)]
    for name, number in zip(names, found.models, strict=True):
        note = "no active latent dimension" if np.isnan(number) else ""
        rows.append(Value("udr", Estimate(float(number), n=n), at={CHECKPOINT: name}, chance=chance, note=note))
    return rows
