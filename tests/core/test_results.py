from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from ccvae_eval.core.results import Estimate, Method
from ccvae_eval.evaluation.storage import RUN_SCHEMA
from ccvae_eval.statistics.intervals import Resampled, mean_estimate, mean_over
from ccvae_eval.statistics.resampling import ResampleWeights

WRITTEN = {
    "", "bootstrap", "BCa", "basic bootstrap", "centred and basic bootstrap", "log-scale bootstrap",
    "projected bootstrap", "subsampling", "Fieller", "wilson", "exact", "exact bound", "exact, effective images",
    "exact, squares added", "bootstrap and exact bounds", "welch", "t over training seeds", "of the votes",
    "of independent classes",
}  # fmt: skip
"""The texts that written runs contain."""


def test_the_texts_of_the_methods_stay() -> None:
    assert {method.value for method in Method} == WRITTEN
    assert json.dumps(Estimate(1.0, method=Method.BCA).method) == '"BCa"'
    assert f"{Method.BCA}" == "BCa"


def test_the_schema_describes_every_method() -> None:
    text = json.dumps(RUN_SCHEMA, ensure_ascii=False)
    assert all(f"{method} = {method.description}" in text for method in Method if method.value)


def test_naming_a_method_needs_no_torch() -> None:
    code = "import sys; from ccvae_eval.core.results import Method; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("methods", "expected"), [
    (["wilson"], Method.MOVER),
    (["wilson", "exact, effective images", "exact, squares added"], Method.MOVER),
    (["wilson", "bootstrap"], Method.BOOTSTRAP),
    (["basic bootstrap", "bootstrap"], Method.BASIC),
    (["wilson, conditional on the fit"], Method.BOOTSTRAP),
    (["of another program"], Method.BOOTSTRAP),
    ([], Method.BOOTSTRAP),
])  # fmt: skip
def test_methods_combine_in_a_mean(methods: list[str], expected: Method) -> None:
    assert Method.of_mean(methods) is expected


def test_a_mean_over_estimates_with_an_unknown_method_uses_their_resamples() -> None:
    weights = ResampleWeights(0, 400, draws=200)
    values = np.random.default_rng(0).random((2, 400))
    parts = [mean_estimate(column, weights) for column in values]
    unknown = [Resampled(replace(p.estimate, method="of another program"), p.draws) for p in parts]
    assert mean_over(unknown).estimate == mean_over(parts).estimate
