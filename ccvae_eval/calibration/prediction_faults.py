"""Perturbed models with a fault in their predictions of labels; codes and images are those of the oracle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from ccvae_eval.calibration.code_faults import PerturbedModel, class_frequencies
from ccvae_eval.calibration.reference_images import ReferenceImages
from ccvae_eval.core.random_streams import uniforms
from ccvae_eval.core.types import Codes, Floats, Gaussian, Images

CERTAIN_LOG_ODDS = 20.0
"""Log-odds of a certain prediction."""


class Mislabelled(PerturbedModel):
    r"""Predicts a random wrong class with certainty for a share of the images; ``accuracy`` must fall to 1/K.

    Args:
        references: the reference images, with the oracle.
        strength: t from 0 (always right) to 1 (a random class): a share :math:`t (1 - 1/K)` is wrong.
        seed: seed of the random numbers of each (label, image).
    """

    def __init__(self, references: ReferenceImages, strength: float, seed: int = 0) -> None:
        super().__init__(references.oracle)
        self.references, self.strength, self.seed = references, strength, seed

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        del images
        scene = self.references.scene(codes)
        found: dict[str, Tensor | Gaussian] = {}
        for label in self.labels:
            block, k = self.references.block(label.name), label.cardinality
            draw = uniforms(self.seed, f"mislabel/{label.name}", self.references.original_ids(scene), 2)
            wrong = draw[:, 0] < self.strength * (1 - 1 / k)
            step = 1 + np.minimum((draw[:, 1] * (k - 1)).astype(np.int64), k - 2)
            predicted = np.where(wrong, (scene.classes[:, block.place] + step) % k, scene.classes[:, block.place])
            odds = torch.full((len(scene), k), -CERTAIN_LOG_ODDS)
            odds[torch.arange(len(scene)), torch.from_numpy(predicted)] = 0.0
            found[label.name] = torch.log_softmax(odds, 1).to(codes.device)
        return found


class Tempered(PerturbedModel):
    r"""Predicts labels from a noisy observation with overconfident probabilities; ``calibration_error`` must rise.

    It observes :math:`o_k = [y = k] + n_k` with standard normal noise and multiplies the log-probabilities of Bayes'
    rule, with the labels' frequencies as prior, by T: calibrated at T = 1. (The oracle itself is certain and right, so
    that it cannot be overconfident.)

    Args:
        references: the reference images, with the oracle.
        temperature: T, the factor of the log-probabilities.
        seed: seed of the noise of each (label, image).
    """

    def __init__(self, references: ReferenceImages, temperature: float, seed: int = 0) -> None:
        super().__init__(references.oracle)
        self.references, self.temperature, self.seed = references, temperature, seed

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        del images
        scene = self.references.scene(codes)
        found: dict[str, Tensor | Gaussian] = {}
        for label in self.labels:
            place, k = self.references.block(label.name).place, label.cardinality
            noise = ndtri(uniforms(self.seed, f"temper/{label.name}", self.references.original_ids(scene), k))
            shares = class_frequencies(self.references.classes[:, place], k)
            log_p = torch.from_numpy(self.temperature * noisy_log_posterior(scene.classes[:, place], noise, shares))
            found[label.name] = torch.log_softmax(log_p, 1).to(codes.device)
        return found


def noisy_log_posterior(classes: np.ndarray[tuple[int], np.dtype[np.int64]], noise: Floats, shares: Floats) -> Floats:
    r"""Log-probabilities of the classes given one noisy observation, up to a constant, shape (N, K).

    .. math:: \log p(y = k | o) = o_k + \log \pi_k + const
    """
    observed = (classes[:, None] == np.arange(noise.shape[1])) + noise
    return np.asarray(observed + np.log(np.maximum(shares, 1e-12)))
