"""The independent classifier (being written)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ccvae_eval.types import Images


class Judge:
    def log_probabilities(self, images: Images) -> Mapping[str, Tensor]:
        raise NotImplementedError
