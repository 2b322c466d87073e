"""Expected scores of the disentanglement panel on codes of a known distribution, simulated or in closed form.

The panel evaluates a view of the oracle with one latent dimension for each binary label, u = +-2 + 0.5 e, and others
that are independent of the labels. A simulation samples perturbed codes for the measured labels and scores them with
NumPy and scikit-learn; the expected value is the mean of ``REPEATS`` scores. It depends on the number of images: the
best of fifty uninformative dimensions has some information on a finite sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import ndtr
from scipy.stats import rankdata, truncnorm
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from ccvae_eval.calibration.study_cells import Case
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats
from ccvae_eval.oracle.model import MEAN, REACH, SPREAD
from study.expected.known import ExpectedValues

REPEATS = 12
DIGITS = 3
"""Digits of the means, by the precision of the repeats."""
FEW_LABELS, FORESTS = 60, 3
"""Repeats of probes trained on few labels, and of decision trees."""
TRAINED = 2 / 3
"""Share of the images in the training set of a probe."""

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CodeDistribution:
    """Distribution of the codes of some images.

    Args:
        labels: binary labels of the images, shape (N, K), as bytes.
        count: K.
        columns: D, the number of latent dimensions; the first K are u.
        degrees: angle by which pairs of the first K dimensions are rotated.
        informative: True if codes belong to their labels, False if the labels are permuted.
    """

    labels: bytes
    count: int
    columns: int
    degrees: float = 0.0
    informative: bool = True

    def sample(self, repeat: int) -> tuple[Floats, IntArray]:
        """Codes (N, D) and labels (N, K)."""
        classes = np.frombuffer(self.labels, np.int64).reshape(-1, self.count)
        generator = numpy_stream(repeat, "laws")
        codes = generator.standard_normal((len(classes), self.columns))
        noise = truncnorm.rvs(-REACH, REACH, size=classes.shape, random_state=generator)
        u = MEAN * (2 * classes - 1) + SPREAD * noise
        codes[:, : self.count] = rotated_pairs(u, self.degrees)
        return codes, classes if self.informative else classes[generator.permutation(len(classes))]


def rotated_pairs(u: Floats, degrees: float) -> Floats:
    """Columns with consecutive pairs rotated into each other."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    found = u.copy()
    for a in range(0, u.shape[1] - 1, 2):
        found[:, a], found[:, a + 1] = cos * u[:, a] - sin * u[:, a + 1], sin * u[:, a] + cos * u[:, a + 1]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """Mutual information in nats without its bias from binning, shape (D, K); entropies, shape (K,); bins."""

    mutual: Floats
    entropy: Floats
    bins: int


def _cells(codes: Floats, bins: int) -> IntArray:
    edges = [np.quantile(column, np.arange(1, bins) / bins) for column in codes.T]
    return np.stack([np.searchsorted(e, c, side="right") for e, c in zip(edges, codes.T, strict=True)], axis=1)


def information(cells: IntArray, classes: IntArray, bins: int) -> Floats:
    """Mutual information of each column and binary label in nats, minus its expectation under independence."""
    found = np.empty((cells.shape[1], classes.shape[1]))
    for j, k in np.ndindex(*found.shape):
        table = np.bincount(cells[:, j] * 2 + classes[:, k], minlength=2 * bins).reshape(bins, 2) / len(cells)
        independent = table.sum(1, keepdims=True) * table.sum(0)
        here = table > 0
        found[j, k] = (table[here] * np.log(table[here] / independent[here])).sum()
    return np.maximum(found - (bins - 1) / (2 * len(cells)), 0.0)


def _counts(codes: Floats, classes: IntArray, bins: int) -> Counts:
    share = classes.mean(0)
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    return Counts(information(_cells(codes, bins), classes, bins), entropy, bins)


def _two_largest(values: Floats, axis: int) -> tuple[Floats, Floats]:
    ranked = np.sort(values, axis=axis)
    return np.asarray(ranked.take(-1, axis)), np.asarray(ranked.take(-2, axis))


def _scores(counts: Counts, classes: IntArray) -> dict[str, float]:
    """Scores that are functions of the mutual information, by name."""
    mutual, entropy = counts.mutual, counts.entropy
    factors = mutual.shape[1]
    informative = mutual[:factors]
    first, second = _two_largest(mutual, 0)
    best, other = _two_largest(informative, 1)
    shares = informative / entropy
    second_best = np.argsort(mutual, 0)[-2]
    partner = mutual[second_best].argmax(1)
    kept = np.array(
        [entropy[k] if partner[k] == k else _conditional_entropy(classes, k, partner[k]) for k in range(factors)]
    )
    gaps = np.where(informative.argmax(1)[:, None] == np.arange(factors), (best - other)[:, None], 0.0).max(0)
    rest = (informative**2).sum(1) - best**2
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
        "infom": float(_concentration(shares, 1).mean()),
        "infoc": float(_concentration(shares, 0).mean()),
    }


def _conditional_entropy(classes: IntArray, k: int, other: int) -> float:
    """Conditional entropy of one label given another."""
    joint = np.bincount(2 * classes[:, other] + classes[:, k], minlength=4).reshape(2, 2) / len(classes)
    return float(-(joint * np.log(np.maximum(joint / joint.sum(1, keepdims=True), 1e-300))).sum())


def _concentration(shares: Floats, axis: int) -> Floats:
    count = shares.shape[axis]
    total = shares.sum(axis)
    return np.asarray((shares.max(axis) / np.where(total > 0, total, 1.0) - 1 / count) / (1 - 1 / count))


def _univariate_scores(codes: Floats, classes: IntArray) -> Floats:
    """Held-out balanced accuracy of a histogram classifier on each column, rescaled so that chance is 0; (D, K)."""
    cut = round(len(codes) * TRAINED)
    bins = int(np.clip(cut // 20, 2, 256))
    found = np.zeros((codes.shape[1], classes.shape[1]))
    for j, column in enumerate(codes.T):
        cells = np.searchsorted(np.quantile(column[:cut], np.arange(1, bins) / bins), column, side="right")
        for k, label in enumerate(classes.T):
            ones = np.bincount(cells[:cut], label[:cut], minlength=bins)
            every = np.bincount(cells[:cut], minlength=bins)
            predicted = (ones / max(ones.sum(), 1) > (every - ones) / max((every - ones).sum(), 1))[cells[cut:]]
            right = [np.mean(predicted[label[cut:] == v] == v) for v in (0, 1)]
            found[j, k] = max(2 * np.mean(right) - 1, 0.0)
    return found


def _irs(codes: Floats, classes: IntArray, generator: np.random.Generator) -> dict[str, float]:
    """Interventional robustness of the first K columns, without and with correction for chance."""
    count = classes.shape[1]
    shuffled = [classes[generator.permutation(len(classes))] for _ in range(5)]
    raw, null = [], []
    for column in codes.T[:count]:
        overall = _spread(column)
        still = [np.mean([_spread(column[label == v]) for v in (0, 1)]) for label in classes.T]
        raw.append(1 - min(still) / overall)
        by_chance = [
            1 - min(np.mean([_spread(column[label == v]) for v in (0, 1)]) for label in other.T) / overall
            for other in shuffled
        ]
        null.append(np.mean(by_chance))
    score, chance = np.array(raw), np.array(null)
    return {"irs_raw": float(score.mean()), "irs": float(np.maximum((score - chance) / (1 - chance), 0).mean())}


def _aligned(codes: Floats, classes: IntArray) -> dict[str, float]:
    """Mean correlation of each label with the column aligned to it, of values and of ranks."""
    found = {}
    for name, columns in (("mcc", codes), ("mcc_rank", rankdata(codes, axis=0))):
        table = np.corrcoef(columns.T, classes.T)[: codes.shape[1], codes.shape[1] :] ** 2
        table = np.sqrt(np.maximum(1 - (1 - table) * (len(codes) - 1) / (len(codes) - 2), 0))
        found[name] = float(table[linear_sum_assignment(table, maximize=True)].mean())
    return found


def _area_gap(codes: Floats, classes: IntArray) -> float:
    """Mean gap in ROC area between the two columns that separate a label best."""
    ranks, n = rankdata(codes, axis=0), classes.sum(0)
    found = (ranks.T @ classes - n * (n + 1) / 2) / (n * (len(codes) - n))
    first, second = _two_largest(np.maximum(found, 1 - found), 0)
    return float((first - second).mean())


def _spread(values: Floats) -> float:
    return float(np.quantile(np.abs(values - np.median(values)), 0.99))


@lru_cache(maxsize=256)
def simulated(distribution: CodeDistribution, bins: int) -> Mapping[str, float]:
    """Mean scores over ``REPEATS`` samples, by name."""
    found: dict[str, list[float]] = {}
    for repeat in range(REPEATS):
        codes, classes = distribution.sample(repeat)
        scores = _scores(_counts(codes, classes, bins), classes)
        univariate = _univariate_scores(codes, classes)
        first, second = _two_largest(univariate, 0)
        own = np.diag(univariate)
        scores |= {"sap": float((first - second).mean()), "snc": float(own.mean())}
        scores |= {"snc_raw": float((own.mean() + 1) / 2)}
        scores |= _aligned(codes, classes) | {"tad": _area_gap(codes, classes)}
        scores |= _irs(codes, classes, numpy_stream(repeat, "laws/irs"))
        for name, score in scores.items():
            found.setdefault(name, []).append(score)
    return {name: round(float(np.mean(scores)), DIGITS) for name, scores in found.items()}


@lru_cache(maxsize=32)
def probe_scores(distribution: CodeDistribution, budget: int) -> Mapping[str, float]:
    """Explicitness, accuracy and R2 of probes of the whole code, trained on ``budget`` labels (0 = all)."""
    found: dict[str, list[float]] = {"infoe": [], "downstream": [], "r2_linear": [], "r2_nonlinear": []}
    for repeat in range(REPEATS if budget == 0 else FEW_LABELS):
        codes, classes = distribution.sample(repeat)
        # the labels are in the order of the images, so each repeat trains on other rows
        order = numpy_stream(repeat, "laws/read").permutation(len(codes))
        codes, classes = codes[order], classes[order]
        points = (codes - codes.mean(0)) / codes.std(0)
        cut = round(len(codes) * TRAINED)
        inside = slice(0, budget or cut)
        shares, right, linear, boosted = [], [], [], []
        for label in classes.T:
            prior = label[inside].mean()
            if prior in (0, 1):
                continue
            probe = LogisticRegression(max_iter=500).fit(points[inside], label[inside])
            probability = probe.predict_proba(points[cut:])[:, 1]
            truth = label[cut:]
            loss = -np.log(np.where(truth == 1, probability, 1 - probability)).mean()
            shares.append(1 - loss / -np.log(np.where(truth == 1, prior, 1 - prior)).mean())
            right.append(np.mean((probability > 0.5) == truth))
            if budget == 0:
                trees = HistGradientBoostingClassifier(
                    max_iter=30, max_leaf_nodes=8, learning_rate=0.2, early_stopping=False
                )
                line = LinearRegression().fit(points[inside], label[inside]).predict(points[cut:])
                curve = trees.fit(points[inside], label[inside]).predict_proba(points[cut:])[:, 1]
                spread = ((truth - prior) ** 2).sum()
                linear.append(1 - ((truth - line) ** 2).sum() / spread)
                boosted.append(1 - ((truth - curve) ** 2).sum() / spread)
        found["infoe"].append(float(np.mean(shares)))
        found["downstream"].append(float(np.mean(right)))
        found["r2_linear"].append(float(np.mean(linear)) if linear else math.nan)
        found["r2_nonlinear"].append(float(np.mean(boosted)) if boosted else math.nan)
    return {name: round(float(np.mean(scores)), DIGITS) for name, scores in found.items()}


def code_distribution(case: Case, position: int = 0, *, informative: bool = True) -> CodeDistribution:
    """Distribution of the codes at one position along the perturbation."""
    names, subject = case.cells[0].characteristics, case.subject
    classes = np.stack([subject.classes(name).numpy() for name in names], axis=1).astype(np.int64)
    degrees = case.strengths[position] if case.cells[0].perturbation.name == "mix" else 0.0
    return CodeDistribution(classes.tobytes(), len(names), subject.layout.dim, float(degrees), informative)


def _bins(case: Case) -> int:
    asked: int = getattr(case.metric, "bins", 20)
    return min(asked, max(len(case.subject) // 50, 2))


def _simulated_curve(case: Case) -> Floats:
    """Simulated at every angle."""
    return np.array([simulated(code_distribution(case, k), _bins(case))[case.value] for k in range(len(case.cells))])


def _simulated_ends(case: Case) -> Floats:
    """Simulated with codes of their labels, and with codes of permuted labels."""
    ends = (code_distribution(case, informative=informative) for informative in (True, False))
    return case.ends(*(simulated(distribution, _bins(case))[case.value] for distribution in ends))


def _probe_ends(case: Case) -> Floats:
    budget = int(case.row_key("labels") or 0)
    if budget > round(len(case.subject) * TRAINED):
        return case.ends(math.nan, math.nan)
    ends = (code_distribution(case, informative=informative) for informative in (True, False))
    return case.ends(*(probe_scores(distribution, budget)[case.value] for distribution in ends))


def _halves(case: Case) -> Floats:
    r"""Two equal importances among K factors, :math:`1 - \log 2 / \log K`, or among D latent dimensions."""
    among = code_distribution(case).columns if case.value == "dci_completeness" else code_distribution(case).count
    return case.ends(1.0, 1 - math.log(2) / math.log(among))


def _shares(case: Case) -> Floats:
    """Share of the images with each label."""
    return np.array([float((case.subject.classes(n) == 1).double().mean()) for n in case.cells[0].characteristics])


def _knockout_ends(case: Case) -> Floats:
    """Accuracy lost without the label's own dimension, while its style dimension encodes the rest."""
    sin, cos = (f(np.radians(case.strengths)) for f in (np.sin, np.cos))
    apart = 2 * MEAN * sin / np.sqrt((SPREAD * sin) ** 2 + cos**2)
    lost = 2 * (1 - ndtr(apart[[0, -1]] / 2))
    return case.ends(*(float(x) / (2 if case.value == "nk_raw" else 1) for x in lost))


def _tree_explicitness(case: Case) -> Floats:
    """Explicitness from the area under the error of decision trees of 1, 2, 4, ... leaves."""
    sizes = 2 ** np.arange(int(math.log2(getattr(case.metric, "leaves", 512))) + 1)
    ends = []
    for position in (0, len(case.cells) - 1):
        areas = []
        for repeat in range(FORESTS):
            codes, classes = code_distribution(case, position).sample(repeat)
            cut = round(len(codes) * TRAINED)
            for label in classes.T:
                errors = [0.5]
                for leaves in sizes[1:]:
                    tree = DecisionTreeClassifier(max_leaf_nodes=int(leaves), class_weight="balanced", random_state=0)
                    predicted = tree.fit(codes[:cut], label[:cut]).predict(codes[cut:])
                    errors.append(float(np.mean([np.mean(predicted[label[cut:] == v] != v) for v in (0, 1)])))
                curve = np.minimum.accumulate(errors)
                area = np.trapezoid(curve - curve[-1]) / (len(sizes) - 1) / (0.5 - curve[-1])
                areas.append(1 - float(area))
        ends.append(float(np.mean(areas)))
    return case.ends(*ends)


def _entropy_end(case: Case) -> Floats:
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
    """Mean mutual information over all pairs of dimensions, on bins of equal mass of 200,000 samples."""
    pairs, rho = _pairs(case)
    bins, count = _bins(case), 2 * pairs
    draws = numpy_stream(0, "laws/pairs").standard_normal((200_000, 2))
    found = []
    for r in rho:
        cells = _cells(np.stack([draws[:, 0], r * draws[:, 0] + math.sqrt(1 - r**2) * draws[:, 1]], 1), bins)
        table = np.bincount(cells[:, 0] * bins + cells[:, 1], minlength=bins**2) / len(cells)
        # minus the bias of binning under independence
        mutual = math.log(bins) * 2 + float((table[table > 0] * np.log(table[table > 0])).sum())
        found.append((mutual - (bins - 1) ** 2 / (2 * len(cells))) * 2 * pairs / (count * (count - 1)))
    return np.maximum(found, 0.0)


COUNTED = ("mig", "dmig", "mig_sup", "dcimig", "jemmig", "modularity", "infom", "infoc", "sap", "snc", "snc_raw",
           "mcc", "mcc_rank", "tad")  # fmt: skip
SHUFFLED = ("mig", "dmig", "dcimig", "jemmig", "sap", "snc", "snc_raw", "mcc", "mcc_rank")


def _ends_at(first: float) -> Callable[[Case], Floats]:
    return lambda case: case.ends(first, case.chance())


_EXPECTED: dict[tuple[str, str], ExpectedValues] = {
    **{(value, "mix"): _simulated_curve for value in (*COUNTED, "irs", "irs_raw")},
    **{(value, "shuffle"): _simulated_ends for value in SHUFFLED},
    **{(value, "shuffle"): _probe_ends for value in ("infoe", "downstream", "r2_linear", "r2_nonlinear")},
    ("captured", "shuffle"): lambda case: case.ends(len(case.cells[0].characteristics), 0.0),
    **{(value, "mix"): _halves for value in ("dci_disentanglement", "dci_completeness")},
    **{(value, "seep"): _knockout_ends for value in ("nk", "nk_raw")},
    ("dci_informativeness", "shuffle"): _ends_at(1.0),
    ("explicitness", "shuffle"): _ends_at(1.0),
    ("dci_explicitness", "mix"): _tree_explicitness,
    ("rmig", "mix"): _entropy_end,
    ("rmig", "shuffle"): _entropy_end,
    ("gaussian_total_correlation", "correlate"): _total_correlation,
    ("gaussian_wasserstein_correlation", "correlate"): _wasserstein,
    ("gaussian_wasserstein_correlation_norm", "correlate"): _wasserstein,
    ("mutual_info_score", "correlate"): _pair_information,
}
PANEL: Mapping[tuple[str, str, str], ExpectedValues] = {
    ("disentanglement", *key): curve for key, curve in _EXPECTED.items()
}
"""By (metric, value, perturbation)."""
