"""No file, however hostile, is executed, hangs, crashes or fills the machine: it is read, or refused in one message."""

import json
import os
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccvae_eval.checkpoint import Bundle, open_checkpoint, read_bundle, write_bundle
from ccvae_eval.checkpoint import reader as reading
from ccvae_eval.checkpoint.safe_reader import child
from ccvae_eval.checkpoint.safe_reader import detect as sniffing
from ccvae_eval.checkpoint.safe_reader.opcodes import Walker
from ccvae_eval.checkpoint.safe_reader.source import RefusedError, Source
from ccvae_eval.checkpoint.safe_reader.summary import answer
from ccvae_eval.checkpoint.safe_reader.tree import TreeEncoder
from ccvae_eval.core.errors import CheckpointError
from tests.support import attacks

HOME = Path(child.__file__).parent.parent


@pytest.mark.parametrize("attack", attacks.REFUSED)
def test_attack_is_refused(attack: str, tmp_path: Path) -> None:
    path, canary = tmp_path / "model.pt", tmp_path / "canary"
    build, message = attacks.REFUSED[attack]
    build(path, canary)
    begun = time.monotonic()
    with pytest.raises(CheckpointError) as refused:
        read_bundle(path)
    assert time.monotonic() - begun < 5
    assert message in str(refused.value)
    assert str(path) in refused.value.where
    assert refused.value.what.isprintable()
    assert refused.value.why.isprintable()
    assert refused.value.exit_code == 3
    assert "in the reader" not in refused.value.why
    assert not canary.exists()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("attack", ["torchscript", "exported_program", "call_of_torch"])
def test_programs_are_refused_with_the_way_out(attack: str, tmp_path: Path) -> None:
    attacks.REFUSED[attack][0](tmp_path / "x.pt", tmp_path / "canary")
    with pytest.raises(CheckpointError) as refused:
        read_bundle(tmp_path / "x.pt")
    assert "torch.save(model.state_dict()" in refused.value.hint


def test_a_pickled_module_is_inert_and_refused_with_the_way_out(tmp_path: Path) -> None:
    made = attacks.module(tmp_path / "x.pt")
    bundle = read_bundle(tmp_path / "x.pt")
    assert list(bundle.tensors) == list(made.state_dict())
    assert all(torch.equal(bundle.tensors[name], tensor) for name, tensor in made.state_dict().items())
    with pytest.raises(CheckpointError, match="pickled torch.nn.modules.container.Sequential") as refused:
        open_checkpoint(tmp_path / "x.pt")
    assert "torch.save(model.state_dict()" in refused.value.hint


# the child and its limits


def _in_child(code: str) -> subprocess.CompletedProcess[str]:
    start = f"import sys; sys.path.append({str(HOME)!r}); from safe_reader import child; "
    command = [sys.executable, "-I", "-S", "-c", start + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _child_seconds() -> float:
    """Processor time of all children so far: the wall clock would measure who else is at work."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def test_zip_bomb_costs_neither_time_nor_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    attacks.zip_bomb(path, tmp_path / "canary")
    assert path.stat().st_size < 3_000_000
    begun = _child_seconds()
    with pytest.raises(CheckpointError, match="compressed"):
        read_bundle(path)
    assert _child_seconds() - begun < 1
    told = _in_child(
        f"import os; child.main(os.open({str(path)!r}, os.O_RDONLY)); "
        "print(); print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    )
    peak = next(line for line in told.stdout.splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 200_000  # kB


@pytest.mark.parametrize("attack", ["deep_lists", "deep_marks", "deep_tuples", "laughs", "list_in_itself"])
def test_nesting_is_refused_within_a_second(attack: str, tmp_path: Path) -> None:
    attacks.REFUSED[attack][0](tmp_path / "x.pt", tmp_path / "canary")
    begun = _child_seconds()
    with pytest.raises(CheckpointError, match="nested too deeply|too much besides"):
        read_bundle(tmp_path / "x.pt")
    assert _child_seconds() - begun < 1


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not limit the address space")
def test_the_child_has_little_memory() -> None:
    told = _in_child("child.limit(0)\ntry:\n x = bytearray(1 << 30)\nexcept MemoryError:\n print('refused')")
    assert told.stdout == "refused\n"


def test_the_child_writes_no_file(tmp_path: Path) -> None:
    told = _in_child(
        f"import os; child.limit(0); os.write(os.open({str(tmp_path / 'x')!r}, os.O_CREAT | os.O_WRONLY), b'x')"
    )
    assert "File too large" in told.stderr
    assert (tmp_path / "x").read_bytes() == b""


@pytest.mark.slow
def test_the_child_has_little_time() -> None:
    begun = time.monotonic()
    told = _in_child("child.SECONDS = 1; child.limit(0)\nwhile True: pass")
    assert told.returncode < 0
    assert time.monotonic() - begun < 20


def test_the_child_loads_neither_torch_nor_this_package(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1)}, tmp_path / "x.pt")
    told = _in_child(
        f"import os, sys; child.main(os.open({str(tmp_path / 'x.pt')!r}, os.O_RDONLY)); print(); print(*sys.modules)"
    )
    assert json.loads(told.stdout.splitlines()[0])["format"] == "pt-zip"
    loaded = told.stdout.splitlines()[1].split()
    assert not {"torch", "numpy", "ccvae_eval", "pickle", "_pickle", "pickletools", "zipfile"} & set(loaded)


def test_a_child_that_dies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"weight": torch.ones(1)}, tmp_path / "x.pt")
    monkeypatch.setattr(reading, "_START", "import os; os.abort()")
    with pytest.raises(CheckpointError, match="within the reader's limits"):
        read_bundle(tmp_path / "x.pt")


def test_a_child_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"weight": torch.ones(1)}, tmp_path / "x.pt")
    monkeypatch.setattr(reading, "_START", "import time; time.sleep(600)")
    monkeypatch.setattr(reading, "seconds_for", lambda _: 0.1)
    with pytest.raises(CheckpointError, match="takes too long"):
        read_bundle(tmp_path / "x.pt")


def test_a_hole_in_the_reader_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Source) -> str:
        raise ZeroDivisionError

    path = tmp_path / "x"
    path.write_bytes(b"x")
    monkeypatch.setattr(sniffing, "format_of", fails)
    with reading.opened(path) as descriptor:
        assert answer(Source(descriptor))["refused"]["why"] == "ZeroDivisionError in the reader"


# what is no file


def test_pipes_folders_sockets_devices_and_loops_do_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path may have only 108 bytes
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        expected = {
            "pipe": "is a pipe", ".": "is a folder", "/dev/zero": "is a device", "loop": "symbolic links",
            "socket": "No such device", "absent": "No such file", "nul\0": "null",
        }  # fmt: skip
        for name, message in expected.items():
            with pytest.raises(CheckpointError, match=message):
                read_bundle(name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({}, path)
    path.chmod(0)
    with pytest.raises(CheckpointError, match="Permission denied"):
        read_bundle(path)


def test_a_link_to_a_checkpoint_is_followed(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1)}, tmp_path / "x.pt")
    (tmp_path / "link.pt").symlink_to(tmp_path / "x.pt")
    assert list(read_bundle(tmp_path / "link.pt").tensors) == ["weight"]


def _meddling(action: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Does something to the file after the child has read it and before its tensors are taken."""
    honest = reading.describe

    def describe(descriptor: int, path: Path) -> dict[str, Any]:
        told = honest(descriptor, path)
        action(path)
        return told

    monkeypatch.setattr(reading, "describe", describe)


@pytest.mark.parametrize("change", ["overwritten", "shortened", "lengthened"])
def test_a_file_that_changes_while_it_is_read(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pt"
    torch.save({"weight": torch.ones(1000)}, path)
    raw = path.read_bytes()
    place = raw.index(torch.ones(1000).numpy().tobytes())

    def change_it(path: Path) -> None:
        stamp = path.stat()
        with path.open("r+b") as file:
            if change == "overwritten":
                file.seek(place)
                file.write(b"\0")
            else:
                file.truncate(len(raw) + (1 if change == "lengthened" else -1))
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    _meddling(change_it, monkeypatch)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        read_bundle(path)


def test_a_file_that_is_replaced_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = tmp_path / "x.pt", tmp_path / "y.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    torch.save({"weight": torch.ones(3)}, other)
    _meddling(lambda path: other.replace(path) and None, monkeypatch)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        read_bundle(path)


# damage, in this process: the child's part is the same code


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the reader here, so that thousands of damaged files take seconds."""

    def describe(descriptor: int, path: Path) -> dict[str, Any]:
        told = json.loads(json.dumps(answer(Source(descriptor))))
        if "refused" in told:
            assert "in the reader" not in told["refused"]["why"], told
            raise CheckpointError(told["refused"]["what"], where=str(path), why=told["refused"]["why"])
        assert isinstance(told, dict)
        return told

    monkeypatch.setattr(reading, "describe", describe)


def _intact(kind: str, path: Path) -> bytes:
    tensors = {"a.weight": torch.arange(60.0).reshape(3, 20), "a.bias": torch.ones(3), "n": torch.tensor(7)}
    if kind == "legacy":
        torch.save({**tensors, "epoch": 3}, path, _use_new_zipfile_serialization=False)
    elif kind == "zip":
        torch.save({**tensors, "epoch": 3}, path)
    else:
        write_bundle(path.with_suffix(kind), tensors, {"epoch": 3})
        path = path.with_suffix(kind)
    return path.read_bytes()


def _same(one: Bundle, other: Bundle) -> bool:
    return (
        list(one.tensors) == list(other.tensors)
        and all(torch.equal(t, other.tensors[n]) and t.dtype == other.tensors[n].dtype for n, t in one.tensors.items())
        and one.metadata == other.metadata
    )


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", ["zip", "legacy", ".pt", ".safetensors"])
def test_truncated_anywhere(kind: str, tmp_path: Path) -> None:
    raw = _intact(kind, tmp_path / "x")
    path = tmp_path / "cut"
    for cut in sorted({len(raw) * i // 64 for i in range(1, 64)} | {len(raw) - 1, 1, 2, 9, 30}):
        path.write_bytes(raw[:cut])
        with pytest.raises(CheckpointError, match="truncated"):
            read_bundle(path)


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", ["zip", ".pt", ".safetensors"])
def test_a_flipped_byte_is_refused_or_harmless(kind: str, tmp_path: Path) -> None:
    """Refused, but for bytes that carry nothing (dates and padding of a zip)."""
    raw = _intact(kind, tmp_path / "x")
    path = tmp_path / "flipped"
    path.write_bytes(raw)
    intact = read_bundle(path)
    chance = random.Random(7)
    harmless = 0
    for place in range(0, len(raw), 2 if kind == ".safetensors" else 5):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ (1 << chance.randrange(8))]) + raw[place + 1 :])
        try:
            flipped = read_bundle(path)
        except CheckpointError:
            continue
        assert _same(flipped, intact), place
        harmless += 1
    assert harmless == 0 if kind == ".safetensors" else harmless < len(raw) / 10


@pytest.mark.usefixtures("in_process")
def test_a_flip_in_a_tensor_is_said_to_be_damage(tmp_path: Path) -> None:
    for kind in (".pt", ".safetensors"):
        raw = bytearray(_intact(kind, tmp_path / "x"))
        raw[raw.index(torch.arange(60.0).numpy().tobytes()) + 5] ^= 1
        (tmp_path / "flipped").write_bytes(raw)
        with pytest.raises(CheckpointError, match="is damaged"):
            read_bundle(tmp_path / "flipped")


_VALID: dict[str, bytes] = {}


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_are_read_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    kind = data.draw(st.sampled_from(["zip", "legacy", ".pt", ".safetensors"]))
    if kind not in _VALID:
        _VALID[kind] = _intact(kind, tmp_path / "x")
    raw = bytearray(_VALID[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(len(raw) - 1, 0)))
        length = data.draw(st.integers(0, 16))
        raw[place : place + length] = data.draw(
            st.one_of(st.binary(max_size=16), st.sampled_from([b"\xff" * 8, bytes(8), bytes(raw[:40]), b"PK\x01\x02"]))
        )
    path = tmp_path / "mutated"
    path.write_bytes(raw)
    with suppress(CheckpointError):
        read_bundle(path)


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=200))
def test_no_opcodes_break_the_walker(body: bytes) -> None:
    with suppress(RefusedError):
        TreeEncoder(1000).encode(Walker(b"\x80\x02" + body + b".").walk())
