"""Checkpoints of PyTorch Lightning: a state_dict, hyper-parameters of the module, and the training state.

The user provides the class of the networks: ``--plugin FILE --model NAME``. Plain hyper-parameters that its constructor
accepts become its arguments; ``--set`` overrides them. The optimiser's tensors are ignored. A prefix of the weights'
names (``state_dict.model.`` for a class stored as ``self.model``) is removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccvae_eval.checkpoint import Bundle
from ccvae_eval.core.types import Plain

VERSION, WEIGHTS = "pytorch-lightning_version", "state_dict."
PARAMETERS = ("hyper_parameters", "hparams")


class Lightning:
    """Adapter for checkpoints of PyTorch Lightning."""

    def matches(self, bundle: Bundle) -> float:
        """1 for a state_dict with Lightning's version; 0.5 for one with hyper-parameters only (old releases)."""
        weights = any(name.startswith(WEIGHTS) for name in bundle.tensors)
        old = any(key in bundle.metadata for key in PARAMETERS) and "epoch" in bundle.metadata
        return 1.0 if weights and VERSION in bundle.metadata else 0.5 if weights and old else 0.0

    def hints(self, bundle: Bundle) -> Mapping[str, Plain]:
        """The plain hyper-parameters, including those in nested tables (``model: {latent: 16}``); outer ones win."""
        found: dict[str, Plain] = {}
        for key in PARAMETERS:
            found |= _table(bundle.metadata.get(key))
        inner = [_table(value) for value in found.values() if isinstance(value, dict)]
        return {**{key: value for table in inner for key, value in table.items()}, **found}


def _table(value: Any) -> dict[str, Plain]:
    return {str(key): part for key, part in value.items()} if isinstance(value, dict) else {}
