"""A hostile file is read or refused with one error: no code runs, nothing hangs or crashes, memory stays bounded."""

import json
import os
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccvae_eval.checkpoint import Bundle, Record, open_checkpoint, read_bundle, reader, write_bundle
from ccvae_eval.checkpoint.safe_reader import child, summary
from ccvae_eval.checkpoint.safe_reader.opcodes import PickleParser
from ccvae_eval.checkpoint.safe_reader.source import RefusedError, Source
from ccvae_eval.checkpoint.safe_reader.summary import describe_or_refuse
from ccvae_eval.checkpoint.safe_reader.tree import TreeEncoder
from ccvae_eval.core.errors import CheckpointError
from tests.support import attacks, fuzzing

HOME = Path(child.__file__).parent.parent


@pytest.mark.parametrize("attack", attacks.REFUSED)
def test_an_attack_is_refused(attack: str, tmp_path: Path) -> None:
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


def test_a_call_of_another_library_is_an_inert_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the module is imported, although Python would find it, nor its function called."""
    canary = tmp_path / "canary"
    (tmp_path / "thirdparty.py").write_text(f"def build(name): open({str(canary)!r}, 'w')\nbuild('')")
    monkeypatch.syspath_prepend(tmp_path)
    call = attacks.name("thirdparty", "build") + attacks.text("x") + b"\x85R"
    attacks.write_zip(tmp_path / "x.pt", attacks.Opcodes().add(b"}", attacks.text("a"), call, b"s").done())
    bundle = read_bundle(tmp_path / "x.pt")
    assert bundle.structure == {"a": Record("thirdparty.build", ("x",))}
    assert bundle.notes == ("neither tensors nor plain data, not used: a (thirdparty.build)",)
    assert "thirdparty" not in sys.modules
    assert not canary.exists()


def test_the_valid_parts_of_the_tar_attacks_are_read(tmp_path: Path) -> None:
    attacks.write_tar(tmp_path / "x.pt", attacks.tar_parts())
    assert read_bundle(tmp_path / "x.pt").tensors["weight"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("attack", ["torchscript", "exported_program"])
def test_the_refusal_of_a_program_says_how_to_save_its_weights(attack: str, tmp_path: Path) -> None:
    attacks.REFUSED[attack][0](tmp_path / "x.pt", tmp_path / "canary")
    with pytest.raises(CheckpointError) as refused:
        read_bundle(tmp_path / "x.pt")
    assert "torch.save(model.state_dict()" in refused.value.hint


@pytest.mark.parametrize(
    "attack", [name for name in attacks.REFUSED if name not in ("torchscript", "exported_program")]
)
def test_no_other_refusal_offers_to_load_the_file_by_other_means(attack: str, tmp_path: Path) -> None:
    attacks.REFUSED[attack][0](tmp_path / "x.pt", tmp_path / "canary")
    with pytest.raises(CheckpointError) as refused:
        read_bundle(tmp_path / "x.pt")
    assert "load(" not in refused.value.hint


def test_a_module_beside_a_call_of_other_code_gets_no_offer_to_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call of an unknown library is an inert record; ``torch.load`` would run it."""

    def run(command: str) -> None:
        pytest.fail(command)

    run.__module__, run.__qualname__ = "library", "run"
    monkeypatch.setitem(sys.modules, "library", ModuleType("library"))
    monkeypatch.setattr(sys.modules["library"], "run", run, raising=False)
    network = attacks.module(tmp_path / "x.pt")
    network.note = Call(run)
    torch.save(network, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="a pickled") as refused:
        open_checkpoint(tmp_path / "x.pt")
    assert "torch.load" not in refused.value.hint
    assert "unless you trust its source" in refused.value.hint


class Call:
    """Pickles to the call of a function."""

    def __init__(self, function: Callable[[str], None]) -> None:
        self.function = function

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, ("touch canary",)


def test_a_pickled_module_is_inert_and_its_refusal_says_how_to_save_its_weights(tmp_path: Path) -> None:
    network = attacks.module(tmp_path / "x.pt")
    bundle = read_bundle(tmp_path / "x.pt")
    assert list(bundle.tensors) == list(network.state_dict())
    assert all(torch.equal(bundle.tensors[name], tensor) for name, tensor in network.state_dict().items())
    with pytest.raises(CheckpointError, match="pickled torch.nn.modules.container.Sequential") as refused:
        open_checkpoint(tmp_path / "x.pt")
    assert "torch.save(model.state_dict()" in refused.value.hint
    assert "only if you made it yourself" in refused.value.hint


# the child and its limits


def _in_child(code: str) -> subprocess.CompletedProcess[str]:
    start = f"import sys; sys.path.append({str(HOME)!r}); from safe_reader import child; "
    command = [sys.executable, "-I", "-S", "-c", start + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _child_seconds() -> float:
    """CPU time of all children so far; wall time would depend on the load of the machine."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def test_a_zip_bomb_is_refused_with_little_time_and_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    attacks.zip_bomb(path, tmp_path / "canary")
    assert path.stat().st_size < 3_000_000
    begun = _child_seconds()
    with pytest.raises(CheckpointError, match="compressed"):
        read_bundle(path)
    assert _child_seconds() - begun < 1
    finished = _in_child(
        f"import os; child.main(os.open({str(path)!r}, os.O_RDONLY)); "
        "print(); print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    )
    peak = next(line for line in finished.stdout.splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 200_000  # kB


@pytest.mark.parametrize("attack", ["deep_lists", "deep_marks", "deep_tuples", "laughs", "list_in_itself"])
def test_nesting_is_refused_within_a_second(attack: str, tmp_path: Path) -> None:
    attacks.REFUSED[attack][0](tmp_path / "x.pt", tmp_path / "canary")
    begun = _child_seconds()
    with pytest.raises(CheckpointError, match="nested too deeply|too much data besides"):
        read_bundle(tmp_path / "x.pt")
    assert _child_seconds() - begun < 1


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not limit the address space")
def test_the_memory_of_the_child_is_limited() -> None:
    finished = _in_child("child.apply_limits(0)\ntry:\n x = bytearray(1 << 30)\nexcept MemoryError:\n print('refused')")
    assert finished.stdout == "refused\n"


def test_the_child_cannot_write_a_file(tmp_path: Path) -> None:
    finished = _in_child(
        f"import os; child.apply_limits(0); os.write(os.open({str(tmp_path / 'x')!r}, os.O_CREAT | os.O_WRONLY), b'x')"
    )
    assert "File too large" in finished.stderr
    assert (tmp_path / "x").read_bytes() == b""


@pytest.mark.slow
def test_the_cpu_time_of_the_child_is_limited() -> None:
    begun = time.monotonic()
    finished = _in_child("child.BASE_SECONDS = 1; child.apply_limits(0)\nwhile True: pass")
    assert finished.returncode < 0
    assert time.monotonic() - begun < 20


def test_the_child_loads_neither_torch_nor_this_package(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1)}, tmp_path / "x.pt")
    finished = _in_child(
        f"import os, sys; child.main(os.open({str(tmp_path / 'x.pt')!r}, os.O_RDONLY)); print(); print(*sys.modules)"
    )
    assert json.loads(finished.stdout.splitlines()[0])["format"] == "pt-zip"
    loaded = finished.stdout.splitlines()[1].split()
    assert not {"torch", "numpy", "ccvae_eval", "pickle", "_pickle", "pickletools", "zipfile"} & set(loaded)


def test_a_crash_of_the_child_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"weight": torch.ones(1)}, tmp_path / "x.pt")
    monkeypatch.setattr(reader, "_START", "import os; os.abort()")
    with pytest.raises(CheckpointError, match="within the reader's limits"):
        read_bundle(tmp_path / "x.pt")


def test_a_child_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"weight": torch.ones(1)}, tmp_path / "x.pt")
    monkeypatch.setattr(reader, "_START", "import time; time.sleep(600)")
    monkeypatch.setattr(reader, "seconds_for", lambda _: 0.1)
    with pytest.raises(CheckpointError, match="takes too long"):
        read_bundle(tmp_path / "x.pt")


def test_a_bug_in_the_reader_becomes_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Source) -> str:
        raise ZeroDivisionError

    path = tmp_path / "x"
    path.write_bytes(b"x")
    monkeypatch.setattr(summary, "format_of", fails)
    with reader.open_regular_file(path) as descriptor:
        assert describe_or_refuse(Source(descriptor))["refused"]["why"] == "ZeroDivisionError in the reader"


# paths that are not regular files


def test_pipes_folders_sockets_and_devices_do_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is limited to 108 bytes
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


def _change_while_reading(action: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Applies ``action`` to the file after the child has read it and before its tensors are copied."""
    original = reader.describe

    def describe(descriptor: int, path: Path) -> dict[str, Any]:
        description = original(descriptor, path)
        action(path)
        return description

    monkeypatch.setattr(reader, "describe", describe)


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

    _change_while_reading(change_it, monkeypatch)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        read_bundle(path)


def test_the_digest_notices_a_change_that_the_times_do_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.pt"
    torch.save({"weight": torch.ones(1000)}, path)
    other = path.read_bytes().replace(torch.ones(1000).numpy().tobytes(), torch.zeros(1000).numpy().tobytes())
    _change_while_reading(lambda path: path.write_bytes(other) and None, monkeypatch)
    monkeypatch.setattr(reader, "_file_state", lambda _: ())
    with pytest.raises(CheckpointError, match="changed while it was read"):
        read_bundle(path)


def test_a_file_that_is_replaced_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = tmp_path / "x.pt", tmp_path / "y.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    torch.save({"weight": torch.ones(3)}, other)
    _change_while_reading(lambda path: other.replace(path) and None, monkeypatch)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        read_bundle(path)


# damaged files, read in this process with the same code as in the child


@pytest.fixture
def in_process() -> Iterator[None]:
    """Runs the reader in this process, which is faster for thousands of damaged files."""
    with fuzzing.reading_here():
        yield


def _intact(kind: str, path: Path) -> bytes:
    tensors = {"a.weight": torch.arange(60.0).reshape(3, 20), "a.bias": torch.ones(3), "n": torch.tensor(7)}
    if kind == "tar":
        attacks.write_tar(path, attacks.tar_parts())
    elif kind == "legacy":
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
@pytest.mark.parametrize("kind", ["zip", "legacy", "tar", ".pt", ".safetensors"])
def test_a_file_truncated_anywhere_is_refused(kind: str, tmp_path: Path) -> None:
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
    """Only bytes without meaning, such as dates and padding of a zip archive, may change."""
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
def test_a_flipped_bit_in_a_tensor_is_reported_as_damage(tmp_path: Path) -> None:
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
    kind = data.draw(st.sampled_from(["zip", "legacy", "tar", ".pt", ".safetensors"]))
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
def test_the_parser_accepts_or_refuses_any_opcodes(body: bytes) -> None:
    with suppress(RefusedError):
        TreeEncoder(1000).encode(PickleParser(b"\x80\x02" + body + b".").parse())
