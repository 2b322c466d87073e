"""Expected values of reconstruction: errors and likelihoods of faded images, and KL of shifted priors.

SSIM is kornia's, densities are SciPy's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from kornia.metrics import ssim
from scipy.special import logsumexp
from scipy.stats import norm

from ccvae_eval.calibration.reference_images import ReferenceImages
from ccvae_eval.calibration.study_cells import Case
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats, Images
from ccvae_eval.oracle.model import DEVIATION
from ccvae_eval.statistics.ratios import class_frequencies
from study.expected.edited import references_of, with_classes
from study.expected.known import ExpectedValues

MIN_ERROR = (1 / 255) ** 2 / 12
MIN_LOG = -100.0
REPEATS = 3
"""Samples of the noise behind the expectations of sampled values."""


def _log_likelihood(images: Images, means: Images) -> Floats:
    """Bernoulli log-likelihood of each image, shape (N,)."""
    x, m = images.double().numpy(), means.double().numpy()
    with np.errstate(divide="ignore"):
        bright, dark = (np.maximum(np.log(part), MIN_LOG) for part in (m, 1 - m))
    return np.asarray((x * bright + (1 - x) * dark).reshape(len(x), -1).sum(1), dtype=np.float64)


def _fade_errors(case: Case) -> Floats:
    """The value for the originals and their faded images."""
    x, mean = with_classes(case), references_of(case).mean_image
    found = []
    for share in case.positions:
        faded = x.lerp(mean, float(share))
        if case.value == "ssim":
            window = getattr(case.metric, "window", 11)
            found.append(float(ssim(x, faded, window).double().mean()))
        elif case.value == "reconstruction":
            found.append(-float(_log_likelihood(x, faded).mean()))
        else:
            errors = (float(share) ** 2) * (x - mean).double().square().flatten(1).mean(1).numpy()
            decibels = -10 * np.log10(np.maximum(errors, MIN_ERROR))
            found.append(float((errors if case.value == "mse" else decibels).mean()))
    return np.array(found)


@lru_cache(maxsize=4)
def _block_priors(
    references: ReferenceImages, names: tuple[str, ...]
) -> list[tuple[list[int], Floats, Floats, Floats]]:
    """Latent dimensions, class means and deviations of p(z_c|y), and p(y), of each characteristic."""
    found = []
    for name in names:
        block = references.block(name)
        shares = class_frequencies(references.classes[:, block.place], block.label.cardinality)
        means = np.concatenate([block.means(), np.zeros((len(shares), len(block.variety)))], axis=1)
        spread = np.concatenate([np.full(len(block.shown), DEVIATION), np.ones(len(block.variety))])
        found.append((list(block.columns), means, spread, shares))
    return found


def _log_prior(case: Case, codes: Floats, shift: float = 0.0) -> Floats:
    """log p(z), with each p(z_c|y) shifted by a number of its deviations."""
    blocks = _block_priors(references_of(case), tuple(case.subject.model.layout.characteristics))
    taken = [column for columns, *_ in blocks for column in columns]
    total: Floats = np.asarray(norm.logpdf(np.delete(codes, taken, axis=1))).sum(1)
    for columns, means, spread, shares in blocks:
        parts = [
            np.log(max(share, 1e-300))
            + np.asarray(norm.logpdf(codes[:, columns], mean + shift * spread, spread)).sum(1)
            for mean, share in zip(means, shares, strict=True)
        ]
        total = total + logsumexp(parts, axis=0)
    return np.asarray(total)


def _samples(case: Case, draw: int) -> tuple[Floats, Floats]:
    """Samples of q(z|x), and log q of each."""
    posterior = case.subject.posterior
    loc, scale = posterior.loc.double().numpy(), posterior.scale.double().numpy()
    codes = loc + scale * numpy_stream(draw, "edited/posterior").standard_normal(loc.shape)
    return codes, np.asarray(norm.logpdf(codes, loc, scale)).sum(1)


def _kl(case: Case) -> Floats:
    """Mean of log q - log p over samples of q."""
    found = []
    for shift in case.strengths:
        parts = []
        for draw in range(20):
            codes, log_q = _samples(case, draw)
            parts.append(float((log_q - _log_prior(case, codes, float(shift))).mean()))
        found.append(float(np.mean(parts)))
    return np.array(found)


def _bound_ends(case: Case) -> Floats:
    """log mean of p(x|z) p(z)/q(z|x) over K new samples; at the end with the mean image in place of the decoded one."""
    references, subject = references_of(case), case.subject
    size = getattr(case.metric, "importance", 1) if case.value == "iwae" else 1
    x, mean = with_classes(case), references.mean_image
    faded = _log_likelihood(x, mean.expand_as(x))
    ends: list[list[Floats]] = [[], []]
    for repeat in range(REPEATS):
        weights: list[list[Floats]] = [[], []]
        for k in range(size):
            codes, log_q = _samples(case, 1000 + repeat * size + k)
            # decoders receive float32 codes
            z = torch.from_numpy(codes).to(subject.posterior.loc.dtype)
            shown = references.draw(references.coding.factors(z), references.coding.classes(z))
            ratio = _log_prior(case, codes) - log_q
            for found, log_p in zip(weights, (_log_likelihood(x, shown), faded), strict=True):
                found.append(log_p + ratio)
        for found, parts in zip(ends, weights, strict=True):
            found.append(logsumexp(parts, axis=0) - math.log(size))
    return case.ends(*(float(np.mean(found)) for found in ends))


REBUILT: Mapping[tuple[str, str, str], ExpectedValues] = {
    **{("reconstruction", value, "fade"): _fade_errors for value in ("mse", "psnr", "ssim", "reconstruction")},
    **{("reconstruction", value, "fade"): _bound_ends for value in ("elbo", "iwae")},
    ("reconstruction", "kl", "shift"): _kl,
}
"""By (metric, value, perturbation)."""
