from pathlib import Path

import pytest

from ccvae_eval import registry


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """``tiny`` and ``tinyhead`` are models, for the length of a test."""
    monkeypatch.setattr(registry, "_files", {})
    registry.add_plugin_file(Path(__file__).with_name("tiny.py"))
