"""Weights that the user has: a file by name and digest, read as data, never fetched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from pathlib import Path

import torch
from torch import Tensor, nn

from ccvae_eval.checkpoint import read_bundle
from ccvae_eval.errors import CheckpointError, UsageError

SHORTEST_DIGEST = 8


def verified_tensors(matcher: str, key: str, file: str, digest_key: str, digest: str) -> Mapping[str, Tensor]:
    """The tensors of a file of weights, if it is the one that was meant.

    Args:
        matcher: whose setting it is.
        key: the setting that names the file.
        file: the file; "" = none.
        digest_key: the setting that holds the digest.
        digest: the sha256 of the file, or its first eight digits or more.

    Raises:
        UsageError: no file, or no digest, is named.
        CheckpointError: the file cannot be read, or is another one.
    """
    if not file:
        raise UsageError(
            f"{matcher} needs weights",
            where=f"{matcher}.{key}",
            hint=f"Write {matcher},{key}=FILE,{digest_key}=DIGEST; none come with the package.",
        )
    bundle = read_bundle(Path(file))
    if len(digest) < SHORTEST_DIGEST:
        hint = f"This file's is {bundle.sha256}."
        raise UsageError(f"{matcher} needs the sha256 of its weights", where=f"{matcher}.{digest_key}", hint=hint)
    if not bundle.sha256.startswith(digest.lower()):
        why = f"their sha256 is {bundle.sha256}"
        raise CheckpointError("these are other weights than were asked for", where=file, why=why)
    return bundle.tensors


def with_weights(
    make: Callable[[], nn.Module], tensors: Mapping[str, Tensor], model: str, where: str, derived: Set[str]
) -> nn.Module:
    """A network with the weights of a file, ready to evaluate.

    Args:
        make: makes the network, with weights that are replaced at once.
        tensors: the weights by name.
        model: whose weights they must be, for the message.
        where: the file.
        derived: names that the network works out by itself: the file need not have them.

    Raises:
        CheckpointError: a tensor is missing, is one too many, or has another shape.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            network = make()
            found = network.load_state_dict(dict(tensors), strict=False)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"not the weights of {model}", where=where, why=str(error)) from None
    missing = set(found.missing_keys) - derived
    if missing or found.unexpected_keys:
        odd = sorted([*missing, *found.unexpected_keys])[0]
        raise CheckpointError(f"not the weights of {model}", where=where, why=f"{odd} does not fit")
    return network.eval()
