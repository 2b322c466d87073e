"""Recipes, rules, settings, tables and numbers of other programs: hostile ones are refused in little memory."""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ccvae_eval.checkpoint.sidecar import read_sidecar
from ccvae_eval.comparison.gate import read_gate
from ccvae_eval.core.errors import DataError, InputError, UsageError
from ccvae_eval.core.typed import load_toml
from ccvae_eval.data.images import regions
from ccvae_eval.data.images.regions import regions_in
from ccvae_eval.data.images.stores import FolderStore
from ccvae_eval.data.sets.codes import read_codes
from ccvae_eval.data.sets.mnist import IMAGES_MAGIC, read_idx
from ccvae_eval.recipes.recipe import parse_recipe, read_recipe
from tests.support.commands import run_command

KEY = b"a" + b".a" * 100_000
HOSTILE_TOML = {
    "dotted_key": (KEY + b" = 1", "nested more than 32 levels"),
    "dotted_table": (b"[" + KEY + b"]", "nested more than 32 levels"),
    "spaces": (b"a" + b" . a" * 100_000 + b" = 1", "nested more than 32 levels"),
    "quoted_parts": (b'"a"' + b""" . 'a'."a\\"b" """ * 50_000 + b" = 1", "nested more than 32 levels"),
    "inline_table": (b"x = {" + KEY + b" = 1}", "nested more than 32 levels"),
    "hex_digits": (b"x = 0x" + b"f" * 500_000, "x must have at most 128 bits"),
    "decimal_digits": (b"x = " + b"9" * 500_000, "is not valid TOML"),
    "brackets": (b"x = " + b"[" * 200_000, "nested more than 32 levels"),
    "tables": (b"x = " + b"{a=" * 100_000, "nested more than 32 levels"),
    "many_entries": (b"x = [" + b"1," * 300_000 + b"]", "too many entries"),
    "much_text": (b"#" * (1 << 20) + b"#", "is too large"),
}


@pytest.mark.parametrize("attack", HOSTILE_TOML)
def test_hostile_toml_is_refused_in_little_memory(attack: str) -> None:
    """A key of 100,000 parts took minutes and gigabytes."""
    content, message = HOSTILE_TOML[attack]
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            load_toml(content, "x.toml")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text", ['x = "a. b. c. d. e. f"', "x = 1.5e3", "[a.b.c.d]\ne.f.g = 1", '"locality.focus" = 0.5']
)
def test_honest_toml_with_dots_is_read(text: str) -> None:
    assert load_toml(text.encode(), "x.toml")


@pytest.mark.parametrize("attack", ["dotted_key", "hex_digits", "brackets"])
def test_hostile_toml_is_refused_by_its_commands(
    attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = HOSTILE_TOML[attack]
    file, weights = tmp_path / "x.toml", tmp_path / "x.pt"
    file.write_bytes(content)
    torch.save({"weight": torch.ones(1)}, weights)
    for arguments in (("reproduce", file), ("inspect", weights)):
        assert run_command(*arguments) == 3
        assert f"{file}: " in (error := capsys.readouterr().err)
        assert message in error
    with pytest.raises(UsageError, match=message):  # the user's own rules
        read_gate(file)


def test_the_grid_of_a_recipe_is_counted_before_it_is_made() -> None:
    axes = "\n".join(f'"set.a{i}" = {list(range(10))}' for i in range(12))
    head = 'title = "x"\ndata = "faces"\nmetrics = ["locality"]\ntables = []\n'
    experiment = '[[contenders]]\nname = "a"\nmodel = "ccvae"\n'
    with pytest.raises(UsageError, match=f"1 to 10000 trainings, got {10**12}"):
        parse_recipe(f"{head}{experiment}[axes]\n{axes}", "x", "x.toml")


# files that are not regular


READERS = {
    "recipe.toml": lambda path: read_recipe(str(path)),
    "rules.toml": read_gate,
    "weights.toml": lambda path: read_sidecar(path.with_suffix(".pt")),
    "codes.csv": lambda path: read_codes(path, path),
    "codes.npz": lambda path: read_codes(path, None),
    "images.png": lambda path: FolderStore(path.parent).read(path.name),
    "train-images-idx3-ubyte.gz": lambda path: read_idx(path, IMAGES_MAGIC),
    "train-images-idx3-ubyte": lambda path: read_idx(path, IMAGES_MAGIC),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_pipes_and_devices_are_named_at_once(name: str, kind: str, tmp_path: Path) -> None:
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(InputError, match=f"{name}: is a {kind}, not a file"):
        READERS[name](tmp_path / name)


# images


def test_a_compressed_idx_file_is_read_no_further_than_its_header_states(tmp_path: Path) -> None:
    """Two images, and 64 MiB of zeros behind them."""
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">4I", IMAGES_MAGIC, 2, 28, 28) + bytes(64 << 20), 1))
    tracemalloc.start()
    with pytest.raises(DataError, match="it contains more"):
        read_idx(path, IMAGES_MAGIC)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_an_idx_file_of_too_many_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(struct.pack(">4I", IMAGES_MAGIC, 1_000_000, 512, 512))
    with pytest.raises(DataError, match="the limit is 512 MiB"):
        read_idx(path, IMAGES_MAGIC)


def _png(width: int, height: int) -> bytes:
    """A PNG of one pixel whose header states another size, with the right checksum."""
    raw = bytearray(cv2.imencode(".png", np.zeros((1, 1), np.uint8))[1].tobytes())
    raw[16:24] = struct.pack(">2I", width, height)
    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    return bytes(raw)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_png(32_000, 32_000), "the image has 32000 x 32000 pixels"),
        (_png(1, 0), "the image has 1 x 0 pixels"),
        (_png(2**31, 2**31), "pixels"),
        (_png(1, 1)[:-4], "is truncated"),
        (b"\xff\xd8\xff jpeg", "is not a mask"),
        (b"", "is not a mask"),
    ],
    ids=["many pixels", "no pixels", "overflow", "truncated", "jpeg", "empty"],
)
def test_a_mask_is_checked_before_it_is_decoded(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions.cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    (tmp_path / "Hat").mkdir()
    (tmp_path / "Hat" / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=message):
        regions_in(tmp_path).of("a.jpg", "Hat", 8, 8)
