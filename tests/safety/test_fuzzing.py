"""Mutated files are read or refused by every reader of untrusted files; `make soak` reads 200,000 of them."""

from __future__ import annotations

import random
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccvae_eval.checkpoint.safe_reader import builders
from tests.support import fuzzing
from tests.support.fuzzing import OPERATIONS, TARGETS, TOKENS, Mutation, examine, mutated, seeds
from tools.fuzz import soak

mutations = st.builds(
    Mutation,
    st.sampled_from([*OPERATIONS]),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 63),
    st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=8),
    st.integers(0, 999),
)


@pytest.fixture(scope="module", autouse=True)
def in_this_process() -> Iterator[None]:
    with fuzzing.reading_here():
        yield


@pytest.mark.parametrize("number", range(len(seeds())))
def test_the_files_before_mutation_are_read(number: int, tmp_path: Path) -> None:
    seed = seeds()[number]
    path = tmp_path / f"x{seed.suffix}"
    path.write_bytes(seed.raw)
    assert examine(seed.target, path)
    path.write_bytes(mutated(seed, (), 1))
    assert examine(seed.target, path), "taken apart and put together again"


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_file_is_read_or_refused(target: str, data: st.DataObject, tmp_path: Path) -> None:
    seed = data.draw(st.sampled_from([seed for seed in seeds() if seed.target == target]))
    changes = data.draw(st.lists(mutations, min_size=1, max_size=4))
    path = tmp_path / f"x{seed.suffix}"
    path.write_bytes(mutated(seed, tuple(changes), data.draw(st.integers(0, 39))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile, for two members with one name
        examine(target, path)


def test_a_missing_guard_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check that a tensor lies inside its storage, mutated files end in an error of torch."""

    def unchecked(storage: builders.Storage, dtype: str, offset: int, shape: object, strides: object) -> object:
        return builders.Strided(storage, dtype, offset, tuple(shape), tuple(strides))  # type: ignore[arg-type]

    monkeypatch.setattr(builders, "_strided", unchecked)
    chance = random.Random(0)
    found = set()
    for number in range(1500):
        seed, raw = fuzzing.drawn(chance, "checkpoint")
        path = tmp_path / f"{number}{seed.suffix}"
        path.write_bytes(raw)
        try:
            examine("checkpoint", path)
        except Exception as error:
            found.add(type(error).__name__)
    assert found


def test_actions_besides_reading_are_noticed(tmp_path: Path) -> None:
    """In a process of its own, because an audit hook stays until the end."""
    code = (
        "import os, sys; from pathlib import Path; from tests.support import fuzzing; "
        "found = fuzzing.watch(Path(sys.argv[1])); fuzzing._ALLOWED[0] = False; "
        "Path(sys.argv[1], 'inside').exists(); open('/dev/null'); open(sys.argv[1] + '/new', 'w'); os.system('true'); "
        "fuzzing._ALLOWED[0] = True; print([action.partition(' ')[0] for action in found])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['open', 'open', 'os.system']"


@pytest.mark.soak
def test_200_000_mutated_files(tmp_path: Path) -> None:
    found = soak(200_000, seed=1, keep=tmp_path)
    assert found["findings"] == []
    assert found["files"] == 200_000
    assert found["growth"] < fuzzing.MEMORY
    assert found["slowest"] < fuzzing.SECONDS
