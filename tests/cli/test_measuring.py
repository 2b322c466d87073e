"""Options of a single evaluation: ``--dry-run``, ``--width`` and ``--by``."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ccvae_eval
from ccvae_eval.cli.main import load_command
from ccvae_eval.cli.measuring import next_command
from ccvae_eval.cli.options import SINGLE, Common
from tests.support.commands import run_command
from tests.support.runs import measurement, run_of, undefined, value

SHIPPED = Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt"

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.mark.slow
def test_a_dry_run_prints_the_plan_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(SHIPPED, "model.pt")
    settings = ["--option", "reconstruction.importance=0"]
    options = ["-m", "reconstruction,accuracy", *settings, "--sample", "64", "--dry-run", "--out", "out"]
    assert run_command("run", "model.pt", *options) == 0
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    assert ["accuracy", "64", "0"] in lines
    assert "64 images to encode, " in shown
    assert "judge: " in shown
    assert "time: about " in shown
    assert run_command("run", "model.pt", *options, "--json", "--blocks", "1/2") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["images"] == {"reconstruction": 64, "accuracy": 64}
    assert document["encode"] == 64 <= document["decode"]
    assert [file.name for file in Path().iterdir()] == ["model.pt"]


@pytest.mark.slow
def test_width_looks_at_fewer_images(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(SHIPPED, "model.pt")
    options = [
        "-m",
        "accuracy",
        "--labels",
        "Smiling",
        "--sample",
        "300",
        "--width",
        "0.4",
        "--no-page",
        "--no-figures",
    ]
    assert run_command("run", "model.pt", *options, "--out", "out") == 0
    shown = capsys.readouterr().out
    assert "stopped     after 64 of 300 images: 236 images saved" in shown
    stopping = json.loads(Path("out/run.json").read_text())["data"]["stopping"]
    assert stopping == {"width": 0.4, "level": 1 - 0.05 / 4, "looks": [64], "of": 300, "reached": True}


def test_width_must_be_positive_and_goes_without_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("run", "model.pt", "--width", "-1") == 2
    assert "--width" in capsys.readouterr().err
    assert run_command("run", "model.pt", "--width", "0.1", "--blocks", "1/2") == 2
    assert "--blocks and --width exclude each other" in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "without"), [
    ("run", set()), ("locality", set()), ("sweep", {"dry_run"}), ("merge", {*SINGLE}), ("compare", {*SINGLE}),
    ("disentanglement", {*SINGLE}),
])  # fmt: skip
def test_only_verbs_that_use_an_option_have_it(verb: str, without: set[str]) -> None:
    names = {parameter.name for parameter in load_command(verb).params}
    assert names & {*SINGLE} == {*SINGLE} - without


def test_the_suggested_evaluation_opens_model_and_data_in_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", "faces,size=64,n=400", "--rename", "Grin=Smiling"]
    shared = ["--limit", "8", "--judge", "none", "--no-page", "--no-figures"]
    assert run_command("reconstruction", SHIPPED, *options, *shared) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Next: "))
    assert shlex.split(line)[1:] == ["ccvae-eval", "run", str(SHIPPED), *options]


@pytest.mark.parametrize(
    ("error", "training", "following"),
    [
        (0.05, None, "ccvae-eval inspect w.pt --set images.logits=true --plugin mine.py"),
        (0.05, {"steps": 2}, "ccvae-eval train vae --out b.pt"),
        (0.03, None, "ccvae-eval train vae --out b.pt"),
    ],
)
def test_a_model_of_unknown_training_that_reconstructs_no_image_is_looked_at_first(
    error: float, training: dict[str, Any] | None, following: str
) -> None:
    mse = replace(value("mse", error), chance=0.04)
    missing = replace(undefined("focus", "Smiling", "why"), remedy="ccvae-eval train vae --out b.pt")
    run = run_of(measurement("reconstruction", "mse", [mse]), measurement("locality", "focus", [missing]))
    run = replace(run, header=replace(run.header, training=training))
    common = Common(set=["images.logits=true"], plugin=[Path("mine.py")])
    assert next_command(run, "w.pt", common) == following


def test_the_demo_overwrites_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run = Path("mine/run.json")
    run.parent.mkdir()
    run.write_text("{}")
    assert run_command("demo", "--out", "mine") == 2
    assert "already contains a run" in capsys.readouterr().err
    assert run.read_text() == "{}"


def test_a_metric_that_ends_shows_its_value_and_the_sentence_comes_once(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["-m", "accuracy,reconstruction", "--limit", "8", "--judge", "none", "--no-page", "--no-figures"]
    assert run_command("run", SHIPPED, *options) == 0
    shown = capsys.readouterr()
    assert re.search(r"^reconstruction.mse 0\.0\d\d \[0\.0\d\d, 0\.0\d\d\]$", shown.err, re.MULTILINE)
    assert "The reconstruction MSE" not in shown.err
    assert shown.out.count("The reconstruction MSE") == 1


def test_values_by_class_of_another_label(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(SHIPPED, "model.pt")
    options = ["--sample", "80", "--labels", "Smiling,Wearing_Hat", "--no-page", "--no-figures", "--judge", "none"]
    assert run_command("accuracy", "model.pt", *options, "--by", "Eyeglasses", "--out", "one") == 0
    shown = capsys.readouterr().out
    assert "by Eyeglasses" in shown
    assert "--by Eyeglasses" in shown, "the following evaluation keeps it"
    document = json.loads(Path("one/run.json").read_text())
    assert document["data"]["by"] == "Eyeglasses"
    rows = [row for m in document["measurements"] for row in m["values"] if row["at"] == {"by": "Eyeglasses:gap"}]
    assert {row["characteristic"] for row in rows if row["name"] == "accuracy"} == {None, "Smiling", "Wearing_Hat"}
    assert "by=Eyeglasses:worst" in Path("one/values.csv").read_text()
    assert run_command("gate", "one", "--max", "accuracy.accuracy/by=Eyeglasses:gap=0.5") == 0
    assert run_command("gate", "one", "--min", "accuracy.accuracy/by=Eyeglasses:worst=1.5") == 1
    assert run_command("table", "one", "--values", "accuracy.accuracy/by=Eyeglasses:gap") == 0
    assert "0.00" in capsys.readouterr().out
    value = "accuracy.accuracy/by=Eyeglasses:gap"
    assert run_command("compare", "one", "model.pt", "--judge", "none", "--value", value, "--json") == 0
    compared = json.loads(capsys.readouterr().out)["values"]
    assert compared[0]["address"] == value
    assert compared[0]["verdict"].startswith("no evidence of a difference")
    assert run_command("accuracy", "model.pt", *options, "--by", "Eyeglases") == 2
    assert "Eyeglasses" in capsys.readouterr().err
