"""Saboteurs of what the oracle says of its labels; its codes and pictures stay as they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from ccvae_eval.calibration.code_faults import PerturbedModel, class_shares
from ccvae_eval.calibration.reference_images import ReferenceImages
from ccvae_eval.core.random_streams import uniforms
from ccvae_eval.core.types import Codes, Floats, Gaussian, Images

SURE = 20.0
"""The log-odds of a prediction that leaves no doubt."""


class Mislabelled(PerturbedModel):
    r"""Names a wrong class, drawn at random, for a share of the images; sure of itself in every case.

    Args:
        originals: the images, with the oracle.
        dose: from 0 (always right) to 1 (a class at random): a share :math:`t (1 - 1/K)` is wrong.
        seed: of the draws, which belong to (label, image).
    """

    def __init__(self, originals: ReferenceImages, dose: float, seed: int = 0) -> None:
        super().__init__(originals.oracle)
        self.originals, self.dose, self.seed = originals, dose, seed

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        del images
        scene = self.originals.scene(codes)
        found: dict[str, Tensor | Gaussian] = {}
        for label in self.labels:
            block, k = self.originals.block(label.name), label.cardinality
            draw = uniforms(self.seed, f"mislabel/{label.name}", self.originals.keys(scene), 2)
            wrong = draw[:, 0] < self.dose * (1 - 1 / k)
            step = 1 + np.minimum((draw[:, 1] * (k - 1)).astype(np.int64), k - 2)
            said = np.where(wrong, (scene.classes[:, block.place] + step) % k, scene.classes[:, block.place])
            odds = torch.full((len(scene), k), -SURE)
            odds[torch.arange(len(scene)), torch.from_numpy(said)] = 0.0
            found[label.name] = torch.log_softmax(odds, 1).to(codes.device)
        return found


class Tempered(PerturbedModel):
    r"""Sees its labels through a haze, and overstates what it has seen.

    It observes :math:`o_k = [y = k] + n_k`, n standard normal and belonging to the image, and says what Bayes' rule
    says, with the labels' frequencies as prior, its log-probabilities multiplied by T: honest at T = 1, certain in
    the end. (The oracle itself is always right and always sure: with it only doubt could be overstated.)

    Args:
        originals: the images, with the oracle.
        temperature: T.
        seed: of the haze.
    """

    def __init__(self, originals: ReferenceImages, temperature: float, seed: int = 0) -> None:
        super().__init__(originals.oracle)
        self.originals, self.temperature, self.seed = originals, temperature, seed

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        del images
        scene = self.originals.scene(codes)
        found: dict[str, Tensor | Gaussian] = {}
        for label in self.labels:
            place, k = self.originals.block(label.name).place, label.cardinality
            noise = ndtri(uniforms(self.seed, f"temper/{label.name}", self.originals.keys(scene), k))
            shares = class_shares(self.originals.classes[:, place], k)
            told = torch.from_numpy(self.temperature * hazy(scene.classes[:, place], noise, shares))
            found[label.name] = torch.log_softmax(told, 1).to(codes.device)
        return found


def hazy(classes: np.ndarray[tuple[int], np.dtype[np.int64]], noise: Floats, shares: Floats) -> Floats:
    r"""Logarithms of the classes' probabilities after one observation, up to a constant, shape (N, K).

    .. math:: \log p(y = k | o) = o_k + \log \pi_k + const
    """
    seen = (classes[:, None] == np.arange(noise.shape[1])) + noise
    return np.asarray(seen + np.log(np.maximum(shares, 1e-12)))
