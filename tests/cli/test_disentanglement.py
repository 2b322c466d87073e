"""``ccvae-eval disentanglement``: files of codes, checkpoints, printed output and written files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ccvae_eval
from ccvae_eval.api import plan
from ccvae_eval.cli.main import main
from ccvae_eval.data.sets.faces.dataset import Faces
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.runner import run as run_plan
from ccvae_eval.evaluation.storage import read
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.disentanglement import Disentanglement, table_of
from ccvae_eval.metrics.disentanglement.arrays import compare_seeds, score_arrays
from ccvae_eval.model.interface import LabelledVAE
from ccvae_eval.oracle.model import oracle
from tests.support.fakes import Squares, SquaresVAE

RNG = np.random.default_rng(0)
FACTORS = np.stack([RNG.integers(0, 3, 600), RNG.integers(0, 4, 600)], axis=1)
CODES = np.column_stack([FACTORS + RNG.normal(0, 0.05, FACTORS.shape), RNG.normal(size=600)])
QUICK = ["--draws", "50", "--fits", "1", "--votes", "100", "--shuffles", "3"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "codes.npz"
    np.savez(
        path, codes=CODES, factors=FACTORS, train=np.arange(400), test=np.arange(400, 600), names=["shape", "size"]
    )
    return path


def called(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["disentanglement", *map(str, arguments)])
    shown = capsys.readouterr()
    assert (ended.value.code or 0) == code, shown.err
    return shown.out, shown.err


def test_the_panel_of_a_file(file: Path, tmp_path: Path, capsys: Any) -> None:
    out, _ = called(capsys, "--codes", file, *QUICK, "--out", tmp_path / "out")
    for word in ("compactness", "modularity", "information", "infom", "dci_disentanglement", "shape", "↑"):
        assert word in out
    figures = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert figures == {"disentanglement-information.png", "disentanglement-factors.png", "index.md"}
    run = read(tmp_path / "out")
    assert run.header.command == f"ccvae-eval disentanglement --codes {file} {' '.join(QUICK)}"
    assert run["disentanglement.mig"] > 0.8
    assert run.measurement("disentanglement").evidence["codes"].shape == CODES.shape


def test_json_has_one_total_for_each_name(file: Path, tmp_path: Path, capsys: Any) -> None:
    out, _ = called(
        capsys, "--codes", file, "--profile", "reference", "--score", "mig", "--score", "irs", "--score", "factor_vae",
        "--score", "beta_vae", "--score", "modularity", "--json", *QUICK, "--out", tmp_path / "out",
    )  # fmt: skip
    document = json.loads(out)
    (measurement,) = document["measurements"]
    assert measurement["profile"] == "reference"
    values = measurement["values"]
    for name in ("mig", "irs", "factor_vae", "beta_vae", "modularity"):
        total = [v for v in values if v["name"] == name and v["characteristic"] is None and not v["at"]]
        assert len(total) == 1, name
        assert total[0]["value"] is not None
    per_factor = {v["characteristic"] for v in values if v["name"] == "mig"}
    assert per_factor == {None, "shape", "size"}
    keys = [(v["name"], v["characteristic"], json.dumps(v["at"], sort_keys=True)) for v in values]
    assert len(keys) == len(set(keys))


def test_csv_files_of_codes_and_factors(tmp_path: Path, capsys: Any) -> None:
    codes, factors = tmp_path / "codes.csv", tmp_path / "factors.csv"
    codes.write_text("a,b,c\n" + "\n".join(",".join(f"{x:.6f}" for x in row) for row in CODES))
    rows = [
        f"{'xyz'[a]},{'' if i % 50 == 0 else b},{'train' if i < 400 else 'test'}"
        for i, (a, b) in enumerate(FACTORS.tolist())
    ]
    factors.write_text("shape,size,split\n" + "\n".join(rows))
    out, _ = called(
        capsys, "--codes", codes, "--factors", factors, "--score", "mig", "--json", *QUICK, "--out", tmp_path / "o"
    )
    measurement = json.loads(out)["measurements"][0]
    assert {v["characteristic"] for v in measurement["values"] if v["name"] == "mig"} == {None, "shape", "size"}
    assert any("missing values: size 12" in note for note in measurement["notes"])
    assert any("fitted on 400 rows" in note for note in measurement["notes"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--codes FILE is required"),
        (["--codes", "absent.npz"], 3, "cannot be opened (No such file"),
        (["--codes", "FILE", "--score", "migg"], 2, "Did you mean 'mig'"),
        (["--codes", "FILE", "--profile", "published"], 2, "profile"),
        (["--codes", "FILE", "model.pt"], 2, "--codes cannot be combined with"),
        (["--codes", "FILE", "--data", "faces"], 2, "--codes cannot be combined with"),
        (["--codes", "FILE", "--score", "mig", "--all"], 2, "exclude each other"),
        (["--codes", "codes.parquet"], 2, "--factors B.csv"),
        (["--codes", "codes.csv"], 2, "--factors B.csv"),
        (["model.pt", "--factors", "b.csv"], 2, "--factors requires --codes"),
        (["absent.pt"], 3, "absent.pt"),
    ],
)
def test_wrong_arguments_give_one_message(
    arguments: list[str], code: int, message: str, file: Path, capsys: Any
) -> None:
    given = [str(file) if a == "FILE" else a for a in arguments]
    _, err = called(capsys, *given, code=code)
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"codes": CODES}, "the array 'factors' is missing"),
        ({"codes": CODES, "factors": FACTORS[:5]}, "factors of shape"),
        ({"codes": np.where(CODES > 2, np.nan, CODES), "factors": FACTORS}, "NaN"),
        ({"codes": CODES, "factors": FACTORS, "blocks": np.zeros((2, 2), int)}, "blocks must be integers"),
        ({"codes": CODES, "factors": FACTORS, "kinds": np.array(["ordinal", "discrete"])}, "ordinal"),
    ],
)
def test_invalid_files_are_refused(arrays: Any, message: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    _, err = called(capsys, "--codes", path, code=3)
    assert message in err
    assert "Traceback" not in err


ODD = {
    "fewer than 50 rows": (CODES[:45], FACTORS[:45]),
    "one factor": (CODES, FACTORS[:, :1]),
    "one code": (CODES[:, :1], FACTORS),
    "a constant factor": (CODES, np.column_stack([FACTORS, np.ones(600)])),
    "a constant code": (np.column_stack([CODES, np.ones(600)]), FACTORS),
    "NaN among the factors": (CODES, np.where(FACTORS == 2, np.nan, FACTORS)),
    "strings as factors": (CODES, np.array(["a", "b", "c", ""])[FACTORS]),
    "float labels": (CODES, CODES[:, :2] + RNG.normal(size=(600, 2))),
    "200 levels": (CODES, RNG.integers(0, 200, (600, 2))),
}


@pytest.mark.parametrize("what", ODD)
def test_unusual_files_have_values_or_reasons(what: str, tmp_path: Path, capsys: Any) -> None:
    """Every score is a number or undefined with a reason, in the JSON document and on the terminal."""
    codes, factors = ODD[what]
    np.savez(tmp_path / "odd.npz", codes=codes, factors=factors)
    scores = [word for name in ("mig", "infom", "infoe", "irs", "sap") for word in ("--score", name)]
    arguments = ["--codes", tmp_path / "odd.npz", *scores, *QUICK, "--no-figures", "--out", tmp_path / "o"]
    out, err = called(capsys, *arguments, "--json")
    (measurement,) = json.loads(out)["measurements"]
    totals = [v for v in measurement["values"] if v["characteristic"] is None and not v["at"]]
    assert {v["name"] for v in totals} >= {"mig", "infom", "infoe", "irs", "sap"}
    assert "Traceback" not in err
    undefined = [value["name"] for value in totals if value["value"] is None]
    if undefined:
        shown = " ".join(called(capsys, *arguments)[0].split())
        reasons = [note for note in shown.split("·") if ": undefined, " in note]
        for name in undefined:
            assert any(name in note.partition(":")[0] for note in reasons), (name, reasons)


def test_too_few_rows_are_undefined(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "few.npz"
    np.savez(path, codes=CODES[:12], factors=FACTORS[:12])
    out, _ = called(capsys, "--codes", path, "--json", "--out", tmp_path / "o")
    measurement = json.loads(out)["measurements"][0]
    assert measurement["status"] == "undefined"
    assert "at least 10 training rows" in measurement["reason"]["text"]


def test_blocks_and_kinds_of_a_file(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "codes.npz"
    np.savez(
        path, codes=CODES, factors=FACTORS.astype(float), blocks=np.array([0, -1, 0]),
        block_names=np.array(["first"]), kinds=np.array(["discrete", "continuous"]),
    )  # fmt: skip
    out, _ = called(capsys, "--codes", path, "--score", "sap", "--json", *QUICK, "--out", tmp_path / "o")
    values = json.loads(out)["measurements"][0]["values"]
    assert {v["at"]["code"] for v in values if v["name"] == "information"} == {"first", "z1"}


def pixel_model(seed: int) -> LabelledVAE:
    """A fast model without characteristics whose codes are a few pixels, different ones for each seed."""
    pixels = torch.randperm(3 * 32 * 32, generator=torch.Generator().manual_seed(seed))[:5]

    def encode(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loc = images.flatten(1)[:, pixels] * 4
        return loc, torch.full_like(loc, 0.1)

    return ccvae_eval.wrap(
        encode=encode, decode=lambda codes: torch.zeros(len(codes), 3, 32, 32), dim=5, characteristics={}
    )


def test_one_model_in_memory_and_the_stability_of_several() -> None:
    data = Faces(size=32, n=1500)
    metric = Disentanglement(score=("mig", "factor_vae"), draws=50, shuffles=3, votes=90)
    plans = [plan(pixel_model(seed), data, [metric], judge="none") for seed in range(2)]
    run = run_plan(plans[0])
    assert run.measurement("disentanglement").status == "ok"
    scores = [v for v in run.measurement("disentanglement").values if v.name == "factor_vae"]
    assert "images drawn" in scores[0].note
    stability = compare_seeds(plans, metric)
    assert 0 < stability["disentanglement.udr"] < 1
    assert stability.find("disentanglement.udr").chance is not None


def test_groups_are_rendered_for_data_with_counterfactuals_only() -> None:
    run = ccvae_eval.evaluate(
        SquaresVAE(scale=0.3), Squares(240), sample="all", judge="none", references=False,
        metrics=[Disentanglement(score=("factor_vae", "z_max_var"), votes=90, shuffles=3)],
    )  # fmt: skip
    for name in ("factor_vae", "z_max_var"):
        value = run.find(f"disentanglement.{name}")
        assert "images drawn" in value.note, name
        assert value.estimate.value > 0.5, name


def test_a_factor_with_few_values_is_discrete() -> None:
    grid = np.linspace(0.5, 1.0, 6)[RNG.integers(0, 6, 600)]
    table = table_of(CODES, np.stack([grid, RNG.normal(size=600)], axis=1))
    assert [factor.discrete for factor in table.factors] == [True, False]


def test_arrays_in_python() -> None:
    run = score_arrays(CODES, FACTORS, Disentanglement(score=("mig",), draws=50), names=["shape", "size"])
    assert run["disentanglement.mig@size"] > 0.8
    assert run["disentanglement.mig.low"] <= run["disentanglement.mig"] <= run["disentanglement.mig.high"]


def test_groups_of_the_reference_model_are_resampled_not_rendered() -> None:
    data = Faces(size=32, n=1500)
    ids = data.split("test")[:200]
    found = measure(
        prepare(oracle(data, ids), data, ids), [Disentanglement(score=("factor_vae",), votes=90, shuffles=3)]
    ).measurement("disentanglement")
    assert found.status == "ok"
    assert "resampled" in next(v for v in found.values if v.name == "factor_vae").note
    assert any("not drawn" in note for note in found.notes)
