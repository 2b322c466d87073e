"""Arrays of many images in temporary files: the same numbers as in memory."""

import gc
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from ccvae_eval.core import large_arrays
from ccvae_eval.core.errors import InputError
from ccvae_eval.core.large_arrays import LargeArray, LargeArrays, forget_pages, mapped_array


def test_an_array_in_a_file_reads_and_writes_like_one_in_memory():
    random = np.random.default_rng(0)
    expected, found = np.zeros((50, 3)), LargeArray((50, 3), np.float64)
    for rows in (slice(0, 10), slice(40, None), np.array([3, 49, 20]), np.arange(50) % 7 == 0):
        values = random.standard_normal(expected[rows].shape)
        expected[rows] = found[rows] = values
        np.testing.assert_array_equal(found[:], expected)
    np.testing.assert_array_equal(found[8:12], expected[8:12])
    np.testing.assert_array_equal(found[np.array([7, 7, 0])], expected[[7, 7, 0]])
    found[5:9] = np.nan
    assert np.isnan(found[5:9]).all()
    assert len(found) == 50


def test_arrays_that_share_a_file_do_not_overlap():
    first = LargeArray((7,), np.uint8)
    second = LargeArray((5, 2), np.float64, first)
    first[:], second[:] = 255, 1.5
    assert (first[:] == 255).all()
    assert (second[:] == 1.5).all()


def test_the_file_is_closed_with_its_last_array():
    opened = Path("/proc/self/fd")
    if not opened.exists():
        pytest.skip("needs /proc")
    before = len(list(opened.iterdir()))
    first = LargeArray((7,), np.uint8)
    second = LargeArray((7,), np.uint8, first)
    del first
    gc.collect()
    assert (second[:] == 0).all()
    del second
    gc.collect()
    assert len(list(opened.iterdir())) == before


def test_a_full_disk_is_an_error_with_a_hint(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    array = LargeArray((7,), np.uint8)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InputError, match="No space left on device") as caught:
        array[:] = 1
    assert "TMPDIR" in str(caught.value)


def test_short_reads_and_writes_are_continued(monkeypatch):
    read, write = os.preadv, os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, view, place: write(file, view[:5], place))
    monkeypatch.setattr(os, "preadv", lambda file, views, place: read(file, [views[0][:5]], place))
    array, expected = LargeArray((7, 2), np.float64), np.arange(14.0).reshape(7, 2)
    array[:] = expected
    np.testing.assert_array_equal(array[:], expected)
    np.testing.assert_array_equal(array[np.array([6, 0])], expected[[6, 0]])


def test_named_arrays_are_a_mapping(monkeypatch):
    monkeypatch.setattr(large_arrays, "MAX_IN_MEMORY", 10)
    expected = {"few": np.arange(5), "many": np.arange(20.0), "more": np.arange(40).reshape(20, 2), "one": np.array(3)}
    found = LargeArrays()
    found.update(expected)
    assert "many" in found
    assert "other" not in found
    assert list(found) == list(expected)
    for back in (found, pickle.loads(pickle.dumps(found))):
        for name, array in expected.items():
            np.testing.assert_array_equal(back[name], array)
            assert back[name].dtype == array.dtype
    del found["many"]
    assert len(found) == 3
    np.testing.assert_array_equal(found["more"], expected["more"])


def test_a_mapped_array_keeps_its_content_when_their_pages_are_forgotten():
    found, expected = mapped_array((5000, 4), np.float32), np.arange(20_000, dtype=np.float32).reshape(5000, 4)
    found[:] = expected
    forget_pages()
    np.testing.assert_array_equal(found, expected)
    found[7] = 0
    forget_pages()
    assert found[7].sum() == 0
    before = len(large_arrays._maps)
    del found
    gc.collect()
    assert len(large_arrays._maps) == before - 1


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_forgotten_pages_are_no_memory_of_the_process():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before, found = resident(), mapped_array((1 << 20, 8), np.float64)
    found[:] = 1.0
    assert resident() > before + found.nbytes // 2
    forget_pages()
    assert resident() < before + found.nbytes // 2
    assert found.sum() == found.size


def test_a_mapped_array_for_which_the_disk_has_no_room_is_an_error_with_a_hint(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(large_arrays, "_reserve", full)
    with pytest.raises(InputError, match="No space left on device") as caught:
        mapped_array((20, 1), np.float32)
    assert "TMPDIR" in str(caught.value)
