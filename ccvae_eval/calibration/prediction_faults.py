"""Perturbed models with a fault in their predictions of labels; codes and images are those of the oracle."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from ccvae_eval.calibration.code_faults import PerturbedModel, class_frequencies
from ccvae_eval.calibration.reference_images import ReferenceImages
from ccvae_eval.core.random_streams import uniforms
from ccvae_eval.core.types import Codes, Floats, Gaussian, Ids, Images
from ccvae_eval.model.interface import Label

CERTAIN_LOG_ODDS = 20.0
"""Log-odds of a certain prediction."""


class PerturbedPredictions(PerturbedModel):
    """The oracle with perturbed predictions.

    Args:
        references: the reference images, with the oracle.
        strength: strength of the perturbation.
        seed: seed of the random numbers of each (label, image).
    """

    def __init__(self, references: ReferenceImages, strength: float, seed: int = 0) -> None:
        super().__init__(references.oracle)
        self.references, self.strength, self.seed = references, strength, seed

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        del images
        scene, found = self.references.scene(codes), {}
        for label in self.labels:
            classes = scene.classes[:, self.references.block(label.name).place]
            odds = self.log_odds(label, classes, self.references.original_ids(scene))
            found[label.name] = torch.log_softmax(torch.from_numpy(odds), 1).to(codes.device)
        return found

    @abstractmethod
    def log_odds(self, label: Label, classes: NDArray[np.int64], ids: Ids) -> NDArray[np.floating]:
        """Log-probabilities of the classes of one label up to a constant, shape (N, K), from the true classes."""


class Mislabelled(PerturbedPredictions):
    r"""Predicts a random wrong class with certainty for a share of the images; ``accuracy`` must fall to 1/K.

    Its strength t runs from 0 (always right) to 1 (a random class): a share :math:`t (1 - 1/K)` is wrong.
    """

    def log_odds(self, label: Label, classes: NDArray[np.int64], ids: Ids) -> NDArray[np.floating]:
        k, draw = label.cardinality, uniforms(self.seed, f"mislabel/{label.name}", ids, 2)
        wrong = draw[:, 0] < self.strength * (1 - 1 / k)
        step = 1 + np.minimum((draw[:, 1] * (k - 1)).astype(np.int64), k - 2)
        predicted = np.where(wrong, (classes + step) % k, classes)
        return np.where(predicted[:, None] == np.arange(k), 0.0, -CERTAIN_LOG_ODDS).astype(np.float32)


class Tempered(PerturbedPredictions):
    r"""Predicts labels from a noisy observation with overconfident probabilities; ``calibration_error`` must rise.

    It observes :math:`o_k = [y = k] + n_k` with standard normal noise and multiplies the log-probabilities of Bayes'
    rule, with the labels' frequencies as prior, by its strength T: calibrated at T = 1. (The oracle itself is certain
    and right, so that it cannot be overconfident.)
    """

    def log_odds(self, label: Label, classes: NDArray[np.int64], ids: Ids) -> NDArray[np.floating]:
        noise = ndtri(uniforms(self.seed, f"temper/{label.name}", ids, label.cardinality))
        labels = self.references.classes[:, self.references.block(label.name).place]
        shares = class_frequencies(labels, label.cardinality)
        return self.strength * noisy_log_posterior(classes, noise, shares)


def noisy_log_posterior(classes: NDArray[np.int64], noise: Floats, shares: Floats) -> Floats:
    r"""Log-probabilities of the classes given one noisy observation, up to a constant, shape (N, K).

    .. math:: \log p(y = k | o) = o_k + \log \pi_k + const
    """
    observed = (classes[:, None] == np.arange(noise.shape[1])) + noise
    return np.asarray(observed + np.log(np.maximum(shares, 1e-12)))
