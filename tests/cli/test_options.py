"""The command line that a run records and that ``Next:`` extends."""

from __future__ import annotations

import pytest

from ccvae_eval.cli import GIVEN
from ccvae_eval.cli.options import command_line


@pytest.mark.parametrize(
    ("given", "without", "expected"),
    [
        ("run a.pt --out x -v", "", "ccvae-eval run a.pt --out x -v"),
        ("run a.pt -o x --force -v", "--out", "ccvae-eval run a.pt -v"),
        ("run a.pt --out=x -v", "--out", "ccvae-eval run a.pt -v"),
        ("run a.pt -ox -v", "--out", "ccvae-eval run a.pt -v"),
        ("run a.pt -dx -cA,B -v", "--data y --labels A", "ccvae-eval run a.pt -v"),
        ("run a.pt --sample 40 -d faces", "--sample 640", "ccvae-eval run a.pt -d faces"),
        ("run a.pt -c A,B --seed 1", "--labels A", "ccvae-eval run a.pt --seed 1"),
        ("run a.pt --characteristic A -v", "--labels A", "ccvae-eval run a.pt -v"),
        ("run a.pt -d x --rename A=B -v", "--data x,label=A=B", "ccvae-eval run a.pt -v"),
        ("run a.pt --data x --label A=B -v", "--data x,label=A=B", "ccvae-eval run a.pt -v"),
        ("run a.pt --data x --label A=B", "--sample all", "ccvae-eval run a.pt --data x --label A=B"),
    ],
)
def test_options_that_are_replaced_are_left_out(given: str, without: str, expected: str) -> None:
    token = GIVEN.set(tuple(given.split()))
    try:
        assert command_line(without) == expected
    finally:
        GIVEN.reset(token)


def test_a_part_with_spaces_is_quoted() -> None:
    token = GIVEN.set(("run", "my model.pt"))
    try:
        assert command_line() == "ccvae-eval run 'my model.pt'"
    finally:
        GIVEN.reset(token)
