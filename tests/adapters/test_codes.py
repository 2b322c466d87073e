"""Codes without a model: what an .npz holds is what is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ccvae_eval
from ccvae_eval.cli.main import main
from ccvae_eval.core.errors import DataError

RNG = np.random.default_rng(0)
LABELS = (RNG.random((400, 2)) < 0.5).astype(np.float32)
CODES = RNG.normal(size=(400, 3)) + np.stack([6 * LABELS[:, 0], 0 * LABELS[:, 0], 0.5 * LABELS[:, 1]], 1)


def written(path: Path, **arrays: Any) -> Path:
    np.savez(path, **{"codes": CODES, "labels": LABELS, "names": ["Smile", "Hat"], **arrays})
    return path


def test_the_density_of_tabled_codes(tmp_path: Path) -> None:
    path = written(tmp_path / "codes.npz", columns=["Smile", "", "Hat"])
    run = ccvae_eval.evaluate(path, metrics=["density", "locality"], sample="all")
    from sklearn.metrics import roc_auc_score

    assert run["density.auc@Smile"] == pytest.approx(roc_auc_score(LABELS[:, 0], CODES[:, 0]), abs=0.01)
    assert run["density.auc@Hat"] == pytest.approx(roc_auc_score(LABELS[:, 1], CODES[:, 2]), abs=0.05)
    assert run.measurement("locality").status == "unsupported"
    assert run.header.data["n"] == 400


def test_without_columns_they_are_assigned_and_the_report_says_so(tmp_path: Path) -> None:
    path = written(tmp_path / "codes.npz")
    run = ccvae_eval.evaluate(path, metrics=["density"], sample="all")
    assert any("columns were assigned to labels on one half" in w for w in run.header.warnings)
    assert run["density.auc@Smile"] > 0.99


def test_on_the_command_line_it_needs_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "codes.npz", split=["test"] * 300 + ["train"] * 100, extra=np.ones(3))
    with pytest.raises(SystemExit) as ended:
        main(["density", str(path), "--json", "--out", str(tmp_path / "out"), "--no-figures"])
    told = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert told["checkpoint"]["model"] == "npz"
    assert "arrays that were not read: extra" in told["warnings"]
    assert 100 < told["data"]["n"] < 200, "half of the 300 rows: columns were assigned on the others"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"codes": CODES[:, 0]}, r"Expected \(N, D\)"),
        ({"codes": CODES * np.nan}, "NaN or infinity"),
        ({"scale": -np.ones_like(CODES)}, "negative"),
        ({"scale": np.ones((400, 2))}, "scale of shape"),
        ({"labels": LABELS[:7]}, "labels of shape"),
        ({"columns": ["Smile"]}, "columns of shape"),
        ({"split": ["elsewhere"] * 400}, "split is not one of"),
        ({"names": ["Smile"]}, "2 columns of labels, 1 names"),
        ({"codes": np.array([{"a": 1}], object)}, "not a readable"),
    ],
)
def test_arrays_that_do_not_go_together(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        ccvae_eval.load(written(tmp_path / "codes.npz", **arrays))


def test_a_column_of_an_unknown_label(tmp_path: Path) -> None:
    with pytest.raises(ccvae_eval.core.errors.CcvaeEvalError, match="unknown"):
        ccvae_eval.load(written(tmp_path / "codes.npz", columns=["Smile", "", "Hut"]))
