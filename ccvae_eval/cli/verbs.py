"""The verbs of the command line: where each is implemented, and its line in the root help.

The root help is shown from this table alone, without importing the verbs.
"""

from __future__ import annotations

from dataclasses import dataclass

MEASURE, PUBLISH, MAKE, LOOK_UP = "Measure", "Compare and publish", "Make", "Look up"


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb of the command line.

    Args:
        module: the module in ``ccvae_eval.cli`` that implements it.
        panel: the panel of the root help that lists it.
        summary: its line in the root help, equal to the first line of the command's docstring.
        metric: the metric that this verb measures; "" for every other verb.
    """

    module: str
    panel: str
    summary: str
    metric: str = ""


def _metric(name: str, question: str) -> Verb:
    return Verb("measuring", MEASURE, question, name)


VERBS: dict[str, Verb] = {
    "demo": Verb("demo", MEASURE, "Evaluate the shipped checkpoint and suggest the next command."),
    "density": _metric("density", "Is each label predictable from its own latent dimensions?"),
    "locality": _metric("locality", "When one characteristic is changed, does the image change only where it should?"),
    "drift": _metric("drift", "When one characteristic is changed, does the rest of the image stay in place?"),
    "diversity": _metric("diversity", "Does the model capture variation within one characteristic?"),
    "accuracy": _metric("accuracy", "How accurately does the model predict its labels?"),
    "intervention": _metric(
        "intervention", "When a label is set, does the image show it, and do the other labels stay?"
    ),
    "generation": _metric("generation", "Do samples from the prior look real, and show the requested class?"),
    "reconstruction": _metric(
        "reconstruction", "How close are reconstructions to the images, and how much information do the codes carry?"
    ),
    "disentanglement": Verb(
        "disentanglement", MEASURE, "Compute the published disentanglement scores, for a checkpoint or for arrays."
    ),
    "run": Verb("run", MEASURE, "Evaluate a checkpoint with several metrics in one pass."),
    "calibrate": Verb(
        "calibrate", PUBLISH, "Check that each value responds as it should to perturbations of known strength."
    ),
    "train": Verb("train", MAKE, "Train a model, or the judge, on labelled images."),
    "reproduce": Verb(
        "reproduce", MAKE, "Train and evaluate the models of a recipe, and compare them with published results."
    ),
    "convert": Verb("convert", MAKE, "Convert a checkpoint to another format."),
    "export": Verb("export", MAKE, "Export the codes and labels of images for other tools."),
    "new": Verb("new", MAKE, "Write a plugin template: one file that runs, with its tests."),
    "inspect": Verb("inspect", LOOK_UP, "Show what a checkpoint, a data set or a run contains, without executing it."),
    "list": Verb("list", LOOK_UP, "List the registered models, metrics, data sets or plugins."),
    "explain": Verb("explain", LOOK_UP, "Explain a metric, or print the schema of run.json."),
    "check": Verb("check", LOOK_UP, "Test whether a plugin conforms to its interface."),
}
