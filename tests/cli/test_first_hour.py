"""The first hour with one's own data: every row has a number or a remedy, and every remedy and next command works."""

from __future__ import annotations

import csv
import json
import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import ccvae_eval
from ccvae_eval import api
from ccvae_eval.data.spec import open_data
from ccvae_eval.judge import selection
from tests.support.commands import run_command

TRAIN = "train ccvae --data folder:photos --labels Eyeglasses,Smiling,Male --steps 2 --batch-size 32 --out ckpt.pt"
RUN = "ccvae-eval run ckpt.pt --data folder:photos --sample 40 --judge none --no-figures --no-page"
LABELS = ("Eyeglasses", "Smiling", "Male")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 400 small images in ``photos`` and a checkpoint that was trained for two steps."""
    place = tmp_path_factory.mktemp("first")
    (place / "photos").mkdir()
    draw = np.random.default_rng(0)
    rows = ["file,Eyeglasses,Smiling,Male,Other"]
    for index in range(400):
        labels = [int(draw.random() < share) for share in (0.35, 0.5, 0.5, 0.5)]
        pixels = draw.integers(0, 60, (32, 32, 3), dtype=np.uint8)
        pixels[10:16, 6:26] += np.uint8(120 * labels[0])
        pixels[22:28, 8:24] += np.uint8(120 * labels[1])
        cv2.imwrite(str(place / "photos" / f"{index}.png"), pixels)
        rows.append(",".join(map(str, [f"{index}.png", *labels])))
    (place / "photos" / "attributes.csv").write_text("\n".join(rows) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run_command(*shlex.split(TRAIN)) == 0
    return place


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    monkeypatch.setattr(selection, "train_judge", partial(selection.train_judge, steps=8))


def _pasted(line: str) -> int:
    program, *arguments = shlex.split(line)
    assert program == "ccvae-eval"
    return run_command(*arguments)


def _last_run(place: Path) -> tuple[Path, dict[str, Any]]:
    file = max((place / "runs").glob("*/run.json"), key=lambda file: file.stat().st_mtime_ns)
    return file.parent, json.loads(file.read_text())


def _without_number(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Metric and label of the headline rows without a number, and their remedy."""
    found = []
    for m in document["measurements"]:
        rows = [v for v in m["values"] if v["name"] == m["headline"] and not v["at"]]
        found += [(m["metric"], str(v["characteristic"]), v["remedy"]) for v in rows if v["value"] is None]
        if not rows:
            found.append((m["metric"], "", (m["reason"] or {}).get("remedy", "")))
    return found


def test_every_row_has_a_number_or_a_remedy_that_works(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _pasted(RUN) == 0
    shown = capsys.readouterr()
    folder, document = _last_run(place)
    undefined = _without_number(document)
    remedies = {remedy for *_, remedy in undefined}
    assert undefined
    assert all(remedies)
    assert {"--judge auto"} < remedies
    assert any(remedy.startswith("--sample ") for remedy in remedies)
    assert any(remedy.endswith("folder:photos,regions=celeba") for remedy in remedies)
    text = " ".join(shown.out.split())
    frames = "regions=celeba fits CelebA's aligned images, regions=celebahq CelebA-HQ: see the outlines in figures/"
    advice = r"locality-change-maps\.png -> (--sample \d+ )?--data folder:photos,regions=celeba"
    assert re.search(re.escape(f"this data set has no regions; {frames}") + advice, text)
    assert re.search(r"Male: .* neither regions=celeba nor celebahq has one .* -> --labels Eyeglasses,Smiling", text)
    assert re.search(r"Eyeglasses.*: \d+ of 40 images are of class present, 20 needed.* -> --sample \d+", text)
    assert "this data set has no regions" in " ".join(shown.err.split()), "it is said before the images are decoded"
    with (folder / "values.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if not row["value"] and row["characteristic"] in LABELS]
    assert all(row["note"] and row["remedy"] for row in rows)
    for remedy in sorted(remedies):
        assert _pasted(f"{RUN} {remedy}" if remedy.startswith("--") else remedy) == 0, remedy


def test_the_next_command_is_the_run_with_all_remedies_until_nothing_is_missing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line, seen = RUN, list[str]()
    while line.startswith("ccvae-eval run") and line not in seen and len(seen) < 5:
        seen.append(line)
        assert _pasted(line) == 0
        shown = capsys.readouterr().out
        line = re.findall(r"Next: (.*)", shown)[-1]
        assert all(then.startswith("ccvae-eval train ccvae") for then in re.findall(r"Then: (.*)", shown))
    assert "--data folder:photos,regions=celeba" in seen[1]
    assert seen[1].count("--data") == seen[1].count("--sample") == seen[1].count("--judge") == 1
    _, document = _last_run(place)
    focus = next(m for m in document["measurements"] if m["metric"] == "locality")
    assert {v["characteristic"] for v in focus["values"] if v["name"] == "focus" and not v["at"]} >= {"Smiling"}
    assert _pasted(line) == 0


def test_the_next_command_of_train_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(*shlex.split(TRAIN)[:-1], "other.pt", "--quiet") == 0
    assert not capsys.readouterr().out.startswith("epoch")
    assert run_command(*shlex.split(TRAIN)[:-1], "third.pt") == 0
    (line,) = re.findall(r"Next: (.*)", capsys.readouterr().out)
    assert _pasted(f"{line} --judge none --no-figures --no-page -m accuracy") == 0


def test_a_run_never_replaces_another(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = shlex.split(
        "run ckpt.pt --data folder:photos -m reconstruction --sample 8 --judge none --no-figures --no-page"
    )
    before = set((place / "runs").glob("*")) if (place / "runs").exists() else set()
    assert [run_command(*line), run_command(*line)] == [0, 0]
    assert len(set((place / "runs").glob("*")) - before) == 2
    assert run_command(*line, "--out", "mine") == 0
    assert run_command(*line, "--out", "mine") == 2
    assert "already contains a run" in capsys.readouterr().err
    assert run_command(*line, "--out", "mine", "--force") == 0
    assert run_command(*line, "--out", "ckpt.pt") == 3
    assert "is a file" in capsys.readouterr().err


def test_the_numbers_are_written_and_shown_before_anything_is_drawn(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no figure today")

    monkeypatch.setattr("ccvae_eval.cli.measuring.draw", broken)
    assert _pasted(f"{RUN} --metric reconstruction --out numbers") == 5
    assert (place / "numbers" / "run.json").is_file()
    assert "reconstruction" in capsys.readouterr().out


def test_lists_take_commas_and_old_names_of_options_work(capsys: pytest.CaptureFixture[str]) -> None:
    line = shlex.split(f"{RUN} --sample 60 --json")[1:]
    assert run_command(*line, "-m", "accuracy,reconstruction", "--labels", "Smiling,Male") == 0
    document = json.loads(capsys.readouterr().out)
    assert [m["metric"] for m in document["measurements"]] == ["accuracy", "reconstruction"]
    assert run_command(*line, "-maccuracy,reconstruction", "-cSmiling,Male") == 0
    assert json.loads(capsys.readouterr().out)["measurements"][1]["metric"] == "reconstruction"
    rows = {v["characteristic"] for v in document["measurements"][0]["values"]}
    assert rows == {None, "Smiling", "Male"}
    assert run_command(*line, "-m", "accuracy", "--label", "Smiling=Other,Other=Smiling") == 0
    assert "--label is now called --rename" in capsys.readouterr().err
    arguments = shlex.split("train ccvae --data folder:photos --rate 0.5 --batch 16 --steps 1 --out old.pt")
    assert run_command(*arguments) == 0
    notes = capsys.readouterr().err
    assert "--rate is now called --supervision" in notes
    assert "--batch is now called --batch-size" in notes
    assert run_command(*arguments[:-1], "quiet.pt", "--quiet") == 0
    assert "now called" not in capsys.readouterr().err


def test_labels_that_the_data_lack_are_missing_values(capsys: pytest.CaptureFixture[str]) -> None:
    line = "run ckpt.pt --data folder:photos,labels=Smiling --sample 60 --judge none --no-figures --no-page --json"
    assert run_command(*line.split(), "-m", "accuracy,reconstruction") == 0
    shown = capsys.readouterr()
    assert "missing in the data, so nothing is said about them: Eyeglasses, Male" in " ".join(shown.err.split())
    accuracy = json.loads(shown.out)["measurements"][0]
    defined = {v["characteristic"] for v in accuracy["values"] if v["value"] is not None}
    assert defined == {None, "Smiling"}


def test_run_says_what_its_numbers_mean_and_who_is_worse_than_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert _pasted(f"{RUN} -m accuracy,reconstruction") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "· The reconstruction MSE is" in text
    assert "CE016 The reconstruction MSE is" in text


def test_inspect_begins_with_a_sentence_about_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("inspect", "ckpt.pt") == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "ccvae, 32 x 32 RGB, z = 30 = 27 style + Eyeglasses, Smiling, Male, 2 steps"


def test_inspect_names_the_regions_that_a_folder_can_have(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("inspect", "folder:photos") == 0
    assert "none; regions=celeba (CelebA), celebahq (CelebA-HQ) or FOLDER" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "photos"], "write folder:photos"),
        (["run", "ckpt.pt", "--data", "folder:photos,size=64", "--sample", "8"], "--data NAME:PATH,size=32"),
    ],
)
def test_mistakes_say_what_is_right(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(*arguments) == 3
    assert message in capsys.readouterr().err


def test_help_is_a_verb_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("help", "locality") == 0
    assert "Settings of locality" in capsys.readouterr().out


def test_python_shows_a_bar_on_request_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ccvae_eval.rendering import progress

    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    for wanted in (None, True):
        ccvae_eval.evaluate(
            "ckpt.pt", "folder:photos", ["reconstruction"], sample=64, judge="none", progress=wanted, gallery=False
        )
        assert ("decoding images" in capsys.readouterr().err) is bool(wanted)


def test_a_longer_training_keeps_the_settings_of_the_first(tmp_path: Path) -> None:
    given = "--supervision 0.5 --label-noise 0.1 --learning-rate 0.002 --seed 3 --set style=5"
    assert run_command(*shlex.split(TRAIN)[:-1], str(tmp_path / "half.pt"), *given.split()) == 0
    opened = ccvae_eval.load(tmp_path / "half.pt")
    command = api._retraining(opened, open_data("folder:photos"))
    assert _pasted(command) == 0
    again = ccvae_eval.load(tmp_path / "half-20-steps.pt")
    assert again.record.training == opened.record.training | {"steps": 20, "epochs": again.record.training["epochs"]}
    assert again.record.settings == opened.record.settings
