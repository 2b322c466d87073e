"""``pytest --pyargs ccvae_eval.testing``: conformance tests of all registered third-party plugins, with their defaults.

For a plugin that needs settings or files, call ``check_model``, ``check_metric`` or ``check_data_set`` instead.
"""

from __future__ import annotations

import pytest

from ccvae_eval.data.interface import NeedsNoPath
from ccvae_eval.data.spec import open_data
from ccvae_eval.model.interface import supports
from ccvae_eval.plugins.registry import BUILTIN_DISTRIBUTION, Registry, data_sets, metrics, models
from ccvae_eval.testing.data import check_data_set
from ccvae_eval.testing.metric_fixtures import drawn_faces
from ccvae_eval.testing.metrics import check_metric
from ccvae_eval.testing.model_fixtures import model_fixture
from ccvae_eval.testing.models import check_model


def third_party(registry: Registry) -> list[str]:
    """The qualified names of the third-party entries."""
    return [entry.qualified for entry in registry.registrations() if entry.distribution != BUILTIN_DISTRIBUTION]


@pytest.mark.parametrize("name", third_party(models))
def test_model(name: str) -> None:
    """The model, untrained, with its default settings."""
    fixture = model_fixture(name, models[name], {})
    check_model(fixture.model, fixture.images, fixture.labels)


@pytest.mark.parametrize("name", third_party(metrics))
def test_metric(name: str) -> None:
    """The metric with its default settings, on the reference model of rendered faces."""
    check_metric(metrics[name](), drawn_faces())


@pytest.mark.parametrize("name", third_party(data_sets))
def test_data_set(name: str) -> None:
    """The data set, unless it needs a path."""
    if not supports(data_sets[name], NeedsNoPath):
        pytest.skip(f"{name} needs a path: open it and call check_data_set")
    check_data_set(open_data(name))
