"""``calibrate``: its JSON document, its files, resuming, and its exit codes."""

from __future__ import annotations

import json

import pytest

from ccvae_eval.cli.main import main

QUICK = ("--own", "--sample", "8", "--steps", "3", "--quiet")
KEYS = {
    "metric", "value", "dial", "own", "passed", "spearman", "at_zero", "at_end", "known_zero", "known_end", "covers",
}  # fmt: skip


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", *arguments])
    return ended.value.code, capsys.readouterr().out


def test_calibration_of_accuracy(tmp_path, capsys):
    code, out = run(capsys, "accuracy", *QUICK, "--json", "--out", str(tmp_path))
    document = json.loads(out)
    rows = {(row["value"], row["dial"]): row for row in document["calibration"]}
    assert set(rows[("accuracy", "mislabel")]) == KEYS
    assert code == 0
    assert all(row["passed"] and row["own"] for row in rows.values())
    right = rows[("balanced_accuracy", "mislabel")]
    assert right["known_zero"] == right["at_zero"] == 1.0
    assert right["known_end"] == pytest.approx((4 * 0.5 + 0.2) / 5)
    assert {p.name for p in tmp_path.iterdir()} == {"calibration.json", "calibration.md", "curves.png", "cells"}
    assert json.loads((tmp_path / "calibration.json").read_text()) == document
    assert "| `accuracy.accuracy` | mislabel | yes |" in (tmp_path / "calibration.md").read_text()


def test_an_interrupted_calibration_is_resumed(tmp_path, capsys):
    arguments = ("accuracy", *QUICK[:-1], "--dial", "mislabel", "--out", str(tmp_path))
    _, first = run(capsys, *arguments)
    (tmp_path / "cells" / sorted(p.name for p in (tmp_path / "cells").iterdir())[0]).write_text("half a fi")
    with pytest.raises(SystemExit):
        main(["calibrate", *arguments])
    again = capsys.readouterr()
    assert again.out == first
    assert "(2 already measured)" in again.err


def test_a_value_that_fails_gives_exit_code_1(tmp_path, capsys):
    code, out = run(capsys, "locality", *QUICK, "--judge", "none", "--dial", "smear", "--characteristic", "Eyeglasses",
                    "--option", "locality.steps=3", "--json", "--out", str(tmp_path))  # fmt: skip
    rows = {row["value"]: row for row in json.loads(out)["calibration"]}
    assert rows["focus"]["known_end"] == 0
    assert rows["focus"]["at_end"] == pytest.approx(0, abs=1e-4)
    assert code == (1 if any(row["passed"] is False for row in rows.values()) else 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["acuracy"], "accuracy"),
        (["accuracy", "--dial", "mislable"], "mislabel"),
        (["accuracy", "-c", "Eyeglass"], "Eyeglasses"),
        (["accuracy", "--option", "locality.steps=3"], "which is not calibrated"),
        (["accuracy", "--option", "accuracy.bin=3"], "bins"),
        (["accuracy", "--data", "folder:/nowhere"], "nowhere"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", *arguments, *QUICK, "--out", str(tmp_path)])
    assert ended.value.code in (2, 3)
    assert message in capsys.readouterr().err
