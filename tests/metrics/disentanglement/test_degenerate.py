"""Degenerate tables give a number, an undefined value with its reason, or a clear error."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ccvae_eval.core.errors import CcvaeEvalError, DataError, UndefinedError, UsageError
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.metrics.disentanglement import SCORES, VALUES, PanelSettings, panel, score
from ccvae_eval.metrics.disentanglement.predictors import fit, loss_increases
from ccvae_eval.metrics.disentanglement.table import factor_of

QUICK = {"draws": 50, "shuffles": 3, "fits": 1, "votes": 90, "leaves": 16, "every": True}
RNG = np.random.default_rng(0)
N = 400
CODES = RNG.normal(size=(N, 4))
FACTORS = np.stack([np.digitize(CODES[:, 0], [-0.5, 0.5]), np.digitize(CODES[:, 1], [0])], axis=1)


def texts(factors):
    return np.array([["a", "b", "c"][i] for i in factors[:, 0]])[:, None]


TABLES = {
    "few rows": (CODES[:45], FACTORS[:45], {}),
    "one factor": (CODES, FACTORS[:, :1], {}),
    "one code": (CODES[:, :1], FACTORS, {}),
    "one code, one factor": (CODES[:, 0], FACTORS[:, 0], {}),
    "a constant factor": (CODES, np.column_stack([FACTORS, np.full(N, 7)]), {}),
    "only constant factors": (CODES, np.ones((N, 2)), {}),
    "a constant code": (np.column_stack([CODES, np.zeros(N)]), FACTORS, {}),
    "only constant codes": (np.zeros((N, 3)), FACTORS, {}),
    "missing values": (CODES, np.where(RNG.random((N, 2)) < 0.3, np.nan, FACTORS), {}),
    "a factor missing everywhere": (CODES, np.column_stack([FACTORS[:, 0].astype(float), np.full(N, np.nan)]), {}),
    "text": (CODES, texts(FACTORS), {}),
    "text with gaps": (CODES, np.where(RNG.random((N, 1)) < 0.2, "", texts(FACTORS)), {}),
    "text and numbers": (CODES, np.column_stack([texts(FACTORS), FACTORS[:, 1:]]).astype(object), {}),
    "booleans": (CODES, FACTORS[:, :1] > 0, {}),
    "floats": (CODES, CODES[:, :2] * 2 + RNG.normal(0, 0.1, (N, 2)), {}),
    "200 levels": (CODES, RNG.integers(0, 200, (N, 2)), {}),
    "a class in training only": (CODES, np.where(np.arange(N) == 0, 9, FACTORS[:, 0]), {"train": np.arange(300)}),
    "a class in test rows only": (CODES, np.where(np.arange(N) == 399, 9, FACTORS[:, 0]), {"train": np.arange(300)}),
    "no test row": (CODES, FACTORS, {"train": np.arange(N)}),
    "integers as codes": (FACTORS, FACTORS, {}),
    "one block of all dimensions": (CODES, FACTORS, {"blocks": [[0, 1, 2, 3]]}),
    "large numbers": (CODES * 1e9, FACTORS, {}),
    "tiny numbers": (CODES * 1e-150, FACTORS, {}),
}


@pytest.mark.parametrize("profile", ["robust", "reference"])
@pytest.mark.parametrize("what", TABLES)
def test_values_are_finite_or_undefined_with_a_reason(what, profile):
    codes, factors, more = TABLES[what]
    # boosting of scikit-learn takes a minute at 200 levels; the next test covers it
    names = tuple(name for name in SCORES if profile == "robust" or name not in ("dci", "nk"))
    settings = PanelSettings(**{**QUICK, "every": False, "score": names, "profile": profile})
    found = panel(codes, factors, settings, **more)
    assert found.status in ("ok", "undefined")
    shown = {v.name for v in found.values}
    assert {"mig", "sap", "modularity", "irs", "factor_vae"} <= shown
    for value in found.values:
        number = value.estimate.value
        assert math.isnan(number) or math.isfinite(number), value
        if math.isnan(number):
            assert value.note, (value.name, value.at)
    json.dumps(found.settings)


@pytest.mark.parametrize("what", ["one factor", "a constant factor", "missing values", "text", "floats"])
def test_the_published_predictor_gives_all_three_dci_values(what):
    codes, factors, more = TABLES[what]
    found = panel(codes, factors, PanelSettings(profile="reference", score=("dci",)), **more)
    assert {v.name for v in found.values} >= {"dci_disentanglement", "dci_completeness", "dci_informativeness"}


@pytest.mark.slow
def test_ten_thousand_latent_dimensions():
    """Each score is a number, or undefined with its reason."""
    codes = RNG.normal(size=(60, 10_000))
    codes[:, 0] = FACTORS[:60, 0]
    found = panel(codes, FACTORS[:60], PanelSettings(**QUICK))
    assert any("too many" in v.note or "subsamples" in v.note for v in found.values if v.name == "mig")
    totals = {v.name: v for v in found.values if v.characteristic is None and "code" not in v.at}
    published = {"sap_continuous", "dci_informativeness_train", "explicitness_train"}
    assert set(VALUES) - set(totals) <= {"information", "factor_correlation", "udr"} | published
    for value in totals.values():
        assert math.isfinite(value.estimate.value) or value.note, value


def test_skipping_unused_dimensions_does_not_change_importances():
    """Each importance equals the loss with the dimension permuted minus the loss without."""
    codes = np.column_stack([CODES, RNG.normal(size=(N, 30))])
    for column in (FACTORS[:, 0], codes[:, 1]):
        fitted = fit("forest", codes, factor_of("f", column), np.arange(40), 0)
        rows = np.arange(200, N)
        assert 0 < fitted.used_dimensions(codes.shape[1]).sum() < codes.shape[1]
        blocks = [(j,) for j in range(codes.shape[1])]
        found = loss_increases(fitted, codes, rows, blocks, 0, "f")
        for (j,) in blocks:
            permuted = codes[rows].copy()
            order = numpy_stream(0, "permuted block", f"f/{j}").permutation(len(rows))
            permuted[:, j] = permuted[order, j]
            assert np.array_equal(found[:, j], fitted.losses(permuted, rows) - fitted.losses(codes[rows], rows))


def test_undefined_scores_name_the_missing_latent_or_factor():
    found = panel(CODES[:, :1], FACTORS, PanelSettings(**QUICK))
    notes = {v.name: v.note for v in found.values if v.characteristic is None and math.isnan(v.estimate.value)}
    for name in ("mig", "sap", "infoc", "dci_completeness", "nk"):
        assert "latent" in notes[name], name
    found = panel(CODES, FACTORS[:, :1], PanelSettings(**QUICK))
    notes = {v.name: v.note for v in found.values if v.characteristic is None and math.isnan(v.estimate.value)}
    for name in ("modularity", "infom", "mig_sup", "dci_disentanglement", "factor_vae", "beta_vae"):
        assert "factor" in notes[name], name


@pytest.mark.parametrize(
    ("codes", "factors", "more", "message"),
    [
        (np.where(CODES > 2, np.nan, CODES), FACTORS, {}, "contain NaN or infinity"),
        (CODES.astype(str), FACTORS, {}, "codes must be numbers"),
        (CODES * 1e150, FACTORS, {}, r"must not exceed 1e\+30"),
        (CODES[:0], FACTORS[:0], {}, "are empty"),
        (CODES, FACTORS[:10], {}, "factors of shape"),
        (CODES, np.empty((N, 0)), {}, "at least one factor"),
        (CODES, np.where(FACTORS == 2, np.inf, FACTORS), {}, "must be finite"),
        (CODES, FACTORS, {"names": ["a", "a"]}, "different names"),
        (CODES, FACTORS, {"train": [0, 900]}, "in 0 to 399, got 900"),
        (CODES, FACTORS, {"train": [0.5]}, "must be integers"),
        (CODES, FACTORS, {"train": np.arange(300), "test": np.arange(200, 400)}, "share rows"),
        (CODES, FACTORS, {"blocks": [[0, 0]]}, "disjoint"),
        (CODES, FACTORS, {"blocks": [[0, 9]]}, "dimensions are 0 to 3"),
        (CODES, FACTORS, {"kinds": ["discrete"]}, "1 kinds for 2 factors"),
        (CODES, texts(FACTORS), {"kinds": ["continuous"]}, "cannot be continuous"),
    ],
)
def test_invalid_arrays_are_a_data_error(codes, factors, more, message):
    with pytest.raises(DataError, match=message):
        panel(codes, factors, PanelSettings(**QUICK), **more)


def test_too_few_rows_are_an_error():
    with pytest.raises(UndefinedError, match="at least 10 training rows and 10 test rows"):
        panel(CODES[:12], FACTORS[:12])


@pytest.mark.parametrize(
    "wrong",
    [
        {"profile": "robsut"}, {"predictor": "xgboost"}, {"fits": 0}, {"bins": 1}, {"quantile": 0.0},
        {"score": ("migg",)}, {"draws": 2}, {"profile": "reference", "predictor": "linear"},
    ],
)  # fmt: skip
def test_invalid_settings_are_a_usage_error(wrong):
    with pytest.raises(UsageError):
        panel(CODES, FACTORS, PanelSettings(**wrong))


def test_boosting_has_no_gain_importance():
    settings = PanelSettings(score=("dci",), predictor="boosting", importance="gain", fits=1)
    with pytest.raises(CcvaeEvalError, match="has no gain importance"):
        panel(CODES, FACTORS, settings)


@pytest.mark.parametrize("predictor", ["forest", "boosting", "gradient_boosting", "linear"])
def test_every_predictor_gives_all_three_dci_values(predictor):
    factors = np.column_stack([FACTORS[:, 0], CODES[:, 1] + RNG.normal(0, 0.1, N)])
    settings = PanelSettings(score=("dci",), predictor=predictor, fits=1)
    found = {v.name: v for v in panel(CODES, factors, settings).values if v.characteristic is None and not v.at}
    for name in ("dci_disentanglement", "dci_completeness", "dci_informativeness"):
        value = found[name]
        assert 0.7 < value.estimate.value <= 1.0, name
        assert value.estimate.low <= value.estimate.value <= value.estimate.high
    informativeness = found["dci_informativeness"]
    assert informativeness.chance < informativeness.estimate.low


def test_score_returns_one_number():
    assert score(FACTORS.astype(float), FACTORS, "mig", profile="reference") == pytest.approx(1.0, abs=0.02)
    assert score(CODES, FACTORS, "dci_informativeness") > 0.9
    assert score(CODES, FACTORS, "gaussian_total_correlation", profile="reference") < 0.1
    with pytest.raises(UsageError, match="migg"):
        score(CODES, FACTORS, "migg")
