"""The reference profile against values of the published metric code (shared/fixtures)."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ccvae_eval.metrics.disentanglement import PanelSettings, panel
from ccvae_eval.metrics.disentanglement.robustness import published_irs
from ccvae_eval.metrics.disentanglement.table import table_of
from tests.support.paths import SHARED

FOLDER = SHARED / "fixtures"
TRAIN, TEST = np.arange(2000), np.arange(2000, 3000)
EXACT, SOLVER = 1e-9, 0.01
REPRESENTATIONS = ("aligned", "mixed")

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the shared folder has no fixtures")


@pytest.fixture(scope="module")
def arrays():
    with np.load(FOLDER / "metrics_parity_dev.npz") as found:
        return {name: found[name] for name in found.files}


def published(representation: str, metric: str) -> dict[str, float]:
    entries = json.loads((FOLDER / "metrics_parity_dev.json").read_text())["entries"]
    return next(e["value"] for e in entries if (e["representation"], e["metric"]) == (representation, metric))


def totals(found):
    return {v.name: v.estimate.value for v in found.values if v.characteristic is None and "code" not in v.at}


@pytest.fixture(scope="module", params=REPRESENTATIONS)
def scored(request, arrays):
    settings = PanelSettings(
        profile="reference", score=("mig", "modularity", "explicitness", "irs", "dependence", "sap"), draws=50,
    )  # fmt: skip
    found = panel(arrays[f"codes_{request.param}"], arrays["factors"], settings, train=TRAIN, test=TEST)
    return request.param, totals(found)


def test_mig(scored):
    representation, found = scored
    assert found["mig"] == pytest.approx(published(representation, "MIG")["discrete_mig"], abs=EXACT)


def test_modularity_and_explicitness(scored):
    representation, found = scored
    expected = published(representation, "Modularity and Explicitness")
    assert found["modularity"] == pytest.approx(expected["modularity_score"], abs=EXACT)
    assert found["explicitness"] == pytest.approx(expected["explicitness_score_test"], abs=SOLVER)
    assert found["explicitness_train"] == pytest.approx(expected["explicitness_score_train"], abs=SOLVER)


def test_irs(scored, arrays):
    representation, found = scored
    assert found["irs"] == pytest.approx(published(representation, "IRS")["IRS"], abs=EXACT)
    groups = [column[TRAIN] for column in arrays["factors"].T]
    whole = published_irs(arrays[f"codes_{representation}"][TRAIN], groups, 1.0).total
    expected = published(representation, "IRS, undiscretised factors, quantile 1.0")["IRS"]
    assert float(whole) == pytest.approx(expected, abs=EXACT)


def test_dependence(scored):
    representation, found = scored
    metric = "Unsupervised: Gaussian total correlation, Wasserstein correlation, mutual information"
    for name, value in published(representation, metric).items():
        assert found[name] == pytest.approx(value, abs=EXACT), name


def test_sap(scored):
    representation, found = scored
    continuous = published(representation, "SAP, continuous factors")["SAP_score"]
    assert found["sap_continuous"] == pytest.approx(continuous, abs=EXACT)
    discrete = published(representation, "SAP, discrete factors")["SAP_score"]
    assert found["sap"] == pytest.approx(discrete, abs=SOLVER)


@pytest.mark.slow
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_dci(representation, arrays):
    """Gradient boosting of scikit-learn on 800 rows in both; the published run was not seeded."""
    settings = PanelSettings(profile="reference", score=("dci",))
    found = totals(
        panel(
            arrays[f"codes_{representation}"], arrays["factors"], settings,
            train=np.arange(800), test=np.arange(2000, 2500),
        )
    )  # fmt: skip
    expected = published(representation, "DCI")
    assert found["dci_disentanglement"] == pytest.approx(expected["disentanglement"], abs=SOLVER)
    assert found["dci_completeness"] == pytest.approx(expected["completeness"], abs=SOLVER)
    assert found["dci_informativeness"] == pytest.approx(expected["informativeness_test"], abs=SOLVER)
    assert found["dci_informativeness_train"] == pytest.approx(expected["informativeness_train"], abs=SOLVER)


def test_kinds_make_factors_continuous(arrays):
    """With factors declared continuous, SAP equals the published continuous SAP."""
    settings = PanelSettings(profile="reference", score=("sap",))
    found = totals(
        panel(
            arrays["codes_aligned"], arrays["factors"].astype(float), settings,
            train=TRAIN, test=TEST, kinds=["continuous"] * 4,
        )
    )  # fmt: skip
    expected = published("aligned", "SAP, continuous factors")["SAP_score"]
    assert found["sap"] == pytest.approx(expected, abs=EXACT)
    assert table_of(arrays["codes_aligned"], arrays["factors"]).factors[0].discrete
