"""Checkpoints of Lightning: a state_dict, the hyper-parameters of the module, and the state of the training.

The networks are a class of the user's: ``--plugin FILE --model NAME``. Those of the hyper-parameters that are plain and
that the class takes become its arguments; ``--set`` goes over them. The optimiser's tensors are left out, and what
stands before the weights' names (``state_dict.model.`` for a class that the module keeps as ``self.model``) is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccvae_eval.checkpoint import Bundle
from ccvae_eval.core.types import Plain

VERSION, WEIGHTS = "pytorch-lightning_version", "state_dict."
PARAMETERS = ("hyper_parameters", "hparams")


class Lightning:
    """The adapter."""

    def matches(self, bundle: Bundle) -> float:
        """1 for the frame that Lightning writes; .5 without its version, as old releases wrote it."""
        framed = any(name.startswith(WEIGHTS) for name in bundle.tensors)
        known = any(key in bundle.metadata for key in PARAMETERS) and "epoch" in bundle.metadata
        return 1.0 if framed and VERSION in bundle.metadata else 0.5 if framed and known else 0.0

    def hints(self, bundle: Bundle) -> Mapping[str, Plain]:
        """The plain hyper-parameters; those of a nested table (``model: {latent: 16}``) where no outer one is."""
        found: dict[str, Plain] = {}
        for key in PARAMETERS:
            found |= _table(bundle.metadata.get(key))
        inner = [_table(value) for value in found.values() if isinstance(value, dict)]
        return {**{key: value for table in inner for key, value in table.items()}, **found}


def _table(value: Any) -> dict[str, Plain]:
    return {str(key): part for key, part in value.items()} if isinstance(value, dict) else {}
