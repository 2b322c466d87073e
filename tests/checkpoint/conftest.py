from __future__ import annotations

import pytest

from ccvae_eval.plugins import registry
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """``tiny`` and ``tinyhead`` are models, for the length of a test."""
    monkeypatch.setattr(registry, "_files", {})
    registry.add_plugin_file(ROOT / "tests/support/tiny.py")
