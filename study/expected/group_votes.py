"""Votes of groups of images, counted on the codes that were measured: FactorVAE, BetaVAE and z-max-var.

Their intervals are those of drawing groups of these very rows, so what is known is counted on the same rows, by code of
its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from ccvae_eval.calibration.study_cells import Case
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats
from study.expected.known import Known
from study.expected.laws import TRAINED, Whole, law_of

VOTES, GROUP = 36_000, 64
"""Four times as many as the metric casts: what is known must be surer than what is measured."""
KINDS = ("factor_vae", "beta_vae", "z_max_var")


@lru_cache(maxsize=16)
def voted(codes_as_bytes: bytes, labels: bytes, count: int, kind: str) -> Mapping[str, float]:
    """Groups of rows that share a factor, or all others: which column says which factor, and how much is gone."""
    classes = np.frombuffer(labels, np.int64).reshape(-1, count)
    codes = np.frombuffer(codes_as_bytes, np.float64).reshape(len(classes), -1)
    generator = numpy_stream(0, f"laws/{kind}")
    features, factors = zip(*(_vote(codes, classes, kind, generator) for _ in range(VOTES)), strict=True)
    table, asked = np.stack(features), np.array(factors)
    if kind == "z_max_var":
        table = 1 - table / table.sum(1, keepdims=True)
    choice = table.argmin(1)
    cut = round(VOTES * TRAINED)
    counts = np.zeros((codes.shape[1], count))
    np.add.at(counts, (choice[:cut], asked[:cut]), 1)
    right = counts.argmax(1)[choice[cut:]] == asked[cut:]
    gone = 1 - np.clip(table[np.arange(cut, VOTES), choice[cut:]], 0, 1)
    return {kind: float((right * gone).mean()), f"{kind}_votes": float(right.mean())}


def _vote(codes: Floats, classes: Whole, kind: str, generator: np.random.Generator) -> tuple[Floats, int]:
    """The feature of each column in one group, over what it is among all rows; and the factor."""
    factor = int(generator.integers(classes.shape[1]))
    like = generator.integers(len(classes), size=1 if kind != "beta_vae" else GROUP)
    if kind == "beta_vae":
        other = _partners(classes[:, factor], classes[like, factor], generator)
        apart = np.abs(codes[like] - codes[other]).mean(0)
        every = generator.permutation(len(codes))
        return apart / np.abs(codes - codes[every]).mean(0), factor
    held = np.delete(classes, factor, axis=1) if kind == "z_max_var" else classes[:, [factor]]
    rows = generator.choice(np.flatnonzero((held == held[like[0]]).all(1)), GROUP)
    return codes[rows].var(0, ddof=1) / codes.var(0, ddof=1), factor


def _partners(label: Whole, wanted: Whole, generator: np.random.Generator) -> Whole:
    """A row at random with each wanted value."""
    found = np.empty(len(wanted), dtype=np.int64)
    for value in (0, 1):
        here = wanted == value
        found[here] = generator.choice(np.flatnonzero(label == value), int(here.sum()))
    return found


def _voted(case: Case) -> Floats:
    """At both ends, on the very codes that were measured: the intervals of votes are those of drawing groups of them.

    Of columns that know something those alone vote; where none does, all.
    """
    names, kind = case.cells[0].characteristics, case.value.removesuffix("_votes")
    ends = []
    for cell in (case.cells[0], case.cells[-1]):
        subject = cell.subject()
        known = cell.dial.name != "shuffle" or cell.position == 0
        columns = [subject.layout[name][0] for name in names] if known else list(range(subject.layout.dim))
        codes = subject.posterior.loc[:, columns].double().numpy()
        law = law_of(case)
        ends.append(voted(codes.tobytes(), law.labels, law.count, kind)[case.value])
    return case.ends(*ends)


VOTED: Mapping[tuple[str, str, str], Known] = {
    **{("disentanglement", f"{kind}_votes", "shuffle"): _voted for kind in KINDS},
    **{("disentanglement", kind, "mix"): _voted for kind in KINDS},
}
"""By (metric, value, dial)."""
