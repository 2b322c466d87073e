"""How far drawn looks of a characteristic lie apart in features, in deviations of real images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.metrics.features import Features, extractor_named
from ccvae_eval.subject import Subject
from ccvae_eval.types import Bools, Floats, Images

REAL_IMAGES = 256
"""Real images, from the first, whose deviations are the unit."""

STILL = 1e-6
"""A feature that deviates less over the real images says nothing."""


class FeatureSpread:
    r"""The root mean squared difference of two draws in features, each in deviations of real images.

    .. math:: \sqrt{\frac{2}{F} \sum_f \operatorname{var}_s f(x_s) / \sigma_f^2}

    over the F features that vary among real images. Inside a region: all pixels outside it are taken from the
    reconstruction, so that what differs lies inside.

    Args:
        name: of the features.
        subject: whose images are the real ones.
    """

    def __init__(self, name: str, subject: Subject) -> None:
        self.name = name
        self.extractor: Features = extractor_named(name, subject)
        parts = []
        for chunk in subject.chunks():
            if chunk.rows.start >= REAL_IMAGES:
                break
            parts.append(self._features(chunk.images))
        deviation = torch.cat(parts).std(0, correction=0)
        self.varies = deviation > STILL
        self.scale = deviation[self.varies]

    def _features(self, images: Images) -> Tensor:
        with torch.no_grad():
            return self.extractor.features(images).double().cpu()

    def of(self, draws: Sequence[Images], reconstruction: Images | None = None, region: Bools | None = None) -> Floats:
        """One number for each image, shape (n,); NaN where the region is empty or no feature varies.

        Args:
            draws: S images of each row, each of shape (n, C, H, W).
            reconstruction, region: to look inside the region only, shape (n, H W).
        """
        count = len(draws[0])
        if not len(self.scale):
            return np.full(count, np.nan)
        images = list(draws)
        applies: Bools = np.ones(count, bool)
        if region is not None:
            assert reconstruction is not None
            mask = torch.from_numpy(region).reshape(count, 1, *draws[0].shape[2:]).to(reconstruction.device)
            images = [torch.where(mask, x, reconstruction) for x in draws]
            applies = np.asarray(region.any(1))
        found = torch.stack([self._features(x)[:, self.varies] / self.scale for x in images])
        spread = (2 * found.var(0, correction=1).mean(1)).sqrt().numpy()
        return np.where(applies, spread, np.nan)
