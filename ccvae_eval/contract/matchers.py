"""The contract of matchers: pure, the same for every batch, silent about blank images, right about a known shift."""

from __future__ import annotations

import torch
from torch.nn import functional

from ccvae_eval.contract.breach import require
from ccvae_eval.data.faces.dataset import Faces
from ccvae_eval.metrics.matchers.contract import Matcher, Matches

SHIFT = 1.0
"""How far the known shift is, in 64ths of the shorter side: inside every search."""
RIGHT = 0.5
"""The least share of matched points that lie within half a unit of a known shift."""


def check_matcher(matcher: Matcher) -> None:
    """Checks one matcher on drawn faces; returns if it keeps the contract.

    Raises:
        ContractBroken: naming the matcher and what it does not keep.
    """
    who = getattr(matcher, "name", type(matcher).__name__)
    require(isinstance(matcher, Matcher), who, "a matcher has name, bounded, search, guard, features and match")
    require(matcher.search > 0 and matcher.guard > 0, who, "search and guard are positive")
    images = Faces(size=64, n=8).batch(torch.arange(4).numpy()).images
    state = torch.get_rng_state()
    features = matcher.features(images)
    same = matcher.match(features, matcher.features(images.clone()))
    _check_form(same, len(images), who)
    require(bool((same.matched.sum(1) > 0).all()), who, "an image's points are found again in itself")
    moved = same.displacement[same.matched]
    require(bool((moved < SHIFT / 2).float().mean() >= RIGHT), who, "in itself, points are found where they are")
    again = matcher.match(features, matcher.features(images))
    require(bool(torch.equal(same.shift, again.shift)), who, "the same images give the same matches (it draws)")
    require(bool(torch.equal(state, torch.get_rng_state())), who, "no call draws from the global random generator")
    right = functional.pad(images, (1, 0, 0, 0), mode="replicate")[..., :-1]
    told = matcher.match(features, matcher.features(right))
    off = torch.hypot(told.shift[..., 0] - SHIFT, told.shift[..., 1])[told.matched]
    require(bool((off < SHIFT / 2).float().mean() >= RIGHT), who, "a shift by one pixel to the right is found")
    blank = torch.full_like(images, 0.5)
    nothing = matcher.match(matcher.features(blank), features)
    require(not bool(nothing.matched.any()), who, "a blank image has no match; that is a value and no error")
    require(not bool(matcher.match(features, matcher.features(blank)).matched.any()), who, "nor has one with a blank")


def _check_form(found: Matches, count: int, who: str) -> None:
    require(isinstance(found, Matches), who, "match returns Matches")
    points = found.points.shape[1]
    for name, tensor, shape in (
        ("points", found.points, (count, points, 2)), ("valid", found.valid, (count, points)),
        ("matched", found.matched, (count, points)), ("shift", found.shift, (count, points, 2)),
        ("confidence", found.confidence, (count, points)),
    ):  # fmt: skip
        require(tuple(tensor.shape) == shape, who, f"{name} has shape {shape}, not {tuple(tensor.shape)}")
    require(not bool((found.matched & ~found.valid).any()), who, "what is matched is a point")
    sure = found.confidence[found.matched]
    require(bool(((sure >= 0) & (sure <= 1)).all()), who, "confidence is in [0, 1]")
    require(not bool(found.confidence[~found.matched].any()), who, "confidence is 0 where nothing is matched")
