"""The predictors of factors from codes that DCI fits, and their permutation and gain importances."""

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

TREES, MIN_LEAF_ROWS, MAX_LEAVES = 10, 5, 500
"""Number of trees of a forest, and bounds on the size and number of its leaves."""
LASSO_PENALTY = 0.01
"""alpha of the lasso, on standardised codes and values."""
LOGISTIC_C = 0.1
"""Inverse penalty of the logistic regression with an L1 penalty, the lasso's counterpart for classes."""
SMOOTHING = 0.5
"""Rows with the training frequencies that are added to each leaf, so that no log loss is infinite."""

Make = Callable[[bool, int, int], Any]
"""(discrete, seed, training rows) -> an unfitted scikit-learn model."""


@contextmanager
def without_fit_warnings() -> Iterator[None]:
    """Silences scikit-learn's warnings about convergence and rare classes; the panel's own notes cover them."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The number of unique classes is greater")
        warnings.filterwarnings("ignore", message="The least populated class in y has only")
        yield


def ensemble(name: str, discrete: bool, seed: int, **options: Any) -> Any:
    """An unfitted ensemble of scikit-learn, a classifier or a regressor."""
    from sklearn import ensemble as models

    return getattr(models, f"{name}{'Classifier' if discrete else 'Regressor'}")(random_state=seed, **options)


def _forest(discrete: bool, seed: int, rows: int) -> Any:
    least = max(MIN_LEAF_ROWS, rows // MAX_LEAVES)
    return ensemble("ExtraTrees", discrete, seed, n_estimators=TREES, min_samples_leaf=least, max_features=None)


def _linear(discrete: bool, seed: int, rows: int) -> Any:
    from sklearn.linear_model import Lasso, LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    del rows
    if discrete:
        model = LogisticRegression(C=LOGISTIC_C, l1_ratio=1.0, solver="saga", max_iter=200, tol=1e-3, random_state=seed)
        return make_pipeline(StandardScaler(), model)
    return make_pipeline(StandardScaler(), Lasso(LASSO_PENALTY, random_state=seed))


PREDICTORS: Mapping[str, Make] = MappingProxyType(
    {
        "forest": _forest,
        "boosting": lambda discrete, seed, _: ensemble("HistGradientBoosting", discrete, seed),
        "gradient_boosting": lambda discrete, seed, _: ensemble("GradientBoosting", discrete, seed),
        "linear": _linear,
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class FittedPredictor:
    """A fitted predictor of one factor.

    Args:
        factor: the predicted factor.
        model: the fitted scikit-learn model.
        train: indices of the training rows.
        prior: class frequencies in training, shape (L,); empty for a continuous factor.
        mean, variance: mean and variance of a continuous factor in training; 0 and 1 for a discrete one.
    """

    factor: Factor
    model: Any
    train: Ids
    prior: Floats
    mean: float
    variance: float

    def losses(self, codes: Floats, rows: Ids) -> Floats:
        """Loss of each row: log loss in nats, or squared error over the training variance.

        Args:
            codes: the codes to predict from, shape (n, D): those of the rows, or permuted ones.
            rows: indices of the rows whose factor values are the targets, shape (n,).
        """
        if not self.factor.discrete:
            return np.asarray((self.model.predict(codes) - self.factor.values[rows]) ** 2 / self.variance)
        share = SMOOTHING / (MIN_LEAF_ROWS + SMOOTHING) / TREES
        classes = self.factor.classes[rows]
        smoothed = (1 - share) * self._probability(codes, classes) + share * np.maximum(self.prior[classes], 1e-6)
        return np.asarray(-np.log(smoothed))

    def _probability(self, codes: Floats, classes: Classes) -> Floats:
        """Predicted probability of each row's own class; 0 for a class unseen in training."""
        from sklearn.ensemble import ExtraTreesClassifier

        index = np.full(len(self.prior), -1, dtype=np.int64)
        index[self.model.classes_] = np.arange(len(self.model.classes_))
        column, rows = index[classes], np.arange(len(codes))
        if isinstance(self.model, ExtraTreesClassifier):
            # looks up one class per leaf; predict_proba would compute all of them
            points = codes.astype(np.float32)
            trees = (tree.tree_ for tree in self.model.estimators_)
            found = sum(tree.value[tree.apply(points), 0, column] for tree in trees) / len(self.model.estimators_)
        else:
            found = self.model.predict_proba(codes)[rows, column]
        return np.asarray(np.where(column >= 0, found, 0.0))

    def used_dimensions(self, width: int) -> Bools:
        """True for the latent dimensions that a forest splits on, shape (D,); all True for other predictors."""
        from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

        if not isinstance(self.model, ExtraTreesClassifier | ExtraTreesRegressor):
            return np.ones(width, dtype=bool)
        split_on = np.concatenate([tree.tree_.feature for tree in self.model.estimators_])
        return np.bincount(split_on[split_on >= 0], minlength=width) > 0

    def outcomes(self, codes: Floats, rows: Ids) -> Floats:
        """1 or 0 for a class predicted right or wrong, or the squared error of a continuous factor, shape (n,)."""
        if self.factor.discrete:
            return np.asarray(self.model.predict(codes) == self.factor.classes[rows], dtype=np.float64)
        return np.asarray((self.model.predict(codes) - self.factor.values[rows]) ** 2)


def fit(name: str, codes: Floats, factor: Factor, train: Ids, seed: int) -> FittedPredictor | None:
    """Fits a predictor of one factor on some rows; None for fewer than 10 rows or a factor constant on them."""
    if len(train) < 2 * MIN_LEAF_ROWS:
        return None
    target = factor.classes[train] if factor.discrete else factor.values[train]
    if (target == target[0]).all():
        return None
    model = PREDICTORS[name](factor.discrete, seed, len(train))
    with without_fit_warnings():
        model.fit(codes[train], target if factor.discrete else target.astype(np.float64))
    prior = np.bincount(target, minlength=factor.levels) / len(train) if factor.discrete else np.empty(0)
    mean, variance = (0.0, 1.0) if factor.discrete else (float(target.mean()), float(target.var()))
    return FittedPredictor(factor, model, train, prior, mean, variance)


def gain_importances(fitted: FittedPredictor) -> Floats:
    """The predictor's own importance of each latent dimension, shape (D,): impurity gains or absolute weights.

    Raises:
        UsageError: the predictor has no such importance.
    """
    model = fitted.model[-1] if hasattr(fitted.model, "steps") else fitted.model
    if hasattr(model, "feature_importances_"):
        return np.abs(np.asarray(model.feature_importances_, dtype=np.float64))
    if hasattr(model, "coef_"):
        weights: Floats = np.abs(np.atleast_2d(np.asarray(model.coef_, dtype=np.float64)))
        return np.asarray(weights.sum(axis=0))
    raise UsageError(
        f"{type(model).__name__} has no gain importance",
        where="disentanglement",
        hint="Choose --importance permutation, or another --predictor.",
    )


def loss_increases(
    fitted: FittedPredictor, codes: Floats, rows: Ids, blocks: list[tuple[int, ...]], seed: int, name: str
) -> Floats:
    """Increase of each row's loss when a block is permuted among the rows, shape (n, J)."""
    points = codes[rows]
    before = fitted.losses(points, rows)
    found = np.zeros((len(rows), len(blocks)))
    used = fitted.used_dimensions(codes.shape[1])
    for j, block in enumerate(blocks):
        if not used[list(block)].any():
            continue  # no tree splits on it, so the increase is exactly 0
        order = numpy_stream(seed, "permuted block", f"{name}/{block[0]}").permutation(len(rows))
        permuted = points.copy()
        permuted[:, list(block)] = points[order][:, list(block)]
        found[:, j] = fitted.losses(permuted, rows) - before
    return found


def fit_seed(seed: int, name: str, number: int) -> int:
    """The seed of one fit of one factor."""
    return stream_key(seed, "predictor", f"{name}/{number}") % 2**31
