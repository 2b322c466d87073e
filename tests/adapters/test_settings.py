"""Settings of the adapters are read like those of every other model: a wrong one is named."""

from __future__ import annotations

from typing import Any

import pytest
from ccvae_plugins.ccvae_reference import CcvaeReference
from ccvae_plugins.codes import NpzCodes
from ccvae_plugins.disent import Disent
from ccvae_plugins.disvae import Disvae
from ccvae_plugins.pythae import Pythae

from ccvae_eval.core.errors import UsageError


@pytest.mark.parametrize(
    "adapter", [CcvaeReference(), Disent(), Disvae(), NpzCodes(), Pythae()], ids=lambda a: type(a).__name__
)
def test_a_wrong_setting_is_named(adapter: Any) -> None:
    with pytest.raises(UsageError, match="latnet is unknown") as raised:
        adapter.build({"latnet": 10})
    assert "latent" in raised.value.hint
    with pytest.raises(UsageError, match="latent must be an integer, got 'many'"):
        adapter.build({"rows": 3, "latent": "many"} if isinstance(adapter, NpzCodes) else {"latent": "many"})
