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
    "density": Verb("measuring", MEASURE, "Does each label live in its own latents?", "density"),
    "locality": Verb(
        "measuring", MEASURE, "When one characteristic is changed, does the image change where it should?", "locality"
    ),
    "drift": Verb(
        "measuring", MEASURE, "Does what should stay in its place stay, when one characteristic is changed?", "drift"
    ),
    "diversity": Verb("measuring", MEASURE, "Is there variety within one characteristic?", "diversity"),
    "accuracy": Verb("measuring", MEASURE, "How well does the model tell its labels?", "accuracy"),
    "intervention": Verb(
        "measuring",
        MEASURE,
        "When a label is set, is it seen, does the rest stay, and does it lead back?",
        "intervention",
    ),
    "generation": Verb(
        "measuring", MEASURE, "Do images drawn from the prior look real, and show what was asked for?", "generation"
    ),
    "reconstruction": Verb(
        "measuring",
        MEASURE,
        "How much of an image does its code bring back, and what does the code cost?",
        "reconstruction",
    ),
    "disentanglement": Verb(
        "disentanglement", MEASURE, "Score codes against factors by all published scores, of a checkpoint or of arrays."
    ),
    "run": Verb("run", MEASURE, "Measure a checkpoint by several metrics in one pass."),
    "calibrate": Verb(
        "calibrate", PUBLISH, "Check that each value answers to what it should, on models whose entanglement is known."
    ),
    "train": Verb("train", MAKE, "Train a model, or the judge, on labelled images."),
    "reproduce": Verb(
        "reproduce", MAKE, "Train and evaluate the models of a recipe, and tabulate them beside what was published."
    ),
    "convert": Verb("convert", MAKE, "Write a checkpoint in another format."),
    "export": Verb("export", MAKE, "Write the codes and labels of images, for other tools."),
    "new": Verb("new", MAKE, "Write a plugin to start from: one file that runs, with its test."),
    "inspect": Verb("inspect", LOOK_UP, "Say what a checkpoint, a data set or a run holds; executes nothing."),
    "list": Verb("list", LOOK_UP, "List the registered models, metrics, data sets or plugins."),
    "explain": Verb("explain", LOOK_UP, "Explain a metric, or the schema of run.json."),
    "check": Verb("check", LOOK_UP, "Try whether a plugin keeps its contract."),
}
