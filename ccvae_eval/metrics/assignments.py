"""Assignments of several labels at once: how they are written and read."""

from __future__ import annotations

from ccvae_eval.errors import UsageError, suggestion
from ccvae_eval.subject import Subject

Assignment = tuple[tuple[str, int], ...]
"""(label, class index) of each."""


def assignment_of(text: str, subject: Subject) -> Assignment:
    """Reads ``Male=1,Heavy_Makeup=0``: labels with the index or the name of a class.

    Raises:
        UsageError: an unknown label or class, a label without columns of its own, one that is named twice, or text
            of another form.
    """
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise UsageError(f"{part!r} is no assignment", where="assign", hint="Write LABEL=CLASS,LABEL=CLASS.")
        label = subject.schema[name]
        if label.kind == "continuous":
            raise UsageError(f"label {name!r} is continuous and has no classes", where="assign")
        if name not in subject.layout.characteristics:
            raise UsageError(
                f"no columns belong to label {name!r}",
                where="assign",
                hint=suggestion(name, subject.layout.characteristics),
            )
        if name in found:
            raise UsageError(f"label {name!r} is assigned twice", where="assign")
        classes = [label.class_name(index) for index in range(label.cardinality)]
        if value in classes:
            found[name] = classes.index(value)
        elif value.isdigit() and int(value) < len(classes):
            found[name] = int(value)
        else:
            raise UsageError(f"{value!r} is no class of {name!r}", where="assign", hint=suggestion(value, classes))
    return tuple(found.items())


def text_of(assignment: Assignment, subject: Subject) -> str:
    """An assignment as :func:`assignment_of` reads it: 0 and 1 for a binary label, else the name of the class."""
    schema = subject.schema
    named = {n: str(v) if schema[n].kind == "binary" else schema[n].class_name(v) for n, v in assignment}
    return ",".join(f"{name}={value}" for name, value in named.items())
