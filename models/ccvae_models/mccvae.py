"""MCCVAE: CCVAE with several latents for each label (the poster "Multi-CCVAE").

The objective is CCVAE's. The poster does not say how several latents become one label: here q(y|z_c) is linear in the
label's own block, and p(z_c|y) factorises inside it. A label's logit is then still Gaussian, so that the bound's
integrals stay one-dimensional.
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
    """Settings of MCCVAE: those of ``CCVAESettings``, with ``block`` columns for each binary label."""

    block: int = 2


class MCCVAE(CCVAE):
    """CCVAE with a block of columns for each label."""

    Settings: ClassVar[type[Any]] = MCCVAESettings

    def __init__(self, settings: MCCVAESettings, context: ModelContext, generator: Generator) -> None:
        if settings.block < 2:
            raise UsageError(
                f"{settings.block} column for each label is not several",
                where="mccvae: block",
                hint="With one column for each label: train ccvae.",
            )
        super().__init__(settings, context, generator)
