from __future__ import annotations

import pytest

from ccvae_eval.plugins import registry
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers the models ``tiny`` and ``tinyhead`` for one test."""
    monkeypatch.setattr(registry, "_files", {})
    registry.add_plugin_file(ROOT / "tests/support/tiny.py")
