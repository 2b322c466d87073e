"""Names, shapes and order of each model's weights, which earlier checkpoints and resumed trainings rely on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ccvae_eval.model.interface import ModelContext
from ccvae_eval.plugins import registry
from tests.support.small_models import PRIOR, SCHEMA

RECORDED = json.loads((Path(__file__).parent / "state_dicts.json").read_text())
SETTINGS = {
    "ccvae": {"block": 2, "class_block": 2},
    "diva": {"domain": "Hair", "block": 2, "class_block": 3},
}


def test_every_built_in_model_is_recorded() -> None:
    built_in = {name for name, kind in registry.models.items() if kind.__module__.startswith("ccvae_models.")}
    assert set(RECORDED) == built_in


@pytest.mark.parametrize("name", RECORDED)
def test_the_weights_keep_their_names_shapes_and_order(name: str) -> None:
    model = registry.models[name].from_settings(SETTINGS.get(name, {}), ModelContext(SCHEMA, (4,), PRIOR))
    found = [[key, list(tensor.shape)] for key, tensor in model.state_dict().items()]
    assert found == RECORDED[name]["state_dict"]
    assert [key for key, _ in model.named_parameters()] == RECORDED[name]["parameters"]
