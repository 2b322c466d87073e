"""No time bomb: reading and showing a file takes time in proportion to its size.

Each case doubles its input, whose time may be at most 2.5 times as long. Quadratic work takes four times as long. The
time is that of the processor, which a busy machine hardly changes; the first of several attempts that holds is enough,
and a floor covers what does not depend on the size.
"""

from __future__ import annotations

import gc
import io
import json
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ccvae_eval.checkpoint import building, bundle
from ccvae_eval.checkpoint.bundle import TensorInfo
from ccvae_eval.checkpoint.reader import Content
from ccvae_eval.checkpoint.safe_reader.child import seconds_for
from ccvae_eval.checkpoint.safe_reader.opcodes import PickleParser
from ccvae_eval.checkpoint.safe_reader.source import RefusedError, Source
from ccvae_eval.checkpoint.safe_reader.summary import describe_or_refuse
from ccvae_eval.checkpoint.safe_reader.tree import TreeEncoder
from ccvae_eval.cli import inspect
from ccvae_eval.cli.console import Screen
from ccvae_eval.core.array_files import ArrayFile
from ccvae_eval.core.errors import InputError
from ccvae_eval.core.typed import Limits, load_json, load_toml
from ccvae_eval.data.sets.codes import read_codes
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.storage import as_csv, as_json
from tests.support.attacks import Opcodes, name, number, safe, text
from tests.support.result_attacks import archive, npy
from tests.support.runs import measurement, run_of, value

ATTEMPTS, FACTOR, FLOOR = 6, 2.5, 0.02
"""Attempts, the greatest ratio of times, and the seconds that are added to the shorter one."""
WHOLE = Limits(size=64 << 20, entries=4 << 20)

Action = Callable[[], object]
CASES: dict[str, tuple[Callable[[int], Action], int]] = {}
"""Functions that make the work of a size, and the smaller size."""


def case(size: int) -> Callable[[Callable[[int], Action]], Callable[[int], Action]]:
    def register(make: Callable[[int], Action]) -> Callable[[int], Action]:
        CASES[make.__name__] = make, size
        return make

    return register


def seconds(action: Action) -> float:
    gc.disable()  # its share depends on what other tests left
    try:
        begun = time.process_time()
        action()
        return time.process_time() - begun
    finally:
        gc.enable()


def grows_linearly(make: Callable[[int], Action], size: int) -> bool:
    small, large = make(size), make(2 * size)
    times = [np.inf, np.inf]
    for _ in range(ATTEMPTS):
        times = [min(best, seconds(action)) for best, action in zip(times, (small, large), strict=True)]
        if times[1] <= FACTOR * (times[0] + FLOOR):
            return True
    return False


def parsed(pickled: bytes) -> Action:
    """Parses a pickle to a tree and back, as reading a checkpoint does; a refusal is fine."""

    def action() -> None:
        with suppress(RefusedError):
            tree = TreeEncoder(1 << 20).encode(PickleParser(pickled).parse())
            found = bundle._decode(json.loads(json.dumps(tree)), [])
            bundle._plain(found, "", [])

    return action


def described(content: bytes) -> Action:
    """Describes a file in the folder of the test, as the reader's child does."""
    path = Path(f"{len(content)}")
    path.write_bytes(content)

    def action() -> None:
        with path.open("rb") as file:
            describe_or_refuse(Source(file.fileno()))

    return action


# pickles


@case(20_000)
def numbers(size: int) -> Action:
    return parsed(Opcodes().add(b"]", *(number(i << 64) + b"a" for i in range(size))).done())


@case(20_000)
def keys(size: int) -> Action:
    return parsed(Opcodes().add(b"}", *(text(f"k{i}") + b"Ns" for i in range(size))).done())


@case(10_000)
def objects_as_keys(size: int) -> Action:
    start = name("library", "Kind") + b"q\x000}"
    return parsed(Opcodes().add(start, b"h\x00)\x81Ns" * size).done())


@case(10_000)
def objects(size: int) -> Action:
    start = name("library", "Kind") + b"q\x000]"
    return parsed(Opcodes().add(start, b"h\x00)\x81}X\x01\x00\x00\x00aNsba" * size).done())


@case(1000)
def copied_dictionary(size: int) -> Action:
    table = b"}(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(size)) + b"uq\x000"
    return parsed(Opcodes().add(table, (name("collections", "OrderedDict") + b"h\x00\x85R0") * size, b"N").done())


@case(1000)
def joined_paths(size: int) -> Action:
    start = text("a" * 100) + b"q\x00q\x020" + name("pathlib", "Path") + b"q\x010"
    return parsed(Opcodes().add(start, b"h\x01h\x02h\x00\x86Rq\x020" * size, b"N").done())


@case(500)
def tuples_as_keys(size: int) -> Action:
    return parsed(Opcodes().add(b"(" + b"N" * size + b"tq\x000}", b"h\x00Ns" * size).done())


@case(300)
def tensors(size: int) -> Action:
    content = io.BytesIO()
    torch.save({f"t{i}": torch.ones(1) for i in range(size)}, content)
    return described(content.getvalue())


@case(10_000)
def memoised_dictionary(size: int) -> Action:
    table = b"}(" + b"".join(b"K" + bytes([i]) + b"N" for i in range(200)) + b"uq\x000]"
    return parsed(Opcodes().add(table, b"h\x00a" * size).done())


@case(3000)
def headers_of_safetensors(size: int) -> Action:
    header = {f"t{i}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i in range(size)}
    return described(safe(header, bytes(4 * size)))


@case(10_000)
def a_header_with_a_key_twice(size: int) -> Action:
    return described(safe("{" + ",".join(f'"k{i}":{{}}' for i in range(size)) + f',"k{size - 1}":{{}}}}'))


# what is done with the content


@case(2000)
def prefixes_of_names(size: int) -> Action:
    tensors = {f"p{i}.weight": TensorInfo((1,), "float32") for i in range(size)}
    table: Any = {"weight": TensorInfo((2,), "float32")}
    return lambda: building.strip_prefixes(tensors, table)


@case(2000)
def names_of_tensors(size: int) -> Action:
    tree = ["dict", *(part for i in range(size) for part in (f"t{i}", ["tensor", i]))]
    content = Content({"tensors": [[0, "float32", 0, [1], [1]]] * size}, [])
    stored = [bundle.StoredTensor(content, i) for i in range(size)]
    return lambda: [*bundle.named_tensors(bundle._decode(tree, stored))]


def shown(metadata: Any) -> Action:
    def action() -> None:
        with Screen(as_json=False, quiet=True) as screen:
            inspect._show_facts({"kind": "checkpoint", "metadata": metadata}, screen)

    return action


@case(100_000)
def words_of_metadata(size: int) -> Action:
    return shown({"text": "a " * size})


@case(20_000)
def losses_of_metadata(size: int) -> Action:
    return shown({"losses": [0.5] * size})


@case(20_000)
def nested_metadata(size: int) -> Action:
    return shown({"a": {"b": [{"c": "a " * size} for _ in range(10)]}})


# JSON and TOML


def refused(load: Callable[[], object]) -> Action:
    def action() -> None:
        with suppress(InputError):
            load()

    return action


@case(20_000)
def json_keys(size: int) -> Action:
    raw = ("{" + ",".join(f'"{i}":0' for i in range(size)) + "}").encode()
    return refused(lambda: load_json(raw, "x", limits=WHOLE))


@case(20_000)
def json_keys_of_which_one_occurs_twice(size: int) -> Action:
    raw = ("{" + ",".join(f'"{i}":0' for i in range(size)) + f',"{size - 1}":0}}').encode()
    return refused(lambda: load_json(raw, "x", limits=WHOLE))


@case(20_000)
def json_digits(size: int) -> Action:
    return refused(lambda: load_json(b"9" * size, "x", limits=WHOLE))


@case(8000)
def toml_key(size: int) -> Action:
    raw = b"a" + b".a" * size + b" = 1"
    return refused(lambda: load_toml(raw, "x"))


@case(4000)
def toml_key_of_quoted_parts(size: int) -> Action:
    raw = b'"a"' + b'."\\""' * size + b" = 1"
    return refused(lambda: load_toml(raw, "x"))


@case(2000)
def toml_text_of_escapes(size: int) -> Action:
    raw = b"x = '''" + b'\\"' * 20 * size + b"'''"
    return refused(lambda: load_toml(raw, "x"))


@case(1000)
def toml_rows(size: int) -> Action:
    raw = "\n".join(f"b{i}.{'a.' * 25}a = 1" for i in range(size)).encode()
    return refused(lambda: load_toml(raw, "x"))


@case(20_000)
def toml_hex_digits(size: int) -> Action:
    raw = b"x = 0x" + b"f" * size
    return refused(lambda: load_toml(raw, "x"))


# runs and tables


def long_run(size: int) -> Run:
    values = [value("focus", 0.5), *(value("response", 0.5, f"l{i % 50}", at={"judged": f"l{i}"}) for i in range(size))]
    return run_of(measurement("locality", "focus", values), labels=[f"l{i}" for i in range(50)])


@case(500)
def values_of_a_run(size: int) -> Action:
    document = json.loads(as_json(long_run(size)))
    return lambda: Run.from_plain(document, "x")


@case(500)
def writing_of_a_run(size: int) -> Action:
    run = replace(long_run(size), ids={})
    return lambda: (as_json(run), as_csv(run))


@case(200)
def arrays_of_the_evidence(size: int) -> Action:
    raw = archive({f"m/{i}.npy": npy("(1,)", bytes(8)) for i in range(size)})
    return lambda: dict(ArrayFile(raw, "x", limit=1 << 30).under("m"))


@case(1000)
def rows_of_codes(size: int) -> Action:
    path = Path(f"{size}.csv")  # in the folder of the test
    np.savetxt(path, np.arange(size * 4).reshape(size, 4), delimiter=",", header="a,b,c,d", comments="")
    return lambda: read_codes(path, path)


@pytest.mark.slow
@pytest.mark.parametrize("work", CASES)
def test_twice_the_input_takes_at_most_two_and_a_half_times_as_long(
    work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert grows_linearly(*CASES[work])


def test_quadratic_work_is_noticed() -> None:
    def make(size: int) -> Action:
        return lambda: [i in [*range(size)] for i in range(size)]

    assert not grows_linearly(make, 4000)


def test_a_file_of_a_hundred_megabytes_may_take_eleven_seconds() -> None:
    assert (seconds_for(0), seconds_for(100_000_000)) == (10, 11)
