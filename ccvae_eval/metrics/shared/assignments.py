"""Assignments of labels (``--assign``): parsing and formatting, and the rows of ``obeyed``."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.errors import UsageError, suggestion
from ccvae_eval.core.types import Floats
from ccvae_eval.evaluation.judge_scores import JudgeReliability, classified_as, level_log_probs, total_variation
from ccvae_eval.evaluation.result_table import At, Proportion, ResultTable, mean_of, unless
from ccvae_eval.evaluation.subject import Subject

Assignment = tuple[tuple[str, float], ...]
"""Pairs of a label and a class index, or the value of a continuous label."""


def assignment_of(text: str, subject: Subject) -> Assignment:
    """Parse ``Male=1,Heavy_Makeup=0``; a class is given by its index or its name, a continuous label by its value.

    Raises:
        UsageError: if a label or class is unknown, if a label is assigned twice or has no latent dimensions, if a value
            lies outside those of the images, or if the text has another form.
    """
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            hint = "Write LABEL=CLASS,LABEL=CLASS."
            raise UsageError(f"an assignment must have the form LABEL=CLASS, got {part!r}", where="assign", hint=hint)
        label = subject.schema[name]
        if name not in subject.layout.characteristics:
            hint = suggestion(name, subject.layout.characteristics)
            raise UsageError(f"label {name!r} has no latent dimensions", where="assign", hint=hint)
        if name in found:
            raise UsageError(f"label {name!r} is assigned twice", where="assign")
        if label.kind == "continuous":
            found[name] = _value(subject, name, value)
            continue
        classes = [label.class_name(index) for index in range(label.cardinality)]
        if value in classes:
            found[name] = classes.index(value)
        elif value.isdigit() and int(value) < len(classes):
            found[name] = int(value)
        else:
            raise UsageError(f"label {name!r} has no class {value!r}", where="assign", hint=suggestion(value, classes))
    return tuple(found.items())


def _value(subject: Subject, name: str, text: str) -> float:
    """Parse a value of a continuous label, which must lie among those of the images."""
    known = subject.known_values(name)
    low, high = (float(known[0]), float(known[-1])) if len(known) else (math.nan, math.nan)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        what = f"label {name!r} must be a number from {low:g} to {high:g}, as in the images, got {text!r}"
        raise UsageError(what, where="assign")
    return value


def obeys(subject: Subject, log_probs: Tensor, name: str, value: float) -> Floats:
    """Return 1 where the judge sees the assigned class, else 0, shape (n,).

    Of a continuous label: where the judged value is at most half a step between two levels away from the assigned one.
    """
    if subject.schema[name].kind != "continuous":
        return classified_as(log_probs, torch.full((len(log_probs),), int(value))).astype(np.float64)
    wanted = level_log_probs(torch.full((len(log_probs),), value, dtype=torch.float64), subject.levels(name))
    return np.asarray(total_variation(wanted, log_probs) <= 1 / 2, np.float64)


def assignment_text(assignment: Assignment, subject: Subject) -> str:
    """Format an assignment as :func:`assignment_of` parses it: 0 or 1, the class name, or the value."""
    schema = subject.schema
    named = {n: schema[n].class_name(int(v)) if schema[n].kind == "categorical" else f"{v:g}" for n, v in assignment}
    return ",".join(f"{name}={value}" for name, value in named.items())


def add_obeyed(
    table: ResultTable, reliability: JudgeReliability, at: At, after: Mapping[str, Floats],
    before: Mapping[str, Floats], real: Mapping[str, Floats] | None = None,
) -> None:  # fmt: skip
    """Add ``obeyed`` of each label of an assignment and of all labels together.

    Args:
        table: receives the rows.
        reliability: of the judge on this model's reconstructions.
        at: the assignment.
        after, before: for each label, 1 where the judge sees the assigned class with the assignment and without it,
            else 0, shape (N,); NaN where its class is unknown.
        real: the same for the real images that have all assigned classes, NaN for all others; for the references.
    """
    for name, column in after.items():
        what, chance = unless(reliability.why_not(name), Proportion(column)), mean_of(before[name])
        reference = None if real is None else mean_of(real[name])
        table.add("obeyed", name, what, at, mean_at=None, chance=chance, reference=reference)
    why = next((f"{name}: {why}" for name in after if (why := reliability.why_not(name))), "")
    # the minimum is 1 if every label is seen, and NaN if one is unknown
    together, unassigned = (np.min(list(columns.values()), axis=0) for columns in (after, before))
    reference = None if real is None else mean_of(np.min(list(real.values()), axis=0))
    what = unless(why, Proportion(together))
    table.add("obeyed", None, what, at, chance=mean_of(unassigned), reference=reference)
