"""The predictors that DCI is computed with, and how much each row's loss rests on each block of codes.

How predictors are fitted here: what scikit-learn would say about odd tables is said by the panel itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.random_streams import numpy_stream, stream_key
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.metrics.disentanglement.table import Factor
from ccvae_eval.statistics.information import Classes


@contextmanager
def without_fit_warnings() -> Iterator[None]:
    """No warnings about steps that did not suffice, or about many classes on few rows."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The number of unique classes is greater")
        warnings.filterwarnings("ignore", message="The least populated class in y has only")
        yield


TREES, LEAST_LEAF, LEAVES = 10, 5, 500
"""Trees of the forest, rows that a leaf must have, and leaves that a tree has at most where rows abound."""
PENALTY = 0.01
"""Of the lasso, on standardised codes and values."""
STRENGTH = 0.1
"""C of the logistic regression with an L1 penalty, the lasso for classes."""
SMOOTHING = 0.5
"""Probabilities are mixed with the training frequencies as if half a row of them had been in each leaf."""

Make = Callable[[bool, int, int], Any]


def _forest(discrete: bool, seed: int, rows: int) -> Any:
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    kind = ExtraTreesClassifier if discrete else ExtraTreesRegressor
    return kind(TREES, min_samples_leaf=max(LEAST_LEAF, rows // LEAVES), max_features=None, random_state=seed)


def _boosting(discrete: bool, seed: int, rows: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    del rows
    kind = HistGradientBoostingClassifier if discrete else HistGradientBoostingRegressor
    return kind(random_state=seed)


def _gradient_boosting(discrete: bool, seed: int, rows: int) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    del rows
    return (GradientBoostingClassifier if discrete else GradientBoostingRegressor)(random_state=seed)


def _linear(discrete: bool, seed: int, rows: int) -> Any:
    from sklearn.linear_model import Lasso, LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    del rows
    if discrete:
        model = LogisticRegression(C=STRENGTH, l1_ratio=1.0, solver="saga", max_iter=200, tol=1e-3, random_state=seed)
        return make_pipeline(StandardScaler(), model)
    return make_pipeline(StandardScaler(), Lasso(PENALTY, random_state=seed))


PREDICTORS: Mapping[str, Make] = MappingProxyType(
    {"forest": _forest, "boosting": _boosting, "gradient_boosting": _gradient_boosting, "linear": _linear}
)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """One predictor of one factor.

    Args:
        factor: whose.
        model: fitted.
        inside: the training rows.
        prior: frequencies of the classes in training; empty for numbers.
        mean, variance: of the numbers in training.
    """

    factor: Factor
    model: Any
    inside: Ids
    prior: Floats
    mean: float
    variance: float

    def losses(self, codes: Floats, rows: Ids) -> Floats:
        """Log loss, or squared error over the variance, of each row; ``codes`` are those rows' own or changed ones."""
        if not self.factor.discrete:
            return np.asarray((self.model.predict(codes) - self.factor.values[rows]) ** 2 / self.variance)
        share = SMOOTHING / (LEAST_LEAF + SMOOTHING) / TREES
        classes = self.factor.classes[rows]
        mixed = (1 - share) * self._probability(codes, classes) + share * np.maximum(self.prior[classes], 1e-6)
        return np.asarray(-np.log(mixed))

    def _probability(self, codes: Floats, classes: Classes) -> Floats:
        """Of the class that each row has; 0 for one that was never seen."""
        from sklearn.ensemble import ExtraTreesClassifier

        place = np.full(len(self.prior), -1, dtype=np.int64)
        place[self.model.classes_] = np.arange(len(self.model.classes_))
        at, rows = place[classes], np.arange(len(codes))
        if isinstance(self.model, ExtraTreesClassifier):
            # of a forest's leaves one class is looked up; predict_proba would fill in all of them, 3 times as slow
            points = codes.astype(np.float32)
            trees = (tree.tree_ for tree in self.model.estimators_)
            found = sum(tree.value[tree.apply(points), 0, at] for tree in trees) / len(self.model.estimators_)
        else:
            found = self.model.predict_proba(codes)[rows, at]
        return np.asarray(np.where(at >= 0, found, 0.0))

    def columns(self, width: int) -> Bools:
        """Which columns the predictor can rest on, shape (D,): those that a forest asks for; else all."""
        from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

        if not isinstance(self.model, ExtraTreesClassifier | ExtraTreesRegressor):
            return np.ones(width, dtype=bool)
        asked = np.concatenate([tree.tree_.feature for tree in self.model.estimators_])
        return np.bincount(asked[asked >= 0], minlength=width) > 0

    def right(self, codes: Floats, rows: Ids) -> Floats:
        """Whether each row's class is told; of a number what is explained of the squared distance from the mean."""
        if self.factor.discrete:
            return np.asarray(self.model.predict(codes) == self.factor.classes[rows], dtype=np.float64)
        return np.asarray((self.model.predict(codes) - self.factor.values[rows]) ** 2)


def fit(name: str, codes: Floats, factor: Factor, inside: Ids, seed: int) -> Fit | None:
    """A predictor of one factor from codes, fitted on some rows; None where they hold one class or number."""
    if len(inside) < 2 * LEAST_LEAF:
        return None
    wanted = factor.classes[inside] if factor.discrete else factor.values[inside]
    if (wanted == wanted[0]).all():
        return None
    model = PREDICTORS[name](factor.discrete, seed, len(inside))
    target = wanted if factor.discrete else wanted.astype(np.float64)
    with without_fit_warnings():
        model.fit(codes[inside], target)
    prior = np.bincount(wanted, minlength=factor.levels) / len(inside) if factor.discrete else np.empty(0)
    mean, variance = (0.0, 1.0) if factor.discrete else (float(wanted.mean()), float(wanted.var()))
    return Fit(factor, model, inside, prior, mean, variance)


def gains(fitted: Fit) -> Floats:
    """How much the predictor itself says it rests on each column, shape (D,): impurity gains, or sizes of weights.

    Raises:
        UsageError: for a predictor that does not say.
    """
    model = fitted.model[-1] if hasattr(fitted.model, "steps") else fitted.model
    if hasattr(model, "feature_importances_"):
        return np.abs(np.asarray(model.feature_importances_, dtype=np.float64))
    if hasattr(model, "coef_"):
        weights: Floats = np.abs(np.atleast_2d(np.asarray(model.coef_, dtype=np.float64)))
        return np.asarray(weights.sum(axis=0))
    raise UsageError(
        f"{type(model).__name__} does not say what it rests on",
        where="disentanglement",
        hint="--importance permutation, or another --predictor.",
    )


def knocked(fitted: Fit, codes: Floats, rows: Ids, blocks: list[tuple[int, ...]], seed: int, name: str) -> Floats:
    """How much the loss of each row grows when a block's codes are another row's, shape (rows, blocks)."""
    points = codes[rows]
    before = fitted.losses(points, rows)
    found = np.zeros((len(rows), len(blocks)))
    used = fitted.columns(codes.shape[1])
    for j, block in enumerate(blocks):
        if not used[list(block)].any():
            continue  # what no tree asks for changes nothing: of 10,000 columns most
        order = numpy_stream(seed, "permuted block", f"{name}/{block[0]}").permutation(len(rows))
        changed = points.copy()
        changed[:, list(block)] = points[order][:, list(block)]
        found[:, j] = fitted.losses(changed, rows) - before
    return found


def fit_seed(seed: int, name: str, number: int) -> int:
    """The seed of one fit of one factor."""
    return stream_key(seed, "predictor", f"{name}/{number}") % 2**31
