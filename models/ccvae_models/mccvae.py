"""MCCVAE: CCVAE with several latent dimensions per label (Bourbon, poster "Multi-CCVAE").

The objective is that of CCVAE. The poster does not say how several latents predict one label. Here q(y|z_c) is linear
in the label's own block and p(z_c|y) factorises inside it, so a binary label's logit stays Gaussian and the integrals
of the bound stay one-dimensional.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator

from ccvae_eval.core.errors import UsageError
from ccvae_eval.model.interface import ModelContext
from ccvae_models.ccvae import CCVAE, CCVAESettings


@dataclass(frozen=True, slots=True)
class MCCVAESettings(CCVAESettings):
    """Settings of MCCVAE: those of ``CCVAESettings``, with at least two latent dimensions per binary label."""

    block: int = 2


class MCCVAE(CCVAE):
    """CCVAE with several latent dimensions per label."""

    Settings: ClassVar[type[Any]] = MCCVAESettings

    def __init__(self, settings: MCCVAESettings, context: ModelContext, generator: Generator) -> None:
        if settings.block < 2:
            raise UsageError(
                f"must be at least 2, got {settings.block}",
                where="mccvae: block",
                hint="For one latent dimension per label, use ccvae.",
            )
        super().__init__(settings, context, generator)
