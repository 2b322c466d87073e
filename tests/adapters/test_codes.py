"""Codes without a model, from an .npz file."""

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


def save_codes(path: Path, **arrays: Any) -> Path:
    np.savez(path, **{"codes": CODES, "labels": LABELS, "names": ["Smile", "Hat"], **arrays})
    return path


def test_density_of_codes(tmp_path: Path) -> None:
    path = save_codes(tmp_path / "codes.npz", columns=["Smile", "", "Hat"])
    run = ccvae_eval.evaluate(path, metrics=["density", "locality"], sample="all")
    from sklearn.metrics import roc_auc_score

    assert run["density.auc@Smile"] == pytest.approx(roc_auc_score(LABELS[:, 0], CODES[:, 0]), abs=0.01)
    assert run["density.auc@Hat"] == pytest.approx(roc_auc_score(LABELS[:, 1], CODES[:, 2]), abs=0.05)
    assert run.measurement("locality").status == "unsupported"
    assert run.header.data["n"] == 400


def test_without_columns_latent_dimensions_are_assigned_with_a_warning(tmp_path: Path) -> None:
    path = save_codes(tmp_path / "codes.npz")
    run = ccvae_eval.evaluate(path, metrics=["density"], sample="all")
    assert any("latent dimensions were assigned to labels on one half" in w for w in run.header.warnings)
    assert run["density.auc@Smile"] > 0.99


def test_the_command_line_needs_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_codes(tmp_path / "codes.npz", split=["test"] * 300 + ["train"] * 100, extra=np.ones(3))
    with pytest.raises(SystemExit) as ended:
        main(["density", str(path), "--json", "--out", str(tmp_path / "out"), "--no-figures"])
    document = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert document["checkpoint"]["model"] == "npz"
    assert "unknown arrays were ignored: extra" in document["warnings"]
    assert 100 < document["data"]["n"] < 200, "half of the 300 rows; latent dimensions were assigned on the other half"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"codes": CODES[:, 0]}, r"codes must be a numeric array of shape \(N, D\)"),
        ({"codes": CODES * np.nan}, "NaN or infinity"),
        ({"scale": -np.ones_like(CODES)}, "negative"),
        ({"scale": np.ones((400, 2))}, "scale must have shape"),
        ({"labels": LABELS[:7]}, "labels must have shape"),
        ({"columns": ["Smile"]}, "columns must have shape"),
        ({"split": ["elsewhere"] * 400}, "split must be one of"),
        ({"names": ["Smile"]}, "labels have 2 columns, but 1 names"),
        ({"codes": np.array([{"a": 1}], object)}, "unreadable array"),
    ],
)
def test_invalid_arrays_are_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        ccvae_eval.load(save_codes(tmp_path / "codes.npz", **arrays))


def test_an_unknown_label_in_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ccvae_eval.core.errors.CcvaeEvalError, match="unknown"):
        ccvae_eval.load(save_codes(tmp_path / "codes.npz", columns=["Smile", "", "Hut"]))
