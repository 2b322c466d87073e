"""The command line: each verb parses, makes one call and prints.

``VERBS`` has the line of each verb in the root help, so that the root help imports no verb.
"""

from __future__ import annotations

import math
import re
from ast import literal_eval
from collections import Counter
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple

from ccvae_eval.core.errors import PluginError
from ccvae_eval.plugins import registry

GIVEN: ContextVar[tuple[str, ...]] = ContextVar("GIVEN", default=())
"""The arguments of the command that runs."""

MEASURE, PUBLISH, MAKE, LOOK_UP = "Measure", "Compare and publish", "Make", "Look up"


class Verb(NamedTuple):
    """One verb of the command line.

    Args:
        panel: the panel of the root help that lists it.
        summary: its line in the root help, equal to the first line of the command's docstring.
        is_metric: True if it is the common command of metrics; else the module of this name implements it.
    """

    panel: str
    summary: str
    is_metric: bool = False


COMMANDS = {
    "demo": Verb(MEASURE, "Evaluate the shipped checkpoint and suggest the next command."),
    "run": Verb(MEASURE, "Evaluate a checkpoint with several metrics in one pass."),
    "merge": Verb(MEASURE, "Join the shares of a run that several processes have measured."),
    "sweep": Verb(MEASURE, "Evaluate many checkpoints, on this machine or on a cluster."),
    "runs": Verb(PUBLISH, "Show the state of a sweep, and the headline values of its runs."),
    "compare": Verb(PUBLISH, "Test which of two or more models is better, image by image or over training seeds."),
    "table": Verb(PUBLISH, "Write a table of runs for a paper: LaTeX, Markdown or CSV."),
    "gate": Verb(PUBLISH, "Check a run against requirements, for continuous integration."),
    "calibrate": Verb(PUBLISH, "Check that each value responds as it should to perturbations of known strength."),
    "report": Verb(
        PUBLISH, "Write the report of a run or of a folder of runs as an HTML file, or one figure for a paper."
    ),
    "train": Verb(MAKE, "Train a model, or the judge, on labelled images."),
    "reproduce": Verb(MAKE, "Train and evaluate the models of a recipe, and compare them with published results."),
    "convert": Verb(MAKE, "Convert a checkpoint to another format."),
    "export": Verb(MAKE, "Export the codes and labels of images for other tools."),
    "new": Verb(MAKE, "Write a plugin template: one file that runs, with its tests."),
    "inspect": Verb(LOOK_UP, "Show what a checkpoint, a data set or a run contains, without executing it."),
    "list": Verb(LOOK_UP, "List the registered models, metrics, data sets or plugins."),
    "explain": Verb(LOOK_UP, "Explain a metric, value, check, data set or model, or print the schema of run.json."),
    "check": Verb(LOOK_UP, "Test whether a plugin conforms to its interface."),
}
"""The verbs that are not metrics; a module implements each of them."""
OWN_COMMANDS = ("disentanglement",)
"""Metrics with a command of their own, in the module of the same name."""
BROKEN = "Cannot be loaded; ccvae-eval list metrics --check shows the reason."
_CLASS = re.compile(r'^class (?P<name>\w+).*:\n    r?"""(?P<summary>.*)(?P<body>(?:\n(?:    .*)?)*)', re.MULTILINE)
_STATEMENT = re.compile(r"^    (question|order)\b[^=\n]*= (.*?)(?=^    [\w@#]|\Z)", re.MULTILINE | re.DOTALL)
"""A class with a docstring in the text of a module, and a statement in its body."""


class Verbs(Mapping[str, Verb]):
    """All verbs in the order of the root help: ``demo``, one for each registered metric, and the others."""

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(["demo", *_metric_verbs(), *COMMANDS]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS or name in registry.metrics

    def __getitem__(self, name: str) -> Verb:
        if name in COMMANDS:
            return COMMANDS[name]
        if name not in registry.metrics:
            raise KeyError(name)
        summary = _order_and_question(registry.metrics.find(name))[1]
        return Verb(MEASURE, summary, name not in OWN_COMMANDS)


def _metric_verbs() -> list[str]:
    """The names of all registered metrics in their order; a name that is registered twice is qualified."""
    entries = registry.metrics.registrations()
    count = Counter(entry.name for entry in entries)
    ordered = sorted(entries, key=lambda entry: _order_and_question(entry)[0])
    return [entry.name if count[entry.name] == 1 else entry.qualified for entry in ordered]


@cache
def _order_and_question(entry: registry.Registration) -> tuple[float, str]:
    """Order and question of a metric; without a question, the first line of its docstring.

    They are read from the text of its class, so that the root help imports no metric. The class is imported only if
    they cannot be read.
    """
    try:
        stated = _stated(entry) or vars(entry.load())
    except PluginError:
        return math.inf, BROKEN
    order, text = stated.get("order"), stated.get("question") or stated.get("__doc__") or ""
    return order if isinstance(order, int) else math.inf, str(text).strip().partition("\n")[0]


def _stated(entry: registry.Registration) -> Mapping[str, Any]:
    """Order, question and docstring in the text of a metric's class; empty if they are no literals there."""
    classes = {found["name"]: found for found in _CLASS.finditer(entry.source())}
    found = classes.get(entry.target.partition(":")[2])
    if found is None:
        return {}
    try:
        stated = {name: literal_eval(value) for name, value in _STATEMENT.findall(found["body"])}
    except (SyntaxError, ValueError):
        return {}
    return {"__doc__": found["summary"].removesuffix('"""'), **stated}


VERBS = Verbs()
