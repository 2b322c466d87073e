from pathlib import Path

import pytest

from ccvae_eval.core.cache import cache_folder, keep
from ccvae_eval.core.errors import InputError


def test_the_folder_asked_for_comes_first(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("here") == Path("here")
    assert cache_folder() == tmp_path / "ccvae-eval"


@pytest.mark.parametrize("value", ["", "relative/place"])
def test_without_a_usable_variable_it_is_the_home(monkeypatch, tmp_path, value):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "ccvae-eval"


def test_without_a_home_there_is_none(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder() is None


def test_what_is_kept_is_there_and_nothing_is_said(tmp_path):
    assert keep(tmp_path / "a" / "b", "file", lambda path: path.write_text("x")) == ""
    assert (tmp_path / "a" / "b" / "file").read_text() == "x"


def test_a_full_disk_stops_nobody_and_is_named(tmp_path):
    def full(path):
        raise InputError("cannot be written", where=str(path), why="No space left on device")

    assert "No space left" in keep(tmp_path, "file", full)
    assert "no home" in keep(None, "file", full)
