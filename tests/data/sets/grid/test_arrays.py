"""dSprites, 3D Shapes and MPI3D in their released structure, whole and damaged."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from ccvae_eval import evaluate
from ccvae_eval.core.errors import DataError, UsageError
from ccvae_eval.core.types import Floats, Ids
from ccvae_eval.data.sets.grid import arrays, rows
from ccvae_eval.data.sets.sprites import Sprites
from ccvae_eval.data.spec import open_data
from ccvae_eval.data.splits import split_by_id
from ccvae_eval.data.summary import describe
from ccvae_eval.testing.data import check_data_set
from tests.support import grid_files
from tests.support.grid_files import DSPRITES, SIZES_3D, dsprites_arrays, noise, shapes3d_arrays, sprite_ids
from tests.support.paths import SHARED

CONTINUOUS = "shape|scale:continuous|orientation:continuous|posX:continuous|posY:continuous"
CHUNKED = ({}, {"chunks": (1, 64, 64)}, {"chunks": (50, 8, 8), "compression": "gzip"})


def read_whole(spec: str) -> None:
    data = open_data(spec)
    data.batch(np.arange(len(data)))


@pytest.mark.parametrize("packed", [False, True])
def test_dsprites_shows_the_images_of_sprites(tmp_path: Path, packed: bool) -> None:
    grid_files.dsprites(tmp_path, packed)
    data, drawn = open_data(f"dsprites:{tmp_path},labels={CONTINUOUS}"), Sprites()
    check_data_set(data)
    ids, same = np.arange(len(data)), sprite_ids()
    assert torch.equal(data.batch(ids).images, drawn.batch(same).images)
    assert data.batch(ids).images.stride() == drawn.batch(same).images.stride()
    assert np.array_equal(data.labels_of(ids), drawn.labels_of(same))
    assert np.array_equal(data.region(ids, "shape"), drawn.region(same, "shape"))
    assert np.array_equal(data.region(ids, "scale"), drawn.region(same, "scale"))
    for label, own in (("shape", "shape"), ("scale", "scale"), ("posX", "position_x"), ("posY", "position_y")):
        value = data.labels_of(np.roll(ids, 7))[:, data.schema.index(label)]
        assert torch.equal(data.with_attribute(ids, label, value), drawn.with_attribute(same, own, value))


def test_factors_become_categorical_labels_with_their_values_as_classes(tmp_path: Path) -> None:
    data = open_data(f"dsprites:{grid_files.dsprites(tmp_path)}")
    check_data_set(data)
    assert data.schema.names == ("shape", "scale", "orientation", "posX", "posY")
    assert data.schema["shape"].classes == ("square", "ellipse", "heart")
    assert data.schema["scale"].classes == ("0.5", "0.6", "0.7", "0.8", "0.9", "1")
    assert data.input_shape == (1, 64, 64)


def test_a_full_grid_has_the_splits_of_sprites() -> None:
    for name in ("train", "judge", "test"):
        assert np.array_equal(split_by_id(737_280).ids(name), Sprites().split(name))


@pytest.mark.parametrize("storage", CHUNKED)
def test_hdf5_equals_npz(tmp_path: Path, storage: dict[str, object]) -> None:
    data = open_data(f"dsprites:{grid_files.dsprites_hdf5(tmp_path, **storage)}")
    check_data_set(data)
    assert data.digest == open_data(f"dsprites:{grid_files.dsprites(tmp_path)}").digest
    assert np.array_equal(data.pixels(np.arange(len(data)))[..., 0], dsprites_arrays()["imgs"] * 255)


def test_the_pickled_metadata_are_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"

    class Canary:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    np.savez(tmp_path / "dsprite_train.npz", **{**dsprites_arrays(), "metadata": np.array(Canary(), object)})
    assert len(open_data(f"dsprites:{tmp_path}")) == len(sprite_ids())
    assert not canary.exists()


@pytest.mark.parametrize("storage", [{}, {"chunks": (2, 64, 64, 3)}, {"chunks": (64, 2, 4, 1), "compression": "gzip"}])
def test_shapes3d(tmp_path: Path, storage: dict[str, object]) -> None:
    data = open_data(f"shapes3d:{grid_files.shapes3d(tmp_path, **storage)}")
    check_data_set(data)
    assert data.schema.names == arrays.SHAPES3D_FACTORS
    assert data.schema["shape"].classes == ("cube", "cylinder", "sphere", "capsule")
    assert data.schema["orientation"].classes == ("-30", "30")
    assert np.array_equal(data.pixels(np.arange(len(data))), shapes3d_arrays()["images"])


def test_forms_of_shapes3d(tmp_path: Path) -> None:
    """An .npz, one in another order, and one whose factors are axes."""
    whole = open_data(f"shapes3d:{grid_files.shapes3d(tmp_path)}")
    np.savez(tmp_path / "shapes3d.npz", **shapes3d_arrays())
    order = np.random.default_rng(0).permutation(len(whole))
    shuffled = {name: array[order] for name, array in shapes3d_arrays().items()}
    np.savez(tmp_path / "shuffled.npz", **shuffled)
    for name in ("shapes3d", "shuffled"):
        assert open_data(f"shapes3d:{tmp_path / name}.npz").digest == whole.digest
    np.savez(tmp_path / "axes.npz", images=shapes3d_arrays()["images"].reshape(*SIZES_3D, 64, 64, 3))
    axes = open_data(f"shapes3d:{tmp_path / 'axes.npz'}")
    assert np.array_equal(axes.pixels(np.arange(len(axes))), shapes3d_arrays()["images"])


PEAK = """
import re, sys
from pathlib import Path
import numpy as np
from ccvae_eval.data.spec import open_data
from ccvae_eval.data.splits import sample_ids
from ccvae_eval.data.summary import describe

data = open_data(f"mpi3d:{sys.argv[1]}")
ids = data.split("test")[::50]
for some in np.array_split(ids, 100):
    data.batch(some)
data.region(ids[:100], "horizontal_axis")
describe(data)
sample_ids(data, "test", sample=500)
print(len(data), re.search(r"VmHWM: +(\\d+)", Path("/proc/self/status").read_text().replace("\\t", " "))[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of memory is read in /proc")
def test_the_whole_file_of_mpi3d_is_read_in_little_memory(tmp_path: Path) -> None:
    path = grid_files.sparse_mpi3d(tmp_path / "mpi3d.npz")
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    count, peak = map(int, done.stdout.split())
    assert count == 1_036_800
    assert peak * 1024 < 2**30


@pytest.mark.parametrize("packed", [False, True])
def test_mpi3d(tmp_path: Path, packed: bool) -> None:
    path = grid_files.mpi3d(tmp_path, packed)
    sizes = "|".join(map(str, grid_files.MPI3D_SIZES))
    data = open_data(f"mpi3d:{path},sizes={sizes}")
    check_data_set(data)
    assert data.schema.names == tuple(name for name in arrays.MPI3D_FACTORS if name != "background_color")
    assert data.schema["camera_height"].classes == ("top", "center", "bottom")
    assert np.array_equal(data.pixels(np.arange(len(data))), noise(len(data), 64, 64, 3))
    with pytest.raises(DataError, match="the file has 96 images, MPI3D has 1,036,800 or 460,800"):
        open_data(f"mpi3d:{path}")
    for wrong in ("2|2", "2|2|2|3|1|2|x", "0|2|2|3|1|2|2"):
        with pytest.raises(UsageError, match="sizes must be"):
            open_data(f"mpi3d:{path},sizes={wrong}")
    with pytest.raises(DataError, match="96 images, the factors have 192 combinations"):
        open_data(f"mpi3d:{path},sizes=2|2|2|3|2|2|2")


def test_the_number_of_images_gives_the_sizes_of_mpi3d(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for count, kinds in ((1_036_800, 6), (460_800, 4)):
        path = tmp_path / f"{count}.npz"
        np.savez(path, images=np.broadcast_to(np.uint8(3), (count, 1, 1, 3)))
        data = open_data(f"mpi3d:{path}")
        assert data.sizes == (kinds, kinds, 2, 3, 3, 40, 40)
        assert data.schema["object_color"].classes[0] == ("white" if kinds == 6 else "0")


def test_a_large_compressed_file_is_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rows, "HELD_BYTES", 0)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 64 * 64 * 7)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = grid_files.dsprites(tmp_path)
    data = open_data(f"dsprites:{path}")
    said = caplog.messages
    assert len(said) == 1
    assert "Its images are unpacked once, 0.0 GB" in said[0]
    assert np.array_equal(data.pixels(np.arange(len(data)))[..., 0], dsprites_arrays()["imgs"] * 255)
    (cached,) = (tmp_path / "cache" / "ccvae-eval").iterdir()
    assert cached.stat().st_size == dsprites_arrays()["imgs"].size
    assert open_data(f"dsprites:{path}").digest == data.digest
    assert len(caplog.messages) == 1
    os.utime(path, (1, 1))
    open_data(f"dsprites:{path}")
    assert len(caplog.messages) == 2
    monkeypatch.setattr(rows.shutil, "disk_usage", lambda folder: Namespace(free=3))
    os.utime(path, (2, 2))
    with pytest.raises(DataError, match="do not fit on the disk"):
        open_data(f"dsprites:{path}")
    assert not [file for file in (tmp_path / "cache" / "ccvae-eval").iterdir() if file.suffix == ".partial"]


def test_a_damaged_compressed_file_leaves_nothing_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "HELD_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = grid_files.mpi3d(tmp_path, packed=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="images: contains an unreadable array"):
        open_data(f"mpi3d:{path},sizes=2|2|2|3|1|2|2")
    assert not list((tmp_path / "cache" / "ccvae-eval").iterdir())


def _without(name: str) -> dict[str, object]:
    return {key: array for key, array in dsprites_arrays().items() if key != name}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_without("imgs"), "the array 'imgs' is missing"),
        (_without("latents_values"), "the array 'latents_values' is missing"),
        ({**dsprites_arrays(), "imgs": dsprites_arrays()["imgs"][:-1]}, "the labels have the shape"),
        ({**dsprites_arrays(), "imgs": dsprites_arrays()["imgs"] / 2}, "images have the shape .* type float64"),
        ({**dsprites_arrays(), "imgs": dsprites_arrays()["imgs"][:, 0]}, "images have the shape"),
        ({**dsprites_arrays(), "latents_values": dsprites_arrays()["latents_values"][:, 1:]}, "5 columns"),
        ({**dsprites_arrays(), "latents_values": np.array(["a"])}, "the labels have the shape"),
        ({**dsprites_arrays(), "imgs": np.array([1, None], object)}, "Python objects"),
        ({**dsprites_arrays(), "imgs": np.asfortranarray(dsprites_arrays()["imgs"])}, "column by column"),
    ],
)
def test_unexpected_arrays_are_named(tmp_path: Path, content: dict[str, np.ndarray], message: str) -> None:
    path = tmp_path / f"{DSPRITES}.npz"
    np.savez(path, **content)
    with pytest.raises(DataError, match=message) as caught:
        open_data(f"dsprites:{path}")
    assert DSPRITES in str(caught.value)


def test_pixels_of_dsprites_are_0_or_1(tmp_path: Path) -> None:
    np.savez(tmp_path / f"{DSPRITES}.npz", **{**dsprites_arrays(), "imgs": dsprites_arrays()["imgs"] * 255})
    with pytest.raises(DataError, match="pixels must be 0 or 1"):
        open_data(f"dsprites:{tmp_path}").batch(np.arange(3))


@pytest.mark.parametrize("make", [grid_files.dsprites, grid_files.dsprites_hdf5])
def test_truncated_files_are_named(tmp_path: Path, make) -> None:
    path = make(tmp_path)
    whole = path.read_bytes()
    for part in (0, 1, 7, 100, len(whole) // 2, len(whole) - 30_000):
        path.write_bytes(whole[:part])
        with pytest.raises(DataError) as caught:
            read_whole(f"dsprites:{path}")
        assert DSPRITES in str(caught.value)


def test_without_pyfive_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = grid_files.shapes3d(tmp_path)
    monkeypatch.setitem(sys.modules, "pyfive", None)
    with pytest.raises(DataError, match="3dshapes.h5: needs the package pyfive") as caught:
        open_data(f"shapes3d:{path}")
    assert caught.value.hint == "pip install 'ccvae-eval[hdf5]'"


def test_damaged_hdf5_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "3dshapes.h5"
    with h5py.File(path, "w") as file:
        file["images"] = shapes3d_arrays()["images"]
    with pytest.raises(DataError, match="the array 'labels' is missing"):
        open_data(f"shapes3d:{path}")
    with h5py.File(path, "a") as file:
        file.create_group("labels")
    with pytest.raises(DataError, match="the array 'labels' is missing"):
        open_data(f"shapes3d:{path}")
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="the HDF5 file cannot be read"):
        open_data(f"shapes3d:{path}")
    with h5py.File(path, "w") as file:
        file.create_dataset("images", (10**9, 64, 64, 3), np.uint8, chunks=(1, 64, 64, 3))
        file["labels"] = np.zeros((3, 6))
    with pytest.raises(DataError, match="the images have 12,288,000,000,000 bytes"):
        open_data(f"shapes3d:{path}")


def test_damaged_chunks_are_named(tmp_path: Path) -> None:
    path = grid_files.shapes3d(tmp_path, chunks=(1, 64, 64, 3), compression="gzip")
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 40_000, 1000):
        content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"3dshapes\.h5"):
        read_whole(f"shapes3d:{path}")


@pytest.mark.parametrize("make", [grid_files.dsprites, partial(grid_files.dsprites_hdf5, chunks=(50, 8, 8))])
@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("MAX_ROW_BYTES", "9 for an image"),
        ("MAX_TABLE_BYTES", "the table of labels is too large"),
    ],
)
def test_large_arrays_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make, limit, message) -> None:
    monkeypatch.setattr(rows, limit, 9)
    with pytest.raises(DataError, match=message):
        open_data(f"dsprites:{make(tmp_path)}")


def test_chunks_that_span_many_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_BAND_BYTES", 50 * 64 * 64 - 1)
    with pytest.raises(DataError, match="its chunks span 204,800 bytes, the limit is 204,799"):
        open_data(f"dsprites:{grid_files.dsprites_hdf5(tmp_path, chunks=(50, 8, 8))}")


@pytest.mark.parametrize("make", [lambda place: grid_files.dsprites(place, packed=False), grid_files.dsprites_hdf5])
def test_a_file_that_changes_while_it_is_used_is_named(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path)
    data = open_data(f"dsprites:{path}")
    os.utime(path, (1, 1))
    with pytest.raises(DataError, match="imgs: has changed since it was opened"):
        data.batch(np.arange(3))


def test_missing_files_are_named(tmp_path: Path) -> None:
    for name in ("dsprites", "shapes3d", "mpi3d"):
        with pytest.raises(DataError, match="contains none of the expected files"):
            open_data(f"{name}:{tmp_path}")
        with pytest.raises(DataError, match="the path does not exist"):
            open_data(f"{name}:{tmp_path / 'absent'}")


def test_inspect_says_whether_the_file_is_official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = grid_files.shapes3d(tmp_path)
    data = open_data(f"shapes3d:{path}")
    assert describe(data)["files"] == {"3dshapes.h5": "not the official file"}
    own = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(arrays, "SHAPES3D_MD5", (own,))
    assert describe(open_data(f"shapes3d:{path}"))["files"] == {"3dshapes.h5": "official file"}
    # the checksum of the .npz of dSprites is not known
    assert describe(open_data(f"dsprites:{grid_files.dsprites(tmp_path)}"))["files"] is None
    files = describe(open_data(f"dsprites:{grid_files.dsprites_hdf5(tmp_path)}"))["files"]
    assert files == {f"{DSPRITES}.hdf5": "not the official file"}
    mpi3d = describe(open_data(f"mpi3d:{grid_files.mpi3d(tmp_path)},sizes=2|2|2|3|1|2|2"))
    assert mpi3d["files"] == {"mpi3d_toy.npz": "not the official file"}


class SomeSprites(Sprites):
    """The images of ``sprites`` that the specimens hold, in their order."""

    spec = "sprites"

    def __len__(self) -> int:
        return len(sprite_ids())

    def factors(self, ids: Ids) -> Floats:
        return Sprites().factors(sprite_ids()[ids])


CHECKPOINT = SHARED / "checkpoints/disvae_VAE_dsprites/model.pt"
VOTES, VARIANCES = ("factor_vae", "beta_vae", "z_max_var"), ("consistency", "restrictiveness")


@pytest.mark.oracle
@pytest.mark.skipif(not CHECKPOINT.is_file(), reason="the checkpoint is not in the shared folder")
def test_a_published_checkpoint_has_equal_scores_on_dsprites_and_sprites(tmp_path: Path) -> None:
    """But for the scores of groups, which are drawn by factors on a grid and by labels on ``sprites``."""
    spec = f"dsprites:{grid_files.dsprites(tmp_path)},labels={CONTINUOUS}"
    both = [open_data(spec, ["position_x=posX", "position_y=posY"]), SomeSprites()]
    options = {"disentanglement": {"every": True}, "reconstruction": {}}
    runs = [
        evaluate(CHECKPOINT, data, list(options), options=options, judge="none", sample=200, cache_dir=tmp_path)
        for data in both
    ]
    found, wanted = ([v for m in run.measurements for v in m.values] for run in runs)
    assert len(found) == len(wanted) > 40
    for one, other in zip(found, wanted, strict=True):
        if one.name.startswith(VOTES):
            assert one.estimate.value == pytest.approx(other.estimate.value, abs=0.1), one.name
        elif one.name in VARIANCES:
            assert one.estimate.defined == other.estimate.defined
            if one.characteristic is None:  # the score of a single factor rests on 24 groups, which differ
                assert max(one.estimate.low, other.estimate.low) <= min(one.estimate.high, other.estimate.high)
        else:
            assert repr(one) == repr(other)
