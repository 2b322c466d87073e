"""The cache folder and writing to it."""

from pathlib import Path

import pytest

from ccvae_eval.core.errors import InputError
from ccvae_eval.core.files import cache_folder, write_cached


def test_an_explicit_folder_takes_precedence(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("here") == Path("here")
    assert cache_folder() == tmp_path / "ccvae-eval"


@pytest.mark.parametrize("value", ["", "relative/place"])
def test_the_home_folder_is_used_without_an_absolute_xdg_cache_home(monkeypatch, tmp_path, value):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "ccvae-eval"


def test_there_is_no_cache_folder_without_a_home_folder(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder() is None


def test_a_cached_file_is_written_without_a_message(tmp_path):
    assert write_cached(tmp_path / "a" / "b", "file", lambda path: path.write_text("x")) == ""
    assert (tmp_path / "a" / "b" / "file").read_text() == "x"


def test_an_unwritable_cache_is_reported_and_does_not_raise(tmp_path):
    def full(path):
        raise InputError("cannot be written", where=str(path), why="No space left on device")

    assert "No space left" in write_cached(tmp_path, "file", full)
    assert "no home" in write_cached(None, "file", full)
