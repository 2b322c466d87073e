"""The live page of a run: from its data or its pictures, within its limit, and refused with a reason."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ccvae_eval
from ccvae_eval.checkpoint import save_checkpoint
from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.evaluation.storage import read, write
from ccvae_eval.evaluation.subject import prepare as encoded
from ccvae_eval.plugins import registry
from ccvae_eval.report.live import LIVE, live_html, render
from ccvae_eval.training import TrainingSettings, prepare
from tests.support.commands import run_command
from tests.support.decoders import Decoded, upsampling_decoder
from tests.support.fakes import GRADED, GradedSquares, GradedSquaresVAE, PlainSquaresVAE, Squares
from tests.support.runs import GALLERY, pictured_run

PLUGIN = """
import torch
from ccvae_eval.core.types import Gaussian
from ccvae_eval.model.interface import LatentLayout, binary_schema

class Own(torch.nn.Module):
    def __init__(self, normalised: bool = False) -> None:
        super().__init__()
        self.layout, self.labels = LatentLayout(4, {"Smiling": (0,)}), binary_schema("Eyeglasses", "Smiling")
        self.linear, self.normalised = torch.nn.Linear(4, 768), normalised

    def encode(self, images, labels=None):
        codes = images.flatten(1)[:, :4]
        return Gaussian(codes, torch.zeros_like(codes))

    def decode(self, codes):
        images = self.linear(codes).view(-1, 3, 16, 16)
        return (torch.nn.functional.group_norm(images, 1) if self.normalised else images).sigmoid()

CCVAE_EVAL = {"models": {"own": Own}}
"""


def data_of(html: str) -> Any:
    return json.loads(re.findall(r'id="data">(.*?)</script>', html, re.DOTALL)[0])


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str]]:
    """The folder of a run without its data, and options that open a checkpoint of a plugin's model."""
    monkeypatch.setattr(registry, "_files", {})
    (tmp_path / "own.py").write_text(PLUGIN)
    torch.save({"linear.weight": torch.randn(768, 4), "linear.bias": torch.zeros(768)}, tmp_path / "own.pt")
    run = pictured_run()
    write(replace(run, header=replace(run.header, checkpoint={**run.header.checkpoint, "sha256": None})), tmp_path)
    return tmp_path, ["--live", str(tmp_path / "own.pt"), "--plugin", str(tmp_path / "own.py"), "--model", "own"]


def test_images_come_from_the_data_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Faces(size=32, n=600)
    model, _ = prepare("ccvae", {"style": 3, "points": 17}, data, TrainingSettings(labels=("Eyeglasses", "Hair_Color")))
    made: Any = model
    save_checkpoint(tmp_path / "model.pt", made, name="ccvae", data=data)
    run = ccvae_eval.evaluate(
        tmp_path / "model.pt", data, ["reconstruction"], sample=64, judge="none", references=False
    )
    write(run, tmp_path)
    assert run_command("report", str(tmp_path), "--live", str(tmp_path / "model.pt"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["live"] == str(tmp_path / LIVE)
    html = (tmp_path / LIVE).read_text()
    page = data_of(html)
    assert page["ids"] == run.gallery["ids"].tolist()
    assert "The images, their codes and their interventions are those of the report." in html
    assert len(html) < render.LARGEST_PAGE
    groups = re.findall(r"<legend>(.*?)</legend>", html)[1:]
    assert groups == ["Eyeglasses", "Hair_Color", "Style (no label)"]
    assert [label["columns"] for label in page["labels"]] == [[0], [1, 2]]

    assert run_command("report", tmp_path, "--live", tmp_path / "model.pt", "--data", "faces,size=32,n=601") == 3
    assert "is not the data of the run" in capsys.readouterr().err
    save_checkpoint(tmp_path / "other.pt", made, name="ccvae", data=data, training={"steps": 1})
    assert run_command("report", str(tmp_path), "--live", str(tmp_path / "other.pt")) == 3
    assert "the checkpoint is not the one of the run" in capsys.readouterr().err


def test_without_its_data_the_pictures_of_the_run_take_their_place(
    own: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, options = own
    assert run_command("report", str(folder), *options) == 0
    assert "The images are the pictures stored in the run" in capsys.readouterr().err
    page = data_of((folder / LIVE).read_text())
    assert page["ids"] == [5 * i for i in range(GALLERY)]
    assert page["labels"] == []  # too few images for a class, and no p(z_c|y)


def test_the_path_that_a_run_does_not_record_is_asked_for(
    own: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, options = own
    run = read(folder)
    for name, message in (
        (
            "folder,size=16",
            "not record the path of its data set, folder; give it with --data folder:PATH,size=16, and",
        ),
        ("mine,n=9", "the data set of the run, mine,n=9, is not installed"),
    ):
        write(replace(run, header=replace(run.header, data={**run.header.data, "name": name})), folder)
        assert run_command("report", folder, *options) == 0
        assert message in " ".join(capsys.readouterr().err.split())
        assert message in (folder / LIVE).read_text()


def test_a_decoder_that_the_page_cannot_run_is_refused_with_exit_code_2(
    own: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, options = own
    assert run_command("report", str(folder), *options, "--set", "normalised=true") == 2
    message = capsys.readouterr().err
    assert "Own: the live page does not support the operation native_group_norm" in message
    assert "The live page supports linear" in message
    assert not (folder / LIVE).exists()


def test_a_page_above_the_limit_is_refused(
    own: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, options = own
    monkeypatch.setattr(render, "LARGEST_PAGE", 1000)
    assert run_command("report", str(folder), *options) == 2
    assert "the live page would have" in capsys.readouterr().err
    assert not (folder / LIVE).exists()


def test_a_folder_of_runs_is_refused(own: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, options = own
    assert run_command("report", str(folder.parent), *options) == 2
    assert "--live needs one run" in capsys.readouterr().err


def test_a_model_without_characteristics_gets_assigned_dimensions(tmp_path: Path) -> None:
    class Plain(PlainSquaresVAE):
        """Its decoder is not that of ``Squares``, which torch cannot trace in float64."""

        def __init__(self) -> None:
            super().__init__(size=16)
            self.decoder = Decoded(upsampling_decoder(), latent=6)

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return self.decoder.decode(codes[:, :6])

    run = ccvae_eval.evaluate(
        Plain(), Squares(600, size=16), ["reconstruction"], limit=600, judge="none", references=False
    )
    html = live_html(run, Plain())
    assert "(assigned on half of the images)" in html
    assert data_of(html)["ids"] == run.gallery["ids"].tolist()


def test_the_slider_covers_three_standard_deviations_and_every_code_shown(tmp_path: Path) -> None:
    model = Decoded(upsampling_decoder())
    run = ccvae_eval.evaluate(model, Squares(200, size=16), ["reconstruction"], judge="none", references=False)
    html = live_html(run, model)
    ends = re.findall(r'id="z(\d)" min="(.*?)" max="(.*?)" step="(.*?)"', html)
    images = torch.from_numpy(run.gallery["image"]).permute(0, 3, 1, 2) / 255
    means = model.encode(images).loc.numpy()
    assert [int(d) for d, *_ in ends] == list(range(6))
    for d, low, high, step in ((int(d), float(low), float(high), float(step)) for d, low, high, step in ends):
        assert low <= means[:, d].mean() - 2.9 * means[:, d].std()
        assert high >= means[:, d].mean() + 2.9 * means[:, d].std()
        assert step == pytest.approx((high - low) / 202, rel=1e-3)
    assert np.isfinite(means).all()


def test_a_continuous_label_is_set_to_its_levels() -> None:
    data, rows = GradedSquares(200), np.arange(8)
    subject = encoded(GradedSquaresVAE(), data, np.arange(200))
    codes = render._class_codes(subject, rows, GRADED["Smile"])
    assert codes is not None
    assert codes.shape == (8, 5, subject.layout.dim)
    moved = codes[..., subject.layout["Smile"][0]]
    assert np.all(np.diff(moved, axis=1) > 0)
    (smile,) = (group for group in render._groups(subject, render._ranges(subject, rows, {"Smile": codes}), ("Smile",),
                                                  whole=False) if group.name == "Smile")  # fmt: skip
    assert smile.classes == tuple(f"{level:g}" for level in subject.levels("Smile"))
    assert render._label(subject, rows, "Smile", codes, whole=False)["now"][0] in smile.classes
    subject.labels[:, 1] = torch.nan
    assert render._class_codes(replace(subject), rows, GRADED["Smile"]) is None
