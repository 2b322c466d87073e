"""Names to classes: collisions, suggestions, broken plugins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ccvae_eval import registry
from ccvae_eval.errors import PluginError, UsageError

GOOD = """
class Mine:
    pass

CCVAE_EVAL = {"models": {"mine": Mine}}
"""


@pytest.fixture(autouse=True)
def _fresh_files() -> Iterator[None]:
    before = dict(registry._files)
    yield
    registry._files.clear()
    registry._files.update(before)


def test_our_own_models_come_by_the_same_door() -> None:
    assert {"vae", "ccvae"} <= set(registry.models)
    assert registry.models["ccvae"].__name__ == "CCVAE"
    assert registry.models["ccvae-eval:ccvae"] is registry.models["ccvae"]


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'ccvae'"):
        registry.models["ccvea"]


def test_a_file_registers_what_it_offers(tmp_path: Path) -> None:
    file = tmp_path / "my_plugin.py"
    file.write_text(GOOD)
    registry.add_plugin_file(file)
    assert registry.models["mine"].__name__ == "Mine"


def test_two_of_one_name_are_an_error_with_a_way_out(tmp_path: Path) -> None:
    file = tmp_path / "clash.py"
    file.write_text(GOOD.replace('"mine"', '"ccvae"'))
    registry.add_plugin_file(file)
    with pytest.raises(UsageError, match=r"registered by .*ccvae-eval") as caught:
        registry.models["ccvae"]
    assert "ccvae-eval:ccvae" in caught.value.hint
    assert registry.models["ccvae-eval:ccvae"].__name__ == "CCVAE"
    assert registry.models[f"{file}:ccvae"].__name__ == "Mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise RuntimeError('no')", "cannot be run"),
        ("raise SystemExit(3)", "cannot be run"),
        ("import not_there_at_all", "PYTHONPATH"),
        ("x = 1", "offers nothing"),
        ("CCVAE_EVAL = {'modles': {}}", "Did you mean 'models'"),
    ],
)
def test_a_broken_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / f"broken_{abs(hash(text))}.py"
    file.write_text(text)
    with pytest.raises(PluginError, match=message):
        registry.add_plugin_file(file)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such plugin file"):
        registry.add_plugin_file(tmp_path / "absent.py")


def test_a_broken_entry_point_names_its_distribution() -> None:
    broken = registry.Registration("models", "gone", "not_a_module_here:Thing", "some-package", "1.0")
    with pytest.raises(PluginError, match=r"some-package 1\.0"):
        broken.load()


def test_the_switch_leaves_only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = registry.Registration("models", "strange", "x:Y", "stranger", "1")
    ours = registry.Registration("models", "vae", "ccvae_models.vae:VAE", registry.HOME, "0")
    monkeypatch.setattr(registry, "_installed", lambda: (stranger, ours))
    assert set(registry.models) == {"strange", "vae"}
    monkeypatch.setenv(registry.SWITCH, "none")
    assert set(registry.models) == {"vae"}
    monkeypatch.setenv(registry.SWITCH, "stranger")
    assert set(registry.models) == {"strange", "vae"}
