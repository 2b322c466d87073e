"""The command line: each verb parses, makes one call and prints.

``VERBS`` has the line of each verb in the root help, so that the root help imports no verb.
"""

from __future__ import annotations

from typing import NamedTuple

MEASURE, PUBLISH, MAKE, LOOK_UP = "Measure", "Compare and publish", "Make", "Look up"


class Verb(NamedTuple):
    """One verb of the command line.

    Args:
        panel: the panel of the root help that lists it.
        summary: its line in the root help, equal to the first line of the command's docstring.
        is_metric: True if the verb measures the metric of this name; else the module of this name implements it.
    """

    panel: str
    summary: str
    is_metric: bool = False


_QUESTIONS = {
    "density": "Is each label predictable from its own latent dimensions?",
    "locality": "When one characteristic is changed, does the image change only where it should?",
    "drift": "When one characteristic is changed, does the rest of the image stay in place?",
    "diversity": "Does the model capture variation within one characteristic?",
    "accuracy": "How accurately does the model predict its labels?",
    "intervention": "When a label is set, does the image show it, and do the other labels stay?",
    "generation": "Do samples from the prior look real, and show the requested class?",
    "reconstruction": "How close are reconstructions to the images, and how much information do the codes carry?",
}

VERBS = {
    "demo": Verb(MEASURE, "Evaluate the shipped checkpoint and suggest the next command."),
    **{name: Verb(MEASURE, question, is_metric=True) for name, question in _QUESTIONS.items()},
    "disentanglement": Verb(MEASURE, "Compute the published disentanglement scores, for a checkpoint or for arrays."),
    "run": Verb(MEASURE, "Evaluate a checkpoint with several metrics in one pass."),
    "compare": Verb(PUBLISH, "Test which of two or more models is better, image by image or over training seeds."),
    "table": Verb(PUBLISH, "Write a table of runs for a paper: LaTeX, Markdown or CSV."),
    "gate": Verb(PUBLISH, "Check a run against requirements, for continuous integration."),
    "calibrate": Verb(PUBLISH, "Check that each value responds as it should to perturbations of known strength."),
    "train": Verb(MAKE, "Train a model, or the judge, on labelled images."),
    "reproduce": Verb(MAKE, "Train and evaluate the models of a recipe, and compare them with published results."),
    "convert": Verb(MAKE, "Convert a checkpoint to another format."),
    "export": Verb(MAKE, "Export the codes and labels of images for other tools."),
    "new": Verb(MAKE, "Write a plugin template: one file that runs, with its tests."),
    "inspect": Verb(LOOK_UP, "Show what a checkpoint, a data set or a run contains, without executing it."),
    "list": Verb(LOOK_UP, "List the registered models, metrics, data sets or plugins."),
    "explain": Verb(LOOK_UP, "Explain a metric, or print the schema of run.json."),
    "check": Verb(LOOK_UP, "Test whether a plugin conforms to its interface."),
}
