"""What the scores of the panel must be on codes whose law is known: simulated from the law, or in closed form.

The oracle shown to the panel has one column for each binary label (``stages``), u = +-2 + .5 e, beside columns
that tell nothing. A simulation draws codes of that law for as many images as were measured, with their labels, spoils
them by formula and scores them with a few lines of NumPy and scikit-learn: the mean of ``REPEATS`` such scores is what
is known. (Not of infinitely many images: the best of fifty columns that know nothing knows something in 1,536 images.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import truncnorm
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from ccvae_eval.calibration.study_cells import Case
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats
from ccvae_eval.oracle.code import MEAN, REACH, SPREAD
from study.expected.known import Known

REPEATS = 12
DIGITS = 3
"""What so many repeats bear."""
FEW_LABELS, FORESTS = 60, 3
"""Readers that learn from a few labels each, and forests, which take long."""
TRAINED = 2 / 3
"""The share of the images that a reader learns from."""

Whole = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Law:
    """Which codes are drawn.

    Args:
        labels: of the images, binary, shape (N, K), as bytes.
        count: K.
        columns: of the code; the first K are u.
        degrees: by which the first K are turned, two and two.
        known: whether codes and labels belong together.
    """

    labels: bytes
    count: int
    columns: int
    degrees: float = 0.0
    known: bool = True

    def drawn(self, repeat: int) -> tuple[Floats, Whole]:
        """Codes (N, D) and labels (N, K)."""
        classes = np.frombuffer(self.labels, np.int64).reshape(-1, self.count)
        generator = numpy_stream(repeat, "laws")
        codes = generator.standard_normal((len(classes), self.columns))
        noise = truncnorm.rvs(-REACH, REACH, size=classes.shape, random_state=generator)
        u = MEAN * (2 * classes - 1) + SPREAD * noise
        codes[:, : self.count] = turned(u, self.degrees)
        return codes, classes if self.known else classes[generator.permutation(len(classes))]


def turned(u: Floats, degrees: float) -> Floats:
    """Columns turned into each other, two and two."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    found = u.copy()
    for a in range(0, u.shape[1] - 1, 2):
        found[:, a], found[:, a + 1] = cos * u[:, a] - sin * u[:, a + 1], sin * u[:, a] + cos * u[:, a + 1]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """Information (J, K) in nats, what binning noise gives taken off; entropies (K,); bins."""

    mutual: Floats
    entropy: Floats
    bins: int


def _cells(codes: Floats, bins: int) -> Whole:
    edges = [np.quantile(column, np.arange(1, bins) / bins) for column in codes.T]
    return np.stack([np.searchsorted(e, c, side="right") for e, c in zip(edges, codes.T, strict=True)], axis=1)


def information(cells: Whole, classes: Whole, bins: int) -> Floats:
    """Of each column with each binary label, in nats, less its expectation where there is none."""
    found = np.empty((cells.shape[1], classes.shape[1]))
    for j, k in np.ndindex(*found.shape):
        table = np.bincount(cells[:, j] * 2 + classes[:, k], minlength=2 * bins).reshape(bins, 2) / len(cells)
        independent = table.sum(1, keepdims=True) * table.sum(0)
        here = table > 0
        found[j, k] = (table[here] * np.log(table[here] / independent[here])).sum()
    return np.maximum(found - (bins - 1) / (2 * len(cells)), 0.0)


def _counts(codes: Floats, classes: Whole, bins: int) -> Counts:
    share = classes.mean(0)
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    return Counts(information(_cells(codes, bins), classes, bins), entropy, bins)


def _best(values: Floats, axis: int) -> tuple[Floats, Floats]:
    ranked = np.sort(values, axis=axis)
    return np.asarray(ranked.take(-1, axis)), np.asarray(ranked.take(-2, axis))


def _scores(counts: Counts, classes: Whole) -> dict[str, float]:
    """The scores that are formulas of the information, by name."""
    mutual, entropy = counts.mutual, counts.entropy
    factors = mutual.shape[1]
    knowing = mutual[:factors]
    first, second = _best(mutual, 0)
    best, other = _best(knowing, 1)
    shares = knowing / entropy
    runner = np.argsort(mutual, 0)[-2]
    partner = mutual[runner].argmax(1)
    kept = np.array([entropy[k] if partner[k] == k else _given(classes, k, partner[k]) for k in range(factors)])
    gaps = np.where(knowing.argmax(1)[:, None] == np.arange(factors), (best - other)[:, None], 0.0).max(0)
    rest = (knowing**2).sum(1) - best**2
    one_factor = 1 - rest / np.where(best > 0, best, 1.0) ** 2 / (factors - 1)
    return {
        "mig": float(((first - second) / entropy).mean()),
        "dmig": float(((first - second) / kept).mean()),
        "mig_sup": float((np.sort(shares, 1)[:, -1] - np.sort(shares, 1)[:, -2]).mean()),
        "dcimig": float(gaps.sum() / entropy.sum()),
        "jemmig": float(
            (1 - (math.log(counts.bins) + entropy - 2 * first + second) / (entropy + math.log(counts.bins))).mean()
        ),
        "modularity": float((one_factor * best).sum() / best.sum()) if best.any() else math.nan,
        "infom": float(_shared(shares, 1).mean()),
        "infoc": float(_shared(shares, 0).mean()),
    }


def _given(classes: Whole, k: int, other: int) -> float:
    """The entropy of one label where another is known."""
    joint = np.bincount(2 * classes[:, other] + classes[:, k], minlength=4).reshape(2, 2) / len(classes)
    return float(-(joint * np.log(np.maximum(joint / joint.sum(1, keepdims=True), 1e-300))).sum())


def _shared(shares: Floats, axis: int) -> Floats:
    count = shares.shape[axis]
    total = shares.sum(axis)
    return np.asarray((shares.max(axis) / np.where(total > 0, total, 1.0) - 1 / count) / (1 - 1 / count))


def _alone(codes: Floats, classes: Whole) -> Floats:
    """Held-out balanced accuracy of a histogram of each column for each label, guessing = 0, shape (J, K).

    A bin says the class in which it is the more likely."""
    cut = round(len(codes) * TRAINED)
    bins = int(np.clip(cut // 20, 2, 256))
    found = np.zeros((codes.shape[1], classes.shape[1]))
    for j, column in enumerate(codes.T):
        cells = np.searchsorted(np.quantile(column[:cut], np.arange(1, bins) / bins), column, side="right")
        for k, label in enumerate(classes.T):
            ones = np.bincount(cells[:cut], label[:cut], minlength=bins)
            every = np.bincount(cells[:cut], minlength=bins)
            told = (ones / max(ones.sum(), 1) > (every - ones) / max((every - ones).sum(), 1))[cells[cut:]]
            right = [np.mean(told[label[cut:] == v] == v) for v in (0, 1)]
            found[j, k] = max(2 * np.mean(right) - 1, 0.0)
    return found


def _irs(codes: Floats, classes: Whole, generator: np.random.Generator) -> dict[str, float]:
    """Interventional robustness of the first columns, before and after its null is taken off."""
    count = classes.shape[1]
    shuffled = [classes[generator.permutation(len(classes))] for _ in range(5)]
    raw, null = [], []
    for column in codes.T[:count]:
        overall = _reach(column)
        still = [np.mean([_reach(column[label == v]) for v in (0, 1)]) for label in classes.T]
        raw.append(1 - min(still) / overall)
        by_chance = [
            1 - min(np.mean([_reach(column[label == v]) for v in (0, 1)]) for label in other.T) / overall
            for other in shuffled
        ]
        null.append(np.mean(by_chance))
    one, usual = np.array(raw), np.array(null)
    return {"irs_raw": float(one.mean()), "irs": float(np.maximum((one - usual) / (1 - usual), 0).mean())}


def _reach(values: Floats) -> float:
    return float(np.quantile(np.abs(values - np.median(values)), 0.99))


@lru_cache(maxsize=256)
def simulated(law: Law, bins: int) -> Mapping[str, float]:
    """The mean of ``REPEATS`` scores of each kind, by name."""
    found: dict[str, list[float]] = {}
    for repeat in range(REPEATS):
        codes, classes = law.drawn(repeat)
        scores = _scores(_counts(codes, classes, bins), classes)
        alone = _alone(codes, classes)
        first, second = _best(alone, 0)
        own = np.diag(alone)
        scores |= {"sap": float((first - second).mean()), "snc": float(own.mean())}
        scores |= {"snc_raw": float((own.mean() + 1) / 2)}
        scores |= _irs(codes, classes, numpy_stream(repeat, "laws/irs"))
        for name, score in scores.items():
            found.setdefault(name, []).append(score)
    return {name: round(float(np.mean(scores)), DIGITS) for name, scores in found.items()}


@lru_cache(maxsize=32)
def read(law: Law, budget: int) -> Mapping[str, float]:
    """What a linear reader gets out of the whole code, having learnt from so many labels (0 = all there are)."""
    found: dict[str, list[float]] = {"infoe": [], "downstream": []}
    for repeat in range(REPEATS if budget == 0 else FEW_LABELS):
        codes, classes = law.drawn(repeat)
        # other rows every time: which ten labels are learnt from matters, and the labels' order is the images'
        order = numpy_stream(repeat, "laws/read").permutation(len(codes))
        codes, classes = codes[order], classes[order]
        points = (codes - codes.mean(0)) / codes.std(0)
        cut = round(len(codes) * TRAINED)
        inside = slice(0, budget or cut)
        shares, right = [], []
        for label in classes.T:
            prior = label[inside].mean()
            if prior in (0, 1):
                continue
            reader = LogisticRegression(max_iter=500).fit(points[inside], label[inside])
            told = reader.predict_proba(points[cut:])[:, 1]
            truth = label[cut:]
            loss = -np.log(np.where(truth == 1, told, 1 - told)).mean()
            shares.append(1 - loss / -np.log(np.where(truth == 1, prior, 1 - prior)).mean())
            right.append(np.mean((told > 0.5) == truth))
        found["infoe"].append(float(np.mean(shares)))
        found["downstream"].append(float(np.mean(right)))
    return {name: round(float(np.mean(scores)), DIGITS) for name, scores in found.items()}


def law_of(case: Case, position: int = 0, *, known: bool = True) -> Law:
    """The law of the codes at one position of a dial."""
    names, subject = case.cells[0].characteristics, case.subject
    classes = np.stack([subject.classes(name).numpy() for name in names], axis=1).astype(np.int64)
    turned_by = case.strengths[position] if case.cells[0].dial.name == "mix" else 0.0
    return Law(classes.tobytes(), len(names), subject.layout.dim, float(turned_by), known)


def _bins(case: Case) -> int:
    asked: int = getattr(case.metric, "bins", 20)
    return min(asked, max(len(case.subject) // 50, 2))


def _along(case: Case) -> Floats:
    """At every angle."""
    return np.array([simulated(law_of(case, k), _bins(case))[case.value] for k in range(len(case.cells))])


def _told_or_not(case: Case) -> Floats:
    """Codes that belong to their labels, and codes that do not."""
    return case.ends(*(simulated(law_of(case, known=known), _bins(case))[case.value] for known in (True, False)))


def _read_or_not(case: Case) -> Floats:
    budget = int(case.told_apart("labels") or 0)
    if budget > round(len(case.subject) * TRAINED):
        return case.ends(math.nan, math.nan)
    return case.ends(*(read(law_of(case, known=known), budget)[case.value] for known in (True, False)))


def _halves(case: Case) -> Floats:
    r"""Two that matter alike, of so many: :math:`1 - \log 2 / \log K` of K factors, or of D codes."""
    among = law_of(case).columns if case.value == "dci_completeness" else law_of(case).count
    return case.ends(1.0, 1 - math.log(2) / math.log(among))


def _shares(case: Case) -> Floats:
    """Of each label how many images have it."""
    return np.array([float((case.subject.classes(n) == 1).double().mean()) for n in case.cells[0].characteristics])


def _knocked(case: Case) -> Floats:
    """Without the own code the style column that it was turned into tells the label: see ``known._turned``."""
    sin, cos = (f(np.radians(case.strengths)) for f in (np.sin, np.cos))
    apart = 2 * MEAN * sin / np.sqrt((SPREAD * sin) ** 2 + cos**2)
    lost = 2 * (1 - ndtr(apart[[0, -1]] / 2))
    return case.ends(*(float(x) / (2 if case.value == "nk_raw" else 1) for x in lost))


def _grown(case: Case) -> Floats:
    """The area under the error of trees of 1, 2, 4, ... leaves, each grown for itself."""
    sizes = 2 ** np.arange(int(math.log2(getattr(case.metric, "leaves", 512))) + 1)
    ends = []
    for position in (0, len(case.cells) - 1):
        areas = []
        for repeat in range(FORESTS):
            codes, classes = law_of(case, position).drawn(repeat)
            cut = round(len(codes) * TRAINED)
            for label in classes.T:
                errors = [0.5]
                for leaves in sizes[1:]:
                    tree = DecisionTreeClassifier(max_leaf_nodes=int(leaves), class_weight="balanced", random_state=0)
                    told = tree.fit(codes[:cut], label[:cut]).predict(codes[cut:])
                    errors.append(float(np.mean([np.mean(told[label[cut:] == v] != v) for v in (0, 1)])))
                curve = np.minimum.accumulate(errors)
                area = np.trapezoid(curve - curve[-1]) / (len(sizes) - 1) / (0.5 - curve[-1])
                areas.append(1 - float(area))
        ends.append(float(np.mean(areas)))
    return case.ends(*ends)


def _entropies(case: Case) -> Floats:
    share = _shares(case)
    return case.ends(float(-(share * np.log(share) + (1 - share) * np.log(1 - share)).mean()), 0.0)


def _pairs(case: Case) -> tuple[int, Floats]:
    return len(case.cells[0].characteristics) // 2, case.strengths


def _total_correlation(case: Case) -> Floats:
    r""":math:`-\frac12 \log(1 - \rho^2)` for each pair."""
    pairs, rho = _pairs(case)
    return np.asarray(-pairs / 2 * np.log(1 - rho**2))


def _wasserstein(case: Case) -> Floats:
    r""":math:`2 (2 - \sqrt{1 + \rho} - \sqrt{1 - \rho})` for each pair."""
    pairs, rho = _pairs(case)
    found = pairs * 2 * (2 - np.sqrt(1 + rho) - np.sqrt(1 - rho))
    return np.asarray(found / (2 * pairs if case.value.endswith("norm") else 1))


def _pair_information(case: Case) -> Floats:
    """Of the pairs that are correlated, among all pairs, on bins of equal mass of 200,000 draws."""
    pairs, rho = _pairs(case)
    bins, count = _bins(case), 2 * pairs
    draws = numpy_stream(0, "laws/pairs").standard_normal((200_000, 2))
    found = []
    for r in rho:
        cells = _cells(np.stack([draws[:, 0], r * draws[:, 0] + math.sqrt(1 - r**2) * draws[:, 1]], 1), bins)
        table = np.bincount(cells[:, 0] * bins + cells[:, 1], minlength=bins**2) / len(cells)
        # of independent columns bins and draws alone would give that much
        told = math.log(bins) * 2 + float((table[table > 0] * np.log(table[table > 0])).sum())
        found.append((told - (bins - 1) ** 2 / (2 * len(cells))) * 2 * pairs / (count * (count - 1)))
    return np.maximum(found, 0.0)


COUNTED = ("mig", "dmig", "mig_sup", "dcimig", "jemmig", "modularity", "infom", "infoc", "sap", "snc", "snc_raw")
SHUFFLED = ("mig", "dmig", "dcimig", "jemmig", "sap", "snc", "snc_raw")


def _ends_at(first: float) -> Callable[[Case], Floats]:
    return lambda case: case.ends(first, case.chance())


_KNOWN: dict[tuple[str, str], Known] = {
    **{(value, "mix"): _along for value in (*COUNTED, "irs", "irs_raw")},
    **{(value, "shuffle"): _told_or_not for value in SHUFFLED},
    **{(value, "shuffle"): _read_or_not for value in ("infoe", "downstream")},
    **{(value, "mix"): _halves for value in ("dci_disentanglement", "dci_completeness")},
    **{(value, "seep"): _knocked for value in ("nk", "nk_raw")},
    ("dci_informativeness", "shuffle"): _ends_at(1.0),
    ("explicitness", "shuffle"): _ends_at(1.0),
    ("dci_explicitness", "mix"): _grown,
    ("rmig", "mix"): _entropies,
    ("rmig", "shuffle"): _entropies,
    ("gaussian_total_correlation", "correlate"): _total_correlation,
    ("gaussian_wasserstein_correlation", "correlate"): _wasserstein,
    ("gaussian_wasserstein_correlation_norm", "correlate"): _wasserstein,
    ("mutual_info_score", "correlate"): _pair_information,
}
PANEL: Mapping[tuple[str, str, str], Known] = {("disentanglement", *key): known for key, known in _KNOWN.items()}
"""By (metric, value, dial)."""
