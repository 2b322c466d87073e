"""The contract of extractors of features: one finite vector for each image, pure, whatever the batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.chunks import CHUNK
from ccvae_eval.contract.breach import require
from ccvae_eval.data.faces.dataset import Faces
from ccvae_eval.metrics.features import Features

SAME = 1e-5
"""Relative tolerance where an image stands elsewhere in its batch."""


def check_features(extractor: Features) -> None:
    """Checks one extractor on drawn faces; returns if it keeps the contract.

    Raises:
        ContractBroken: naming the extractor and what it does not keep.
    """
    who = type(extractor).__name__
    require(isinstance(extractor, Features), who, "an extractor has a method features(images)")
    images = Faces(size=64, n=CHUNK).batch(np.arange(CHUNK)).images
    given, state = images.clone(), torch.get_rng_state()
    with torch.no_grad():
        found = extractor.features(images)
        require(isinstance(found, Tensor), who, f"features returns a tensor, not {type(found).__name__}")
        form = tuple(found.shape)
        require(len(form) == 2 and form[0] == CHUNK, who, f"features of {CHUNK} images have shape (N, F), not {form}")
        require(found.is_floating_point(), who, f"features are floating-point numbers, not {found.dtype}")
        require(bool(torch.isfinite(found).all()), who, "features are finite")
        again, turned = extractor.features(images), extractor.features(images.flip(0))
    require(bool(torch.equal(found, again)), who, "the same images give the same numbers (it draws, or trains)")
    require(bool(torch.equal(state, torch.get_rng_state())), who, "no call draws from the global random generator")
    require(bool(torch.equal(images, given)), who, "the images are left as they are")
    room = SAME * float(found.abs().max())
    alike = bool(torch.allclose(turned.flip(0), found, rtol=SAME, atol=room))
    require(alike, who, "an image's features do not depend on the others of its batch")
    require(bool((found != found[:1]).any()), who, "different images have different features")
