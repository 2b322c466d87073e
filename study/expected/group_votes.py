"""Expected scores of groups of images: FactorVAE, BetaVAE and z-max-var, and consistency and restrictiveness.

Votes come from an independent implementation, and variances within groups from a closed form. The confidence intervals
of all these scores are conditional on the measured codes, so the votes are counted on the same codes, and the variances
are divided by those of the same codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from ccvae_eval.calibration.study_cells import Case
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats
from ccvae_eval.oracle.model import DEVIATION, MEAN
from study.expected.known import ExpectedValues
from study.expected.laws import TRAINED, IntArray, code_distribution, rotated_pairs

VOTES, GROUP = 36_000, 64
"""Votes, four times as many as the metric casts, and images in a group."""
KINDS = ("factor_vae", "beta_vae", "z_max_var")


@lru_cache(maxsize=16)
def vote_scores(codes_as_bytes: bytes, labels: bytes, count: int, kind: str) -> Mapping[str, float]:
    """Both scores of one kind: share of right votes, and the same weighted by the lost spread.

    Groups share one factor, or all others (z-max-var).
    """
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
    lost = 1 - np.clip(table[np.arange(cut, VOTES), choice[cut:]], 0, 1)
    return {kind: float((right * lost).mean()), f"{kind}_votes": float(right.mean())}


def _vote(codes: Floats, classes: IntArray, kind: str, generator: np.random.Generator) -> tuple[Floats, int]:
    """Feature of each latent dimension in one group, relative to all rows; and the factor."""
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


def _partners(label: IntArray, wanted: IntArray, generator: np.random.Generator) -> IntArray:
    """A random row with each wanted value."""
    found = np.empty(len(wanted), dtype=np.int64)
    for value in (0, 1):
        here = wanted == value
        found[here] = generator.choice(np.flatnonzero(label == value), int(here.sum()))
    return found


def _expected_votes(case: Case) -> Floats:
    """At both ends, on the measured codes; only informative latent dimensions vote, or all if none is."""
    names, kind = case.cells[0].characteristics, case.value.removesuffix("_votes")
    ends = []
    for cell in (case.cells[0], case.cells[-1]):
        subject = cell.subject()
        informative = cell.perturbation.name != "shuffle" or cell.position == 0
        columns = [subject.layout[name][0] for name in names] if informative else list(range(subject.layout.dim))
        codes = subject.posterior.loc[:, columns].double().numpy()
        distribution = code_distribution(case)
        ends.append(vote_scores(codes.tobytes(), distribution.labels, distribution.count, kind)[case.value])
    return case.ends(*ends)


def variance_scores(u: Floats, shares: Floats, degrees: float) -> Mapping[str, float]:
    r"""Consistency and restrictiveness of codes whose consecutive pairs of dimensions are rotated into each other.

    Label j with share q has :math:`u_j = \pm m + s e`, so its variance is :math:`4 m^2 q (1 - q) + s^2`. Images that
    share label k have the variance :math:`s^2` in :math:`u_k` and the whole variance in the others. Images that share
    all but label k are two pictures, each with one code, of which a share :math:`2 q (1 - q)` of the pairs differ: the
    variance is :math:`q (1 - q) (4 m^2 + 2 s^2)` in :math:`u_k` and :math:`2 q (1 - q) s^2` in the others.

    Args:
        u: unrotated codes of the measured images, shape (N, K).
        shares: share of each label among the images that groups are drawn from, shape (K,).
        degrees: angle of the rotation.
    """
    count, spread = len(shares), rotated_pairs(u, degrees).var(0, ddof=1)
    labels, noise = 4 * MEAN**2 * shares * (1 - shares), DEVIATION**2
    partner = np.minimum(np.arange(count) ^ 1, count - 1)
    sin, cos = np.sin(np.radians(degrees)) ** 2, np.cos(np.radians(degrees)) ** 2
    found: dict[str, list[float]] = {"consistency": [], "restrictiveness": []}
    for k, differ in enumerate(2 * shares * (1 - shares)):
        own = np.arange(count) == k
        one_shared = np.where(own, noise, labels + noise)
        all_but_one = np.where(own, labels + differ * noise, differ * noise)
        within, without = (1 - (cos * w + sin * w[partner]) / spread for w in (one_shared, all_but_one))
        found["consistency"].append(within[k])
        found["restrictiveness"].append(without[~own].mean())
    return {name: float(np.mean(scores)) for name, scores in found.items()}


def _expected_variances(case: Case) -> Floats:
    """At every angle, for groups drawn from all images of the data."""
    names, subject = case.cells[0].characteristics, case.subject
    u = subject.posterior.loc[:, [subject.layout[name][0] for name in names]].double().numpy()
    labels = subject.data.labels_of(np.arange(len(subject.data)))
    shares = labels[:, [subject.data.schema.index(name) for name in names]].astype(np.float64).mean(0)
    return np.array([variance_scores(u, shares, degrees)[case.value] for degrees in case.strengths])


VOTED: Mapping[tuple[str, str, str], ExpectedValues] = {
    **{("disentanglement", f"{kind}_votes", "shuffle"): _expected_votes for kind in KINDS},
    **{("disentanglement", kind, "mix"): _expected_votes for kind in KINDS},
    **{("disentanglement", value, "mix"): _expected_variances for value in ("consistency", "restrictiveness")},
}
"""By (metric, value, perturbation)."""
