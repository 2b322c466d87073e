"""The verbs, where each is written, and its line in the root help; nothing heavy is imported to show them."""

from __future__ import annotations

from dataclasses import dataclass

MEASURE, PUBLISH, MAKE, LOOK_UP = "Measure", "Compare and publish", "Make", "Look up"


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb of the command line.

    Args:
        module: the module that has it.
        panel: the panel of the root help.
        summary: its one line; a test holds it against the docstring.
        metric: the metric that this verb measures, "" if it is no metric's verb.
    """

    module: str
    panel: str
    summary: str
    metric: str = ""


VERBS: dict[str, Verb] = {
    "demo": Verb("demo", MEASURE, "Evaluate the shipped checkpoint and say what to do next."),
    "density": Verb("metric", MEASURE, "Does each label live in its own latents?", "density"),
    "locality": Verb(
        "metric", MEASURE, "When one characteristic is changed, does the image change where it should?", "locality"
    ),
    "drift": Verb(
        "metric", MEASURE, "Does what should stay in its place stay, when one characteristic is changed?", "drift"
    ),
    "diversity": Verb("metric", MEASURE, "Is there variety within one characteristic?", "diversity"),
    "accuracy": Verb("metric", MEASURE, "How well does the model tell its labels?", "accuracy"),
    "run": Verb("run", MEASURE, "Measure a checkpoint by several metrics in one pass."),
    "calibrate": Verb(
        "calibrate", PUBLISH, "Check that each value answers to what it should, on models whose entanglement is known."
    ),
    "train": Verb("train", MAKE, "Train a model, or the judge, on labelled images."),
    "inspect": Verb("inspect", LOOK_UP, "Say what a checkpoint, a data set or a run holds; executes nothing."),
    "list": Verb("list", LOOK_UP, "List the registered models, metrics, data sets or plugins."),
    "explain": Verb("explain", LOOK_UP, "Explain a metric, or the schema of run.json."),
}
