"""``pytest --pyargs ccvae_eval.testing``: the contract suite over everything that other distributions registered.

What needs settings or files of its own is tested by calling ``check_model``, ``check_metric`` or ``check_data_set`` on
it; these tests try what can be made from its defaults.
"""

from __future__ import annotations

import pytest

from ccvae_eval.data.interface import NeedsNoPath
from ccvae_eval.data.spec import open_data
from ccvae_eval.plugins.registry import HOME, Registry, data_sets, metrics, models
from ccvae_eval.testing.data import check_data_set
from ccvae_eval.testing.metric_fixtures import drawn_faces
from ccvae_eval.testing.metrics import check_metric
from ccvae_eval.testing.model_fixtures import model_fixture
from ccvae_eval.testing.models import check_model


def theirs(registry: Registry) -> list[str]:
    """The names that are not ours, in the form that is unambiguous."""
    return [entry.qualified for entry in registry.registrations() if entry.distribution != HOME]


@pytest.mark.parametrize("name", theirs(models))
def test_model(name: str) -> None:
    """The model, untrained, with its default settings."""
    sitter = model_fixture(name, models[name], {})
    check_model(sitter.model, sitter.images, sitter.labels)


@pytest.mark.parametrize("name", theirs(metrics))
def test_metric(name: str) -> None:
    """The metric with its default settings, on the oracle of drawn faces."""
    check_metric(metrics[name](), drawn_faces())


@pytest.mark.parametrize("name", theirs(data_sets))
def test_data_set(name: str) -> None:
    """The data set, if it needs no path."""
    if not isinstance(data_sets[name], NeedsNoPath):
        pytest.skip(f"{name} needs a path: call check_data_set on one that is open")
    check_data_set(open_data(name))
