"""Atomic writes: a file is written completely or not at all."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ccvae_eval.core.errors import InputError
from ccvae_eval.core.files import atomic_write, read_regular_file, require_folder, similar_path


def test_a_file_is_created_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "run.json"
    atomic_write(target, b"one")
    assert target.read_bytes() == b"one"
    atomic_write(str(target), b"two")
    assert target.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failure_at_any_step_keeps_the_old_file(
    call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "run.json"
    target.write_bytes(b"old")

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails)
        with pytest.raises(InputError, match="cannot be written") as refused:
            atomic_write(target, b"new")
    assert refused.value.why == os.strerror(code)
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "x", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    elsewhere, link = tmp_path / "precious", tmp_path / "out"
    elsewhere.write_bytes(b"precious")
    link.symlink_to(elsewhere)
    atomic_write(link, b"new")
    assert elsewhere.read_bytes() == b"precious"
    assert not link.is_symlink()


def test_the_longest_possible_file_name_is_written(tmp_path: Path) -> None:
    atomic_write(tmp_path / ("n" * 255), b"x")
    with pytest.raises(InputError, match="cannot be written"):
        atomic_write(tmp_path / ("n" * 256), b"x")


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        atomic_write(tmp_path / "absent" / "x", b"x")


def test_the_file_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "x", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_a_folder_for_results_may_exist_or_be_made(tmp_path: Path) -> None:
    require_folder(tmp_path)
    require_folder(tmp_path / "runs" / "one")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_file_in_the_place_of_a_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is not a folder"):
        require_folder(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="no permission"):
        require_folder(tmp_path / "runs")


def test_a_missing_file_suggests_the_closest_name_beside_it(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for name in ("ckpt.pt", ".ckp.pt", "runs/run.json"):
        (tmp_path / name).touch()
    assert similar_path(tmp_path / "ckp.pt") == f"Did you mean '{tmp_path / 'ckpt.pt'}'?"
    assert similar_path(tmp_path / "run" / "run.json") == f"Did you mean '{tmp_path / 'runs' / 'run.json'}'?"
    assert similar_path(tmp_path / "run" / "other.json") == similar_path(tmp_path / "xyz") == ""
    with pytest.raises(InputError, match=r"Did you mean '.*ckpt.pt'\?"):
        read_regular_file(tmp_path / "ckp.pt", 9)
