"""Every reason of an undefined value is explained by ``explain METRIC``, to which its remedy may refer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import ccvae_eval
from ccvae_eval.api import evaluate
from ccvae_eval.data.memory import as_data_set
from ccvae_eval.evaluation.metric import explained_reason
from ccvae_eval.plugins.registry import metrics
from tests.support.fakes import Squares, SquaresVAE
from tests.support.metric_settings import FAST

PACKAGE = Path(ccvae_eval.__file__).parent
METRICS = sorted(folder.name for folder in (PACKAGE / "metrics").iterdir() if (folder / "settings.py").is_file())
SHARED = ["metrics/shared/contrasts", "evaluation/interventions", "evaluation/result_table"]
"""Modules whose reasons every metric can give; those of statistics are explained for every metric too."""
RAISED = {"UndefinedError", "UnsupportedError", "Undefined", "too_few_images"}
PLACES = {
    **dict.fromkeys([*RAISED, "unless"], 0),
    **dict.fromkeys(["undefined", "undefined_estimate", "undefined_results", "_score"], 1),
    "heldout_result": 4,
}
"""Position of the reason among the arguments of a function."""
NAMES = ("why", "reason", "still", "few")
"""Variables that hold a reason."""


def texts(node: ast.expr, module: ModuleType) -> Iterator[str]:
    """The texts that an expression can be, with N for what is filled in; none for a variable."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "N" for part in node.values)
    elif isinstance(node, ast.Name) and isinstance(getattr(module, node.id, None), str):
        yield getattr(module, node.id)
    elif isinstance(node, ast.IfExp):
        yield from (text for part in (node.body, node.orelse) for text in texts(part, module))
    elif isinstance(node, ast.BoolOp):
        yield from (text for part in node.values for text in texts(part, module))
    elif isinstance(node, ast.BinOp):
        yield from texts(node.left, module)


def reasons_in(path: str) -> Iterator[str]:
    """The texts that a module gives as reasons: to errors, to undefined values, as ``why``."""
    module = import_module(f"ccvae_eval.{path.replace('/', '.')}")
    for node in ast.walk(ast.parse((PACKAGE / f"{path}.py").read_text())):
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") in NAMES for t in node.targets):
            yield from texts(node.value, module)
        if isinstance(node, ast.FunctionDef) and node.name.startswith(("_few", "_no_region", "_shortage", "_too_few")):
            returned = (each.value for each in ast.walk(node) if isinstance(each, ast.Return) and each.value)
            yield from (text for value in returned for text in texts(value, module))
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        given = node.args[PLACES[name] : PLACES[name] + 1] if name in PLACES else []
        given += [word.value for word in node.keywords if word.arg in ("why", "reason") and "Error" not in name]
        yield from (text for value in given for text in texts(value, module))


def found(metric: str) -> set[str]:
    folder = PACKAGE / "metrics" / metric
    modules = [f"metrics/{metric}/{file.stem}" for file in folder.glob("*.py") if file.stem != "__init__"]
    return {text for path in modules for text in reasons_in(path) if text.strip(" (") == text != ""}


@pytest.mark.parametrize("metric", METRICS)
def test_every_reason_of_a_metric_is_explained(metric: str) -> None:
    assert not {text for text in found(metric) if not explained_reason(metrics[metric], text)}


def test_every_shared_reason_is_explained_by_some_metric() -> None:
    statistics = [f"statistics/{file.stem}" for file in (PACKAGE / "statistics").glob("[a-z]*.py")]
    without_interval = {"N images", "N of N resamples undefined"}
    shared = {text for path in (*SHARED, *statistics) for text in reasons_in(path) if text} - without_interval
    assert {"classes not separated", "no images"} < shared
    kinds = [metrics[name] for name in METRICS]
    assert not {text for text in shared if not any(explained_reason(kind, text) for kind in kinds)}


@pytest.mark.parametrize("count", [12, 64])
def test_the_remedy_explain_leads_to_an_explanation(count: int) -> None:
    """A sample that is too small, and a decoder that ignores its codes on data without regions."""
    model, squares = SquaresVAE(), Squares(300)
    if count == 64:
        model.decode = lambda codes: torch.full((len(codes), 3, 32, 32), 0.5)
    ids = np.arange(300)
    data = as_data_set((squares.batch(ids).images, squares.labels_of(ids), squares.schema))
    given = {"references": False, "gallery": False, "judge": "none"}
    run = evaluate(model, data, METRICS, sample=count, options=FAST, **given)
    asked = {(m.metric, v.note) for m in run for v in m.values if v.remedy == f"ccvae-eval explain {m.metric}"}
    assert len(asked) > 3
    assert not {(metric, note) for metric, note in asked if not explained_reason(metrics[metric], note)}
