"""The edits of each characteristic: what is set, what is swapped, and why where it is not."""

from __future__ import annotations

from dataclasses import dataclass

from ccvae_eval.interventions import CodeSource, Do, Intervention, Mode, Swap, donor_rows, why_not
from ccvae_eval.subject import Subject


@dataclass(frozen=True, slots=True)
class Edit:
    """What is decoded for one characteristic.

    Args:
        characteristic: whose columns.
        do, swap: the interventions; None where they do not exist.
        no_do, no_swap: why not.
    """

    characteristic: str
    do: Do | None
    swap: Swap | None
    no_do: str = ""
    no_swap: str = ""

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        return tuple(i for i in (self.do, self.swap) if i is not None)


def edits_of(subject: Subject, mode: Mode, source: CodeSource) -> list[Edit]:
    """The edit of each characteristic that has any, and of the others the reasons."""
    edits = []
    for name in subject.characteristics:
        if subject.schema[name].kind == "continuous":
            why = "a continuous label has no other class"
            edits.append(Edit(name, None, None, why, why))
            continue
        do = Do(name, mode, source)
        no_do = why_not(do, subject)
        if not no_do and not bool((subject.targets(name) >= 0).any()):
            no_do = "no image's class is known"
        no_swap = "" if bool((donor_rows(subject, name) >= 0).any()) else "no image of another class"
        edits.append(Edit(name, None if no_do else do, None if no_swap else Swap(name), no_do, no_swap))
    return edits
