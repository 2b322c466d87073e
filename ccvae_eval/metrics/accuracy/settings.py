"""Settings, values and presentation of the metric ``accuracy``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ccvae_eval.core.results import ValueSpec
from ccvae_eval.core.typed import check
from ccvae_eval.evaluation.metric import LAWS, Accumulator, Needs

if TYPE_CHECKING:
    from ccvae_eval.evaluation.subject import Subject


@dataclass(frozen=True, slots=True)
class Accuracy:
    r"""Accuracy and calibration of the model's own label predictions, from the posterior mean or a posterior sample.

    With classes, p the predicted probabilities and the prediction their argmax:

    - ``accuracy`` = share of images predicted correctly (Wilson's confidence interval); ``majority`` = accuracy of
      always predicting the most frequent class of the *training* labels;
    - ``balanced_accuracy`` = mean over the classes of the share of their images that is predicted correctly: 1/K for a
      constant or random prediction, whatever the class frequencies;
    - ``auc`` = probability that a present image has a higher predicted probability than an absent one; categorical
      labels: one-vs-rest, averaged over the classes;
    - ``brier`` = mean of sum_k (p_k - [y = k])^2 / 2, for two classes (p - y)^2; its chance level is the score of the
      training frequencies used as probabilities;
    - ``calibration_error`` = mean over 15 bins of equal mass of |frequency - probability|, with the contribution of
      noise subtracted: of "present" for binary labels; of the predicted class being correct for categorical ones. May
      be slightly negative. Its reference is the expected value for calibrated probabilities at this number of images,
      which is slightly above 0.

    For a continuous label: ``r2`` = 1 - sum (y - m)^2 / sum (y - mean y)^2 of the predicted mean m (chance 0: the mean
    of these images), and ``absolute_error`` (chance: that of their median). ``balanced_accuracy`` is that of the side
    of the median on which m lies, and ``auc`` that of m for the images above the median.

    If the model cannot predict but has latent dimensions for its labels, including assigned ones, a linear probe
    predicts instead: a logistic regression (continuous: a ridge regression) on the characteristic's latent dimensions,
    fitted to the other four fifths of the images. Such rows are noted "linear probe"; they favour a model over one that
    must predict by itself.

    Range: 0 to 1; -1 to 1 for calibration_error, at most 1 for r2, 0 and up for absolute_error.
    Direction: higher is better; lower for brier, calibration_error and absolute_error. With fewer than ``least`` images
    of a class, balanced_accuracy and auc are undefined. Missing labels are skipped and counted as excluded.
    Chance: 1/K for balanced_accuracy, ``majority`` for accuracy, 0.5 for auc, labels permuted for calibration_error;
    none for majority, which is a chance level itself; for the others, as above.
    Cost: one more pass of the images through the encoder's classifier; no image is decoded.
    Pitfalls: accuracy of a rare label is high for a model that never predicts it: compare ``majority``. A model whose
    encoder takes labels predicts without seeing them; a probe of latent dimensions that were given the labels is marked
    "given" and enters no mean.
    Reference: docs/metrics.md, section 5; Brier 1950; calibration: Kumar, Liang and Ma 2019.

    Args:
        code: code that predictions are based on: the mean of q(z|x), or one sample for each image.
        bins: number of bins of the calibration error.
        least: images that each class needs.
        strength: penalty of the linear probe.
    """

    name: ClassVar[str] = "accuracy"
    version: ClassVar[int] = 2
    headline: ClassVar[str] = "balanced_accuracy"
    reading: ClassVar[str] = (
        "1/K = guessing among K classes, 1 = every class is always recognised.\n"
        "Typical of a CCVAE: 0.65 to 0.95 by label on photographs of faces, 1.00 on synthetic faces."
    )
    undefined: ClassVar[Mapping[str, str]] = {
        "N cannot predict labels and has no latent dimensions for them":
            "give predict= or characteristics= of ccvae_eval.wrap, or a method predict of its class",
    }  # fmt: skip
    default_sample: ClassVar[int] = 2000
    laws: ClassVar[frozenset[str]] = LAWS
    order: ClassVar[int] = 5
    default: ClassVar[bool] = True
    question: ClassVar[str] = "How accurately does the model predict its labels?"
    sentence: ClassVar[str] = "The labels are predicted with a balanced accuracy of {value} (chance {chance})"
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "balanced_accuracy": ValueSpec(
            "share of correct predictions, averaged over the classes", "share", True, (0.0, 1.0), "1/K",
            dials=("mislabel",),
        ),
        "accuracy": ValueSpec(
            "share of images predicted correctly", "share", True, (0.0, 1.0), "most frequent training class",
            dials=("mislabel",),
        ),
        "majority": ValueSpec(
            "accuracy of always predicting the most frequent class of the training labels", "share", None, (0.0, 1.0),
            no_chance="it is the chance level of accuracy",
        ),
        "auc": ValueSpec(
            "ROC area of the predicted probability", "", True, (0.0, 1.0), "labels permuted", dials=("mislabel",),
        ),
        "brier": ValueSpec(
            "Brier score: mean squared error of the predicted probabilities", "", False, (0.0, 1.0),
            "training frequencies", dials=("mislabel",),
        ),
        "calibration_error": ValueSpec(
            "mean absolute difference between predicted probabilities and frequencies", "", False, (-1.0, 1.0),
            "labels permuted", dials=("temper",), reference="calibrated probabilities, at this number of images",
        ),
        "r2": ValueSpec("explained variance of a continuous label", "", True, (None, 1.0), "the mean"),
        "absolute_error": ValueSpec(
            "mean absolute error of a continuous label", "label", False, (0.0, None), "the median",
        ),
    }  # fmt: skip

    code: Literal["mean", "sample"] = "mean"
    bins: int = 15
    least: int = 10
    strength: float = 1.0

    def __post_init__(self) -> None:
        check(self, self.name)

    def needs(self, subject: Subject) -> Needs:
        from ccvae_eval.metrics.accuracy.metric import needs

        return needs(self, subject)

    def start(self, subject: Subject) -> Accumulator:
        from ccvae_eval.metrics.accuracy.metric import AccuracyAccumulator

        return AccuracyAccumulator(self, subject)
