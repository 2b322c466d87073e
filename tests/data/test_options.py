from __future__ import annotations

import pytest

from ccvae_eval.core.errors import UsageError
from ccvae_eval.data.spec import Options, refuse_path, require_path


def test_options_are_read_by_type() -> None:
    read = Options("set", {"size": "32", "share": "0.25", "labels": "A| B|", "mode": "x"})
    assert read.integer("size", 64) == 32
    assert read.integer("seed", 7) == 7
    assert read.number("share", 0.0, below=1) == 0.25
    assert read.names("labels") == ("A", "B")
    assert read.names("others") == ()
    assert read.text("mode", choices=("x", "y")) == "x"
    read.finish()


@pytest.mark.parametrize("value", ["", "3.5", "ten", "-1", "11", "1e3"])
def test_integers_out_of_bounds_are_rejected(value: str) -> None:
    with pytest.raises(UsageError, match=f"set: n must be a whole number from 0 to 10, got '{value}'"):
        Options("set", {"n": value}).integer("n", 5, low=0, high=10)


@pytest.mark.parametrize("value", ["1", "-0.1", "nan", "inf", "half"])
def test_shares_out_of_bounds_are_rejected(value: str) -> None:
    with pytest.raises(UsageError, match="s must be a number of at least 0 and below 1"):
        Options("set", {"s": value}).number("s", 0.5, below=1)


def test_errors_list_the_choices() -> None:
    with pytest.raises(UsageError, match="one of 32, 64"):
        Options("set", {"size": "33"}).integer("size", 64, choices=(32, 64))
    with pytest.raises(UsageError, match="one of a, b"):
        Options("set", {"mode": "c"}).text("mode", "a", choices=("a", "b"))


def test_unknown_options_suggest_the_nearest() -> None:
    read = Options("set", {"sise": "3"})
    read.integer("size", 64)
    with pytest.raises(UsageError, match="set has no option 'sise'\nDid you mean 'size'"):
        read.finish()


def test_missing_and_superfluous_paths_are_rejected() -> None:
    refuse_path("faces", None)
    with pytest.raises(UsageError, match="takes no path"):
        refuse_path("faces", "x")
    assert require_path("npz", "a.npz", "a file") == "a.npz"
    for path in (None, ""):
        with pytest.raises(UsageError, match="Write npz:PATH, where PATH is a file"):
            require_path("npz", path, "a file")
