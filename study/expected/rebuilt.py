"""Known values of rebuilt pictures: what fading costs in pixels and nats, and what a code does.

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

from ccvae_eval.calibration.code_faults import class_shares
from ccvae_eval.calibration.reference_images import ReferenceImages
from ccvae_eval.calibration.study_cells import Case
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats, Images
from ccvae_eval.oracle.code import DEVIATION
from study.expected.edited import originals_of, with_classes
from study.expected.known import Known

LEAST_ERROR = (1 / 255) ** 2 / 12
LEAST_LOG = -100.0
REPEATS = 3
"""Fresh noise behind the expectations of sampled values."""


def _nats(images: Images, means: Images) -> Floats:
    """Minus the Bernoulli cross-entropy of each image."""
    x, m = images.double().numpy(), means.double().numpy()
    with np.errstate(divide="ignore"):
        bright, dark = (np.maximum(np.log(part), LEAST_LOG) for part in (m, 1 - m))
    return np.asarray((x * bright + (1 - x) * dark).reshape(len(x), -1).sum(1), dtype=np.float64)


def _rebuilt(case: Case) -> Floats:
    """Of the originals and the same, faded by formula."""
    x, mean = with_classes(case), originals_of(case).mean_image
    found = []
    for share in case.positions:
        faded = x.lerp(mean, float(share))
        if case.value == "ssim":
            window = getattr(case.metric, "window", 11)
            found.append(float(ssim(x, faded, window).double().mean()))
        elif case.value == "reconstruction":
            found.append(-float(_nats(x, faded).mean()))
        else:
            errors = (float(share) ** 2) * (x - mean).double().square().flatten(1).mean(1).numpy()
            decibels = -10 * np.log10(np.maximum(errors, LEAST_ERROR))
            found.append(float((errors if case.value == "mse" else decibels).mean()))
    return np.array(found)


@lru_cache(maxsize=4)
def _of_blocks(originals: ReferenceImages, names: tuple[str, ...]) -> list[tuple[list[int], Floats, Floats, Floats]]:
    """Columns, means and deviations of p(z_c|y) in each class, and p(y), of each characteristic."""
    found = []
    for name in names:
        block = originals.block(name)
        shares = class_shares(originals.classes[:, block.place], block.label.cardinality)
        means = np.concatenate([block.means(), np.zeros((len(shares), len(block.variety)))], axis=1)
        spread = np.concatenate([np.full(len(block.shown), DEVIATION), np.ones(len(block.variety))])
        found.append((list(block.columns), means, spread, shares))
    return found


def _log_prior(case: Case, codes: Floats, shift: float = 0.0) -> Floats:
    """log p(z), each p(z_c|y) moved by so many deviations."""
    blocks = _of_blocks(originals_of(case), tuple(case.subject.model.layout.characteristics))
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


def _drawn(case: Case, draw: int) -> tuple[Floats, Floats]:
    """Codes from q(z|x), and log q of each."""
    posterior = case.subject.posterior
    loc, scale = posterior.loc.double().numpy(), posterior.scale.double().numpy()
    codes = loc + scale * numpy_stream(draw, "edited/posterior").standard_normal(loc.shape)
    return codes, np.asarray(norm.logpdf(codes, loc, scale)).sum(1)


def _kl(case: Case) -> Floats:
    """The mean of log q - log p over draws from q."""
    found = []
    for shift in case.strengths:
        parts = []
        for draw in range(20):
            codes, log_q = _drawn(case, draw)
            parts.append(float((log_q - _log_prior(case, codes, float(shift))).mean()))
        found.append(float(np.mean(parts)))
    return np.array(found)


def _bounds(case: Case) -> Floats:
    """log p(x|z) p(z)/q(z|x) of K fresh draws, with what each draw looks like, and with the mean image instead."""
    originals, subject = originals_of(case), case.subject
    size = getattr(case.metric, "importance", 1) if case.value == "iwae" else 1
    x, mean = with_classes(case), originals.mean_image
    faded = _nats(x, mean.expand_as(x))
    ends: list[list[Floats]] = [[], []]
    for repeat in range(REPEATS):
        weights: list[list[Floats]] = [[], []]
        for k in range(size):
            codes, log_q = _drawn(case, 1000 + repeat * size + k)
            # the decoder is given 32 bits
            z = torch.from_numpy(codes).to(subject.posterior.loc.dtype)
            shown = originals.draw(originals.coding.factors(z), originals.coding.classes(z))
            ratio = _log_prior(case, codes) - log_q
            for found, told in zip(weights, (_nats(x, shown), faded), strict=True):
                found.append(told + ratio)
        for found, parts in zip(ends, weights, strict=True):
            found.append(logsumexp(parts, axis=0) - math.log(size))
    return case.ends(*(float(np.mean(found)) for found in ends))


REBUILT: Mapping[tuple[str, str, str], Known] = {
    **{("reconstruction", value, "fade"): _rebuilt for value in ("mse", "psnr", "ssim", "reconstruction")},
    **{("reconstruction", value, "fade"): _bounds for value in ("elbo", "iwae")},
    ("reconstruction", "kl", "shift"): _kl,
}
"""By (metric, value, dial)."""
