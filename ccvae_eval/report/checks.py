"""Checks of a run: coded findings about the data, the model and the judge that a reader of its numbers should know.

Each check is a pure function of a :class:`Run`, registered in ``CHECKS`` under a code that never changes; its docstring
is its paragraph in docs/checks.md.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from ccvae_eval.core.errors import listed
from ccvae_eval.core.types import Ids
from ccvae_eval.evaluation.interventions import LEAST_PER_CLASS
from ccvae_eval.evaluation.result_table import ASSIGNED, GIVEN, NO_JUDGE, UNASSIGNED
from ccvae_eval.evaluation.run import Run
from ccvae_eval.metrics.disentanglement.table import cramers_v
from ccvae_eval.rendering.tables import headline_of, reason_of
from ccvae_eval.rendering.text import figure, unmarked

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Worst first."""

MOST_CLIPPED = 0.1
"""Share of clipped ranks above which the Gaussian of a class does not describe its codes."""
CORRELATED = 0.3
"""Cramér's V of two labels above which leakage of one into the other may come from the data."""
COLLAPSED = 0.05
"""KL divergence in nats below which a latent dimension carries no information about the image."""
LEAST_TEXTURED = 1.0
"""Textured points outside the region in the mean image, below which nothing there can be seen to move."""
LEAST_CHANGED = 0.5
"""Share of images whose change must exceed the noise of the posterior."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Args:
        code: CE and three digits; never reused.
        severity: "error" (the numbers are not reliable), "warning" (some numbers need care) or "note".
        title: the finding as a heading.
        remedy: the recommended action.
        find: a function that yields the findings in a run, one sentence each.
    """

    code: str
    severity: Severity
    title: str
    remedy: str
    find: Callable[[Run], Iterator[str]]

    @property
    def explanation(self) -> str:
        """The paragraph of docs/checks.md, as plain text in one line."""
        return unmarked(" ".join(inspect.cleandoc(self.find.__doc__ or "").split()))


@dataclass(frozen=True, slots=True)
class Finding:
    """Finding of a check in a run: the check, and a sentence with the run's own names and numbers."""

    check: Check
    sentence: str

    def as_plain(self) -> dict[str, str]:
        """The finding as plain data, for JSON."""
        check = self.check
        return {
            "code": check.code,
            "severity": check.severity,
            "title": check.title,
            "sentence": self.sentence,
            "remedy": check.remedy,
        }


CHECKS: dict[str, Check] = {}


def findings(run: Run) -> list[Finding]:
    """All findings in a run, worst first, then by code."""
    found = [Finding(check, sentence) for check in CHECKS.values() for sentence in check.find(run)]
    return sorted(found, key=lambda f: (SEVERITIES.index(f.check.severity), f.check.code))


Find = Callable[[Run], Iterator[str]]


def _check(code: str, severity: Severity, title: str, remedy: str) -> Callable[[Find], Find]:
    """Registers a function that yields sentences as a check."""

    def register(find: Find) -> Find:
        CHECKS[code] = Check(code, severity, title, remedy, find)
        return find

    return register


@_check("CE001", "error", "Images seen in training", "Evaluate the test split: --split test, without --limit.")
def _seen_in_training(run: Run) -> Iterator[str]:
    """The checkpoint was trained on the evaluated images, so every value is optimistic.

    The model may have memorised these images. The check compares the digest of the data with the digest in the
    checkpoint's training record. A checkpoint without such a record cannot be checked.
    """
    if run.header.data.get("seen_in_training"):
        yield f"The images of split {run.header.data.get('split')} were used in training."


@_check("CE002", "warning", "Labels that the judge does not recognise",
        "A label that the judge recognises on real images is blurred by the model: train the model longer. Other "
        "labels need a judge that is trained on more images (train judge).")  # fmt: skip
def _not_recognised(run: Run) -> Iterator[str]:
    """The judge's balanced accuracy for a label is below 0.8 on this model's reconstructions.

    Values that need the judge's prediction of this label are undefined. The cause is a blurry decoder or a weak judge.
    The judge's accuracy on real images distinguishes the two; the notes of the metric state it as well.
    """
    notes = dict.fromkeys(note for m in run for note in m.notes if note.endswith(", not judged"))
    found = [next((note for note in notes if note.startswith(f"{name}: ")), "") for name in _labels(run)]
    real = (run.header.judge or {}).get("balanced_accuracy")
    known = real if isinstance(real, dict) else {}
    parts = [
        note.removesuffix(", not judged")
        + (f" ({known[name]:.2f} on real images)" if isinstance(known.get(name), float) else "")
        for name, note in zip(_labels(run), found, strict=True)
        if note
    ]
    if parts:
        yield f"{listed(parts)}."


@_check("CE003", "warning", "Clipped ranks",
        "Evaluate more images. For intervention, --option intervention.mode=mean needs no ranks.")  # fmt: skip
def _clipped(run: Run) -> Iterator[str]:
    """An intervention keeps the rank of a code within its class, clipped to the range 0.005 to 0.995.

    If more than 10% of the ranks are clipped, the codes do not follow the Gaussian that was fitted to their class.
    Clipped codes move to the quantile 0.005 or 0.995 of the new class instead of keeping their own rank.
    """
    shares: dict[str, float] = {}
    for note in (note for m in run for note in m.notes):
        for name in _labels(run):
            of_drift = re.search(rf"(?:: |, ){re.escape(name)} (\d+\.\d)%", note)
            of_intervention = re.match(rf"{re.escape(name)}: (\d+)% of the codes lie outside", note)
            if note.startswith("ranks clipped") and of_drift:
                shares[name] = max(shares.get(name, 0.0), float(of_drift[1]) / 100)
            elif of_intervention:
                shares[name] = max(shares.get(name, 0.0), float(of_intervention[1]) / 100)
    many = [f"{name} {share:.0%}" for name, share in shares.items() if share > MOST_CLIPPED]
    if many:
        yield f"More than {MOST_CLIPPED:.0%} of the ranks were clipped: {listed(many)}."


@_check("CE004", "warning", "Correlated labels",
        "Read density.cross_auc, which compares images of one class, not the value at stratum=none.")  # fmt: skip
def _correlated(run: Run) -> Iterator[str]:
    """Two labels are associated in these images (Cramér's V above 0.3).

    Their latent dimensions may then predict each other without any fault of the model, and a classifier may use one
    label to recognise the other. Values within the classes of a label (density.cross_auc) are not affected.
    """
    found = {
        (str(v.characteristic), str(v.at["with"])): v.estimate.value
        for m in run
        for v in m.values
        if v.name == "factor_correlation" and v.estimate.value > CORRELATED
    }
    for (i, first), (j, second) in combinations(_classes(run).items(), 2):
        association = cramers_v(first, second) if len(first) == len(second) else math.nan
        if association > CORRELATED and (j, i) not in found:
            found[i, j] = association
    pairs = sorted(found.items(), key=lambda item: -item[1])
    if pairs:
        yield f"Labels are correlated: {listed([f'{i} and {j} ({figure(v, 2)})' for (i, j), v in pairs])}."


@_check("CE005", "warning", "Classes with few images",
        "Evaluate more images (--sample all: the whole split; --limit N: the first N images of all splits), or merge "
        "rare classes (--rename).")  # fmt: skip
def _few_images(run: Run) -> Iterator[str]:
    """A class has fewer than 20 evaluated images.

    Paths and interventions that need the distribution of this class are undefined. The other values of its label have
    wide confidence intervals.
    """
    rare = []
    for name, classes in _classes(run).items():
        names = class_names(run, name)
        counts = np.bincount(classes[classes >= 0], minlength=len(names))
        rare += [
            f"{name}={names[k] if k < len(names) else k} ({count})"
            for k, count in enumerate(counts)
            if count < LEAST_PER_CLASS
        ]
    if rare:
        yield f"Classes with fewer than {LEAST_PER_CLASS} images: {listed(rare)}."


@_check("CE006", "warning", "Inactive latent dimensions",
        "Lower the weight of the KL term or warm it up, then train again.")  # fmt: skip
def _collapsed(run: Run) -> Iterator[str]:
    """The posterior of some latent dimensions equals their prior (posterior collapse), so they carry no information.

    A label is listed if its KL divergence in ``reconstruction`` is below 0.05 nats. An intervention on a collapsed
    dimension changes nothing, or changes something unrelated to the image.
    """
    if collapsed := _below(run, "reconstruction", "kl", COLLAPSED):
        yield f"The posterior equals the prior (KL below {COLLAPSED} nats): {listed(collapsed)}."


@_check("CE007", "note", "Latent dimensions computed from the labels",
        "Compare such a model by its leakage and its edits, not by density or accuracy.")  # fmt: skip
def _given(run: Run) -> Iterator[str]:
    """The encoder is given the labels, so some latent dimensions contain them by construction.

    The accuracy with which these dimensions predict their own label says nothing about the model, and means leave them
    out. The leakage of the label into the *other* dimensions and the effect of an edit are as informative as for any
    other model.
    """
    given = _noted(run, GIVEN)
    if given:
        yield f"The encoder computes latent dimensions from these labels: {listed(given)}."


@_check("CE008", "warning", "Headline value undefined",
        "Read the reason; often the run needs a judge (--judge), regions (regions=) or more images.")  # fmt: skip
def _headline_undefined(run: Run) -> Iterator[str]:
    """The headline value of a metric is undefined for every label, so the metric gives no answer for this model.

    The finding states the reason. An undefined value is never counted as 0. A comparison of models leaves it out on
    both sides.
    """
    for m in run:
        headline = headline_of(m)
        if m.status == "undefined" or (m.status == "ok" and headline is not None and not headline.estimate.defined):
            why = m.reason.text if m.reason else reason_of(headline) if headline else ""
            remedy = m.reason.remedy if m.reason else headline.remedy if headline else ""
            add = f" Add {remedy}." if remedy.startswith("-") else f" Run {remedy}." if remedy else ""
            yield f"{m.metric}.{m.headline} has no value{f': {why}' if why else ''}.{add}"


@_check("CE009", "note", "Labels without latent dimensions of their own",
        "Name the label in the model's layout, or omit --labels.")  # fmt: skip
def _no_dimensions(run: Run) -> Iterator[str]:
    """Some labels of the data have no latent dimensions of their own in this run, so they cannot be edited.

    The model has none for them, no dimension predicts them above chance, or ``--labels`` excludes them. Means
    over labels do not include them.
    """
    measured = [m for m in run if m.metric in ("density", "locality") and any(v.characteristic for v in m.values)]
    if not measured:
        return
    own = {
        v.characteristic
        for m in measured
        for v in m.values
        if v.name == m.headline and v.characteristic and not v.note.startswith(UNASSIGNED)
        and UNASSIGNED not in v.note.split("; ")
    }  # fmt: skip
    lacking = [name for name in _labels(run) if name not in own]
    if lacking:
        yield f"No latent dimensions of their own: {listed(lacking)}."


@_check("CE010", "error", "Metric failed",
        "Read the reason, then run this metric alone with --debug; the other metrics are not affected.")  # fmt: skip
def _failed(run: Run) -> Iterator[str]:
    """A metric ended with an error, for instance because the decoder returned NaN or a plugin failed.

    Its values are missing, and the run ends with exit code 4. The other metrics of the run are not affected.
    """
    for m in run.failed:
        yield f"{m.metric} failed{f': {m.reason.text}' if m.reason else ''}."


@_check("CE011", "note", "Latent dimensions assigned by the evaluation",
        "Compare such values only with those of other models without characteristics.")  # fmt: skip
def _assigned(run: Run) -> Iterator[str]:
    """The model has no latent dimensions that belong to labels.

    The evaluation assigned one dimension to each label on one half of the images, by mutual information. All values are
    from the other half, and describe this single dimension only. A model trained without labels may spread a label over
    several dimensions, so a comparison with a model that has dimensions for its labels would be unfair.
    """
    assigned = _noted(run, ASSIGNED)
    if assigned:
        yield f"Latent dimensions were assigned to {listed(assigned)}."


@_check("CE012", "warning", "Edits that change nothing",
        "Look at the strips of these labels: the decoder may ignore their latent dimensions.")  # fmt: skip
def _unchanged(run: Run) -> Iterator[str]:
    """Fewer than half of the images change by more than the posterior's noise when a label's dimensions move.

    Locality and drift are then means over the few images that do change. The decoder may ignore these dimensions.
    """
    idle = [
        f"{v.characteristic} ({figure(v.estimate.value, 2)})"
        for m in run
        for v in m.values
        if m.metric == "locality" and v.name == "changed" and v.characteristic and not v.at
        and v.estimate.value < LEAST_CHANGED
    ]  # fmt: skip
    if idle:
        yield f"Fewer than {LEAST_CHANGED:.0%} of the images change by more than noise: {listed(idle)}."


@_check("CE013", "note", "Headline value undefined for some labels",
        "Do not compare the mean with that of a model for which other labels are defined.")  # fmt: skip
def _partly_undefined(run: Run) -> Iterator[str]:
    """The headline value of a metric is undefined for some labels, so its mean covers only the other labels.

    The most frequent reason is a label without a region in the image, such as age.
    """
    for m in run:
        rows = [v for v in m.values if v.name == m.headline and v.characteristic and not v.at]
        missing = [v for v in rows if not v.estimate.defined]
        if m.status == "ok" and missing and len(missing) < len(rows):
            by_reason: dict[str, list[str]] = {}
            for v in missing:
                by_reason.setdefault(v.note, []).append(str(v.characteristic))
            parts = [f"{listed(names)}{f' ({why})' if why else ''}" for why, names in by_reason.items()]
            yield f"{m.metric}.{m.headline} is undefined for {'; '.join(parts)}."


@_check("CE014", "note", "Metric not applicable", "No action needed: the metric does not apply to this model or data.")
def _not_applicable(run: Run) -> Iterator[str]:
    """The model or the data lack what a metric needs.

    Points, for instance, have no pixels to compare, and a model without a prior cannot be sampled.
    """
    for m in run:
        if m.status == "unsupported":
            yield f"{m.metric} does not apply{f': {m.reason.text}' if m.reason else ''}."


@_check("CE015", "note", "Values without a judge", "Evaluate with --judge auto, or give a judge file.")
def _no_judge(run: Run) -> Iterator[str]:
    """The run had no judge, so values that need an independent classifier of edited images are undefined."""
    without = sorted({f"{m.metric}.{v.name}" for m in run for v in m.values if NO_JUDGE in v.note})
    if without:
        yield f"Undefined without a judge: {listed(without)}."


UNLIKE = "CE016"


@_check(UNLIKE, "warning", "Reconstruction worse than the mean image",
        "Train longer. Of a model that another program trained, state the decoder's range: --set images.range=[-1,1] "
        "or --set images.logits=true, in Python wrap(image_range=..., logits=...).")  # fmt: skip
def _worse_than_mean(run: Run) -> Iterator[str]:
    """The model's reconstructions are farther from the images than the mean image of the data is.

    Such a model has learned little, or its pixels have another range than the evaluation assumes. No value of its
    edits describes a trained model.
    """
    for m in run:
        value = headline_of(m) if m.metric == "reconstruction" and m.headline == "mse" else None
        if value is not None and value.chance is not None and value.estimate.value > value.chance:
            error, mean = figure(value.estimate.value), figure(value.chance)
            yield f"The reconstruction MSE is {error}; the mean image of the data has {mean}."


@_check("CE017", "warning", "Nothing can move outside the region",
        "Look at the strips, and do not count a low drift.spill of these labels as a merit.")  # fmt: skip
def _untextured(run: Run) -> Iterator[str]:
    """The reconstructions have hardly any texture outside the region of a label, so ``drift`` finds no point there.

    The background of the data is constant, or the reconstructions are blurred. Nothing can move there, whatever the
    model does, so a spill near 0 is no evidence that the model leaves the rest of the image in place.
    """
    if empty := _below(run, "drift", "textured", LEAST_TEXTURED):
        yield f"A low drift.spill says little without texture outside the region: {listed(empty)}."


@_check("CE018", "note", "Latent dimensions without a label",
        "No action needed. More images find a weaker dependence.")  # fmt: skip
def _uninformative(run: Run) -> Iterator[str]:
    """For the disentanglement panel, some latent dimensions inform about no label more than about permuted ones.

    They may contain what no label describes, such as style, or depend on a label so weakly that more images are needed
    to find it. Whether they contain anything at all is seen in the KL divergence (``reconstruction``).
    """
    for m in run:
        for v in m.values:
            if v.name == "active_codes" and v.note.startswith("inactive: "):
                names = v.note.removeprefix("inactive: ")
                yield f"These latent dimensions tell nothing about the labels (n = {v.estimate.n:,}): {names}."


def _below(run: Run, metric: str, name: str, limit: float) -> list[str]:
    """The labels whose value of a metric is below a limit."""
    values = (v for m in run if m.metric == metric for v in m.values if v.name == name and not v.at)
    return [v.characteristic for v in values if v.characteristic and v.estimate.value < limit]


def _labels(run: Run) -> list[str]:
    """The names of the run's labels."""
    return [str(label["name"]) for label in run.header.data.get("labels", ())]


def class_names(run: Run, label: str) -> list[str]:
    """The names of a label's classes; those of a binary label are "absent" and "present"."""
    kinds = {str(plain["name"]): plain for plain in run.header.data.get("labels", ())}
    return list(map(str, kinds.get(label, {}).get("classes") or ("absent", "present")))


def _classes(run: Run) -> dict[str, Ids]:
    """The class of each image by its label, from the evidence, -1 = missing; from the largest sample there is."""
    found: dict[str, Ids] = {}
    categorical = {str(p["name"]) for p in run.header.data.get("labels", ()) if p.get("kind") != "continuous"}
    for m in run:
        for key, column in m.evidence.items():
            name = key.removeprefix("label/")
            if key.startswith("label/") and name in categorical and len(column) > len(found.get(name, ())):
                found[name] = np.nan_to_num(np.asarray(column, dtype=np.float64), nan=-1).astype(np.int64)
    return found


def _noted(run: Run, mark: str) -> list[str]:
    """The characteristics with this mark in the note of one of their values."""
    marked = (str(v.characteristic) for m in run for v in m.values if v.characteristic and mark in v.note.split("; "))
    return list(dict.fromkeys(marked))
