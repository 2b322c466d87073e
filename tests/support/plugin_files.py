"""Working folders with a plugin file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ccvae_eval.plugins import registry


def folder_with_plugin(folder: Path, plugin: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes ``folder`` the working folder, with the plugin in my.py and weights of its model "mynet" in w.pt."""
    monkeypatch.setattr(registry, "_files", {})
    monkeypatch.chdir(folder)
    (folder / "my.py").write_text(plugin)
    registry.add_plugin_file(folder / "my.py")
    torch.save(registry.models["mynet"]().state_dict(), folder / "w.pt")
    return folder
