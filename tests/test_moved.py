"""The import paths and names of version 0.1: they give the objects at the new paths, with a DeprecationWarning."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from types import ModuleType

import pytest

from ccvae_eval._moved import MOVED, RENAMED

NAMES = {
    "contract": ["ContractBroken", "check_data_set", "check_features", "check_matcher", "check_metric", "check_model"],
    "contract.breach": ["ContractBroken", "require"],
    "contract.data": ["check_data_set"],
    "contract.features": ["check_features"],
    "contract.matchers": ["check_matcher"],
    "contract.metrics": ["check_metric"],
    "contract.models": ["check_model"],
    "contract.specimens": ["drawn_faces"],
    "data.arrays": ["as_data_set"],
    "data.columns": ["column_from_text", "schema_of"],
    "data.contract": ["DataSet", "HasRegions"],
    "data.decoding": ["decode", "resized"],
    "data.faces": ["Faces"],
    "data.faces.dataset": ["Faces"],
    "data.opening": ["open_data"],
    "data.options": ["Options", "require_path"],
    "errors": ["DataError", "InputError", "UsageError"],
    "interventions": ["LEAST_PER_CLASS", "Do", "PriorDraw"],
    "measure": ["Estimate", "Measurement", "Value", "ValueSpec"],
    "metrics.contract": ["Decoded", "Metric", "Needs", "settings_of"],
    "metrics.features": ["Features"],
    "metrics.matchers.contract": ["Matches", "no_matches", "unit"],
    "metrics.tally": ["Mean", "among"],
    "registry": ["Registry", "add_plugin_file"],
    "report.contract": ["Report"],
    "run": ["Run"],
    "streams": ["numpy_stream", "torch_stream"],
    "subject": ["Subject", "prepare"],
    "types": ["Gaussian"],
    "wrapping": ["wrap"],
}
"""Names that the documentation and the templates of version 0.1 import, by module."""


def new_path(old: str) -> str:
    parent, _, name = old.rpartition(".")
    return MOVED.get(old) or f"{MOVED[parent]}.{name}"


def import_old(old: str) -> ModuleType:
    """Imports a module by its old path, as if for the first time."""
    for name in (old, old.rpartition(".")[0]):
        if name in MOVED or name == old:
            sys.modules.pop(f"ccvae_eval.{name}", None)
    with pytest.warns(DeprecationWarning, match="has moved to") as warned:
        module = import_module(f"ccvae_eval.{old}")
    assert f"ccvae_eval.{old} has moved to ccvae_eval.{new_path(old)}" in [str(w.message) for w in warned]
    return module


@pytest.mark.parametrize("old", sorted({*MOVED, *NAMES}))
def test_an_old_module_warns_and_gives_the_same_objects(old: str) -> None:
    module, new = import_old(old), import_module(f"ccvae_eval.{new_path(old)}")
    for name in NAMES.get(old, ()):
        assert getattr(module, name) is getattr(new, name)
    with pytest.raises(AttributeError):
        getattr(module, "no_such_name")  # noqa: B009


@pytest.mark.parametrize(
    ("module", "old"),
    [
        ("chunks", "CHUNK"),
        ("contract", "Specimen"),
        ("contract.specimens", "Specimen"),
        ("metrics.tally", "MeanShare"),
        ("metrics.tally", "PerImage"),
        ("metrics.tally", "Ratio"),
        ("metrics.tally", "Share"),
        ("metrics.tally", "Tally"),
    ],
)
def test_a_renamed_object_has_its_old_name_too(module: str, old: str) -> None:
    new = import_module(f"ccvae_eval.{new_path(module)}")
    assert getattr(import_old(module), old) is getattr(new, RENAMED[old])


@pytest.mark.parametrize("name", ["evaluate", "load", "metric_named"])
def test_the_package_evaluation_has_the_names_of_the_old_module(name: str) -> None:
    import ccvae_eval.api
    import ccvae_eval.evaluation

    with pytest.warns(DeprecationWarning, match=f"{name} has moved to ccvae_eval.api"):
        assert getattr(ccvae_eval.evaluation, name) is getattr(ccvae_eval.api, name)
    with pytest.raises(AttributeError):
        getattr(ccvae_eval.evaluation, "no_such_name")  # noqa: B009


@pytest.mark.parametrize("name", ["ccvae_eval.nowhere", "ccvae_eval.contract.nowhere", "ccvae_eval.errors.nowhere"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_unknown_module_is_not_found(name: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=name):
        import_module(name)


def test_an_existing_module_is_never_shadowed() -> None:
    code = (
        "import ccvae_eval.evaluation, ccvae_eval.core.errors, ccvae_eval.testing.metrics, ccvae_eval.data.sets.faces"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
