"""Remedies of undefined values: the reason in words, and the options or the command that give a number."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from shlex import quote, split

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.results import BY, EVERY_UNDEFINED, TOO_FEW_IMAGES, Measurement, Reason, Value
from ccvae_eval.data.images.regions import FACE_BOX_OF
from ccvae_eval.data.interface import HasRegions
from ccvae_eval.data.memory import SPEC as IN_PYTHON
from ccvae_eval.evaluation.interventions import LEAST_PER_CLASS
from ccvae_eval.evaluation.judge_scores import UNCORRELATED, UNRECOGNISED
from ccvae_eval.evaluation.result_table import (
    ASSIGNED,
    NO_JUDGE,
    NO_LABEL,
    NOT_PREDICTED,
    NOT_RELATED,
    NOT_SEPARATED,
    REGIONLESS,
    UNCHANGED,
    UNCHANGED_INSIDE,
    UNMOVED,
)
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.judge import MIN_AGREEMENT
from ccvae_eval.model.interface import supports

NO_REGIONS = "this data set has no regions"
NO_MASKS = f"{NO_REGIONS}, and no option adds any; locality.selectivity and intervention need none"
GLOBAL_LABEL = "has no region: it changes the whole image"
SAMPLE_GROWTH = 1.1
"""Factor between the sample sizes that are tried."""

TRAINING = "ccvae-eval train"
"""Beginning of a remedy that trains a model."""
UNTRAINED = frozenset({NOT_SEPARATED, NOT_RELATED, UNCHANGED, UNCHANGED_INSIDE, UNMOVED, NOT_PREDICTED})
"""Reasons that a longer training may remove."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Values that have no number, or will have none.

    Args:
        metrics: the metrics.
        labels: the labels; empty for a metric as a whole.
        reason: why.
        remedy: options to add to the command, or another command.
    """

    metrics: tuple[str, ...]
    labels: tuple[str, ...]
    reason: str
    remedy: str

    def __str__(self) -> str:
        owners = f" – {', '.join(self.labels)}" if self.labels else ""
        return f"{', '.join(self.metrics)}{owners}: {self.reason}{f' -> {self.remedy}' if self.remedy else ''}"


@dataclass(frozen=True, slots=True)
class Advisor:
    """Finds reasons and remedies for one evaluation.

    Args:
        labels: the labels of the images that are evaluated in a sample of a given size (None = all images), with the
            options of the evaluation, shape (N, L): all of them, or with True those of the half that is left if latent
            dimensions are assigned. It is called many times.
        option: the option that gives the size: "--sample" or "--limit".
        retrain: command that trains the model for longer; "" if it is not known.
    """

    labels: Callable[[int | None, bool], NDArray[np.float32]]
    option: str = "--sample"
    retrain: str = ""

    def foreseen(self, metric: str, subject: Subject, *, regions: bool, moved: frozenset[str]) -> list[Problem]:
        """The labels for which a metric will have no number, as far as the data show it before anything is computed.

        Args:
            metric: name of the metric.
            subject: its images.
            regions: True if it uses regions.
            moved: the characteristics on which it intervenes.
        """
        found = []
        for name in subject.movable:
            if subject.schema[name].kind == "continuous":
                continue
            counts = _class_counts(subject, name)
            if regions and name not in moved and min(counts) < LEAST_PER_CLASS:
                why = self._rare(subject, metric, name, counts, LEAST_PER_CLASS)
                found.append((name, self._with_regions(why, subject, metric, name)))
            elif regions and not has_region(subject, name):
                found.append((name, self._regionless(subject, metric, name)))
        return [Problem((metric,), (name,), *why) for name, why in found]

    def explained(self, measurement: Measurement, subject: Subject, *, regions: bool = False) -> Measurement:
        """The measurement with reasons in words and a remedy at each undefined value.

        Args:
            measurement: of a metric.
            subject: its images.
            regions: True if its headline value needs regions: a label without one is named so beside a class with too
                few images.
        """
        values = [
            self._explained(measurement.metric, value, subject, regions=regions and value.name == measurement.headline)
            for value in measurement.values
        ]
        for place, value in enumerate(values):
            if value.characteristic is None and not value.estimate.defined and value.note.startswith(EVERY_UNDEFINED):
                own = [v for v in values if v.name == value.name and v.characteristic and not v.estimate.defined]
                alike = joined([Problem((value.name,), (str(v.characteristic),), v.note, v.remedy) for v in own])
                reasons = "; ".join(dict.fromkeys(problem.reason for problem in alike))
                remedy = combined(v.remedy for v in own)
                values[place] = replace(value, note=f"{EVERY_UNDEFINED}: {reasons}" if reasons else value.note,
                                        remedy=remedy)  # fmt: skip
        reason = measurement.reason
        if reason is not None and measurement.status != "ok":
            own = [v for v in values if not v.estimate.defined and v.name == measurement.headline]
            text = "; ".join(dict.fromkeys(v.note for v in own if v.characteristic)) or reason.text
            metric = "disentanglement" if subject.assigned and text == subject.no_prior else measurement.metric
            remedy = combined(v.remedy for v in own) or f"ccvae-eval explain {metric}"
            reason = Reason(reason.code, text, remedy)
        return replace(measurement, values=tuple(values), reason=reason)

    def _explained(self, metric: str, value: Value, subject: Subject, *, regions: bool) -> Value:
        if value.estimate.defined:
            return value
        note, name, reasons = value.note, value.characteristic or "", set(value.note.split("; "))
        remedy = f"ccvae-eval explain {metric}"
        if REGIONLESS in reasons:
            why, remedy = self._regionless(subject, metric, name)
            note = note.replace(REGIONLESS, why)
        elif (rare := TOO_FEW_IMAGES.search(note)) or note.startswith("only one class occurs"):
            rare_label = str(subject.by if BY in value.at else value.at.get("judged", name))
            least = int(rare["least"]) if rare else LEAST_PER_CLASS
            counts = _class_counts(subject, rare_label) if rare_label in subject.schema else [least]
            if min(counts) < least:
                why, remedy = self._rare(subject, metric, rare_label, counts, least)
                note = TOO_FEW_IMAGES.sub(lambda _: why, note)
                if regions:
                    note, remedy = self._with_regions((note, remedy), subject, metric, name)
        elif found := UNRECOGNISED.search(note):
            where, accuracy, action = "in the reconstructions", found["accuracy"], "train longer"
            remedy = self.retrain or "ccvae-eval explain judge"
            record = getattr(subject.judge, "record", None)  # of a judge that was trained
            real = {} if record is None else record.balanced_accuracy
            judged = str(value.at.get("judged", name))
            if real.get(judged, 1.0) < MIN_AGREEMENT:  # no training of the model can help
                where, accuracy, action = "on real images either", f"{real[judged]:.2f}", "more images to train it on"
                remedy = "ccvae-eval explain judge"
            why = f"(balanced accuracy {accuracy}, needs {MIN_AGREEMENT:.2f}): {action} or --judge FILE"
            note = note.replace(found[0], f"the judge cannot recognise this label {where} {why}")
        elif UNCORRELATED in note:
            remedy = self.retrain or "ccvae-eval explain judge"
        elif note == NO_JUDGE:
            remedy = "--judge auto" if subject.judge_source.declined else "ccvae-eval explain judge"
        elif note == NO_LABEL:
            remedy = self._others(subject, metric, lambda other: bool((subject.classes(other) >= 0).any()))
        elif reasons & UNTRAINED:
            remedy = self.retrain or ("ccvae-eval explain disentanglement" if NOT_PREDICTED in reasons else remedy)
        elif "judge" in note:
            remedy = "ccvae-eval explain judge"
        return replace(value, note=note, remedy=remedy)

    def _with_regions(self, rare: tuple[str, str], subject: Subject, metric: str, name: str) -> tuple[str, str]:
        """Reason and remedy of a label of which a class is rare, with those of its missing region, if it has none."""
        if has_region(subject, name):
            return rare
        (note, larger), (why, regions) = rare, self._regionless(subject, metric, name)
        if why == NO_MASKS or regions.startswith("--labels"):  # more images would not help
            return why, regions
        return f"{note}; {why}", combined([larger, regions]) if regions.startswith("--data") else regions

    def _regionless(self, subject: Subject, metric: str, name: str) -> tuple[str, str]:
        """Reason and remedy of a label without a region."""
        data = subject.data
        if supports(data, HasRegions):
            return GLOBAL_LABEL, self._others(subject, metric, lambda other: has_region(subject, other))
        spec = data.spec
        if spec == IN_PYTHON:
            given = "data={'images': ..., 'labels': ..., 'regions': {LABEL: masks}}"
            return f"{NO_REGIONS}; give masks of shape (N, H, W) in {given}", f"ccvae-eval explain {metric}"
        if not spec.startswith("folder:"):
            return NO_MASKS, "ccvae-eval explain selectivity"
        if not any(label in FACE_BOX_OF for label in data.schema.names):
            return f"{NO_REGIONS}; write {spec},regions=FOLDER for masks LABEL/NAME.png", "ccvae-eval explain folder"
        if name not in FACE_BOX_OF and (own := [label for label in subject.movable if label in FACE_BOX_OF]):
            return f"{NO_REGIONS}, and neither regions=celeba nor celebahq has one of this label", labels_option(own)
        frame = "celebahq" if "hq" in spec.lower() else "celeba"
        why = (
            f"{NO_REGIONS}; regions=celeba fits CelebA's aligned images, regions=celebahq CelebA-HQ: "
            "see the outlines in figures/locality-change-maps.png"
        )
        return why, f"--data {quote(f'{spec},regions={frame}')}"

    def _rare(self, subject: Subject, metric: str, name: str, counts: Sequence[int], least: int) -> tuple[str, str]:
        class_name = subject.schema[name].class_name(int(np.argmin(counts)))
        why = f"{min(counts)} of {len(subject):,} images are of class {class_name}, {least} needed"
        if size := self._needed_sample(subject, name, least):
            return why, f"{self.option} {size}"
        kept = [n for n, found in self._counts(subject, None).items()
                if n != name and min(found) >= least and (subject.assigned or n in subject.movable)]  # fmt: skip
        data, in_python = subject.data, subject.data.spec == IN_PYTHON
        if in_python and self.option == "--sample":  # without a split, a limit takes the images of all splits
            column = data.labels_of(np.arange(len(data)))[:, data.schema.index(name)]
            if min(_class_counts(subject, name, column)) >= least:
                return why, f"--limit {len(data)}"
        if kept:
            return why, labels_option(kept)
        # no command can open arrays
        return why, f"ccvae-eval explain {metric}" if in_python else f"ccvae-eval inspect {quote(data.spec)}"

    def _others(self, subject: Subject, metric: str, keep: Callable[[str], bool]) -> str:
        """The option that selects the characteristics for which the value is defined."""
        kept = [name for name in subject.movable if keep(name)]
        return labels_option(kept) if kept else f"ccvae-eval explain {metric}"

    def _counts(self, subject: Subject, size: int | None, name: str = "") -> dict[str, list[int]]:
        """Images of each class of the evaluated labels, and of ``name``, in a sample of a given size."""
        columns = self.labels(size, subject.assigned).T
        return {
            label.name: _class_counts(subject, label.name, column)
            for label, column in zip(subject.schema, columns, strict=True)
            if label.kind != "continuous" and (subject.selected is None or label.name in (name, *subject.selected))
        }

    def _needed_sample(self, subject: Subject, name: str, least: int) -> str:
        """The smallest sample of those tried that has enough images of every class of a label.

        It has enough for every other label too, as far as the data do, so that the sample need be enlarged only once.
        "" if all images have too few of the label itself.
        """
        every, total = self._counts(subject, None, name), len(self.labels(None, False))
        enough = max(least, LEAST_PER_CLASS)
        wanted = {n: enough for n, found in every.items() if min(found) >= enough}
        if name not in wanted and min(every[name]) >= least:
            wanted[name] = least
        if name not in wanted:
            return ""
        size = max(math.ceil(total * needed / min(every[n])) for n, needed in wanted.items())
        size = max(size, len(subject) * (2 if subject.assigned else 1) + 1)
        while size < total:
            found = self._counts(subject, size, name)
            if all(min(found[n]) >= needed for n, needed in wanted.items()):
                return str(size)
            size = math.ceil(size * SAMPLE_GROWTH)
        return "all" if self.option == "--sample" else str(total)


def labels_option(names: Iterable[str]) -> str:
    """The option that selects labels."""
    return f"--labels {quote(','.join(names))}"


def has_region(subject: Subject, name: str) -> bool:
    """True if the data have a region of a label."""
    data = subject.data
    return supports(data, HasRegions) and name in data.schema and data.region(subject.ids[:1], name) is not None


def _class_counts(subject: Subject, name: str, labels: NDArray[np.float32] | None = None) -> list[int]:
    """Images of each class of a label, of the subject's or of other labels, shape (N,)."""
    classes = subject.classes(name).numpy() if labels is None else np.nan_to_num(labels, nan=-1).astype(np.int64)
    counts = np.bincount(classes[classes >= 0], minlength=subject.schema[name].cardinality)
    return [int(count) for count in counts]


def combined(remedies: Iterable[str]) -> str:
    """The options of several remedies together, else the first command.

    Of two sample sizes the larger one counts, of two lists of labels the labels in both.

    >>> combined(["--sample 640", "ccvae-eval explain judge", "--sample 80 --labels A,B", "--labels B,C"])
    '--sample 640 --labels B'
    """
    found = [remedy for remedy in remedies if remedy]
    options: dict[str, str] = {}
    for name, value in (option for remedy in found for option in _options(remedy)):
        options[name] = _joined(name, options[name], value) if name in options else value
    given = {name: value for name, value in options.items() if value}
    if given:
        return " ".join(f"{name} {quote(value)}" for name, value in given.items())
    return next((remedy for remedy in found if not remedy.startswith("--")), "")


def _options(remedy: str) -> list[tuple[str, str]]:
    """The options and values of a remedy; none of a command."""
    parts = split(remedy) if remedy.startswith("--") else []
    return list(zip(parts[::2], parts[1::2], strict=True))


def _joined(name: str, one: str, other: str) -> str:
    """One value of an option in place of two; "" if there is none."""
    if name == "--labels":
        return ",".join(label for label in one.split(",") if label in other.split(","))
    sizes = [value for value in (one, other) if value.isdigit()]
    return "all" if "all" in (one, other) else max(sizes, key=int) if len(sizes) > 1 else one


def combined_commands(measurements: Sequence[Measurement], command: Callable[[str], str]) -> list[str]:
    """The commands that apply all remedies: one with all options, then trainings; without both, the first other one.

    A label is left out only if it has no headline value and no other remedy.

    Args:
        measurements: with remedies.
        command: returns a command with these options.
    """
    found = [problem for problem in problems(measurements) if problem.remedy]
    rows = [v for m in measurements for v in m.values if v.name == m.headline and v.characteristic and not v.at]
    names = dict.fromkeys(str(v.characteristic) for v in rows)
    others = {p.remedy: [option for option in _options(p.remedy) if option[0] != "--labels"] for p in found}
    hopeless = {name for p in found if _options(p.remedy) and not others[p.remedy] for name in p.labels}
    hopeless -= {str(v.characteristic) for v in rows if v.estimate.defined}
    hopeless -= {name for p in found if others[p.remedy] or p.remedy.startswith(TRAINING) for name in p.labels}
    options = combined(f"{name} {quote(value)}" for own in others.values() for name, value in own)
    kept = [name for name in names if name not in hopeless]
    if hopeless and kept:
        options = f"{options} {labels_option(kept)}".strip()
    commands = list(dict.fromkeys(p.remedy for p in found if not p.remedy.startswith("--")))
    trainings = [remedy for remedy in commands if remedy.startswith(TRAINING)]
    return [command(options)] * bool(options) + trainings or commands[:1]


def problems(measurements: Iterable[Measurement]) -> list[Problem]:
    """The metrics and labels without a headline value, with reason and remedy; equal ones are joined."""
    found = []
    for m in measurements:
        rows = [v for v in m.values if v.name == m.headline and v.characteristic and not v.at]
        undefined = [v for v in rows if not v.estimate.defined]
        if m.status == "failed" or (m.status != "ok" and not undefined):
            reason = m.reason or Reason(m.status, m.status)
            found.append(Problem((m.metric,), (), reason.text, reason.remedy))
        # the header says where latent dimensions were assigned
        reasons = [v.note.removeprefix(f"{ASSIGNED}; ") for v in undefined]
        found += [Problem((m.metric,), (str(v.characteristic),), why, v.remedy)
                  for v, why in zip(undefined, reasons, strict=True)]  # fmt: skip
        if not rows:
            alone = [v for v in m.values if v.name == m.headline and not v.at and not v.estimate.defined]
            found += [Problem((m.metric,), (), v.note, v.remedy) for v in alone if m.status == "ok"]
    return joined(found)


_ACCURACY = re.compile(r"balanced accuracy (\d\.\d+),")


def joined(found: Sequence[Problem]) -> list[Problem]:
    """The problems, with the labels and then the metrics of equal ones joined."""
    by_label: dict[tuple[object, ...], list[Problem]] = {}
    for p in found:
        by_label.setdefault((p.metrics, bool(p.labels), _ACCURACY.sub("", p.reason), p.remedy), []).append(p)
    lines = [
        Problem(group[0].metrics, tuple(name for p in group for name in p.labels), _reason_of(group), group[0].remedy)
        for group in by_label.values()
    ]
    by_metric: dict[tuple[object, ...], list[Problem]] = {}
    for p in lines:
        by_metric.setdefault((p.labels, p.reason, p.remedy), []).append(p)
    return [replace(g[0], metrics=tuple(name for p in g for name in p.metrics)) for g in by_metric.values()]


def _reason_of(group: Sequence[Problem]) -> str:
    """The reason of equal problems, with the range of the judge's accuracies."""
    accuracies = sorted(match[1] for p in group if (match := _ACCURACY.search(p.reason)))
    reason = group[0].reason
    if len(group) < 2 or len(accuracies) < 2:
        return reason
    reason = reason.replace("this label", "the labels")
    return _ACCURACY.sub(f"balanced accuracy {accuracies[0]} to {accuracies[-1]},", reason)
