"""One sentence for each metric, for a reader who meets it for the first time."""

from __future__ import annotations

from ccvae_eval.measure import Measurement, Value
from ccvae_eval.report.terminal import headline_of
from ccvae_eval.report.text import figure

_SAYS = {
    "density": "Knowing only a label's own latents, one tells the label with an AUC of {value} (chance {chance})",
    "locality": "When one characteristic is moved, {value} of the change beyond chance falls where that "
    "characteristic lives (0 = anywhere, 1 = only there)",
    "drift": "Outside its region the image moves {value} times as much as inside, when one characteristic is changed "
    "(0 = stays in place, 1 = the whole image moves alike)",
    "diversity": "Drawing one characteristic anew varies it by {value} in pixel value, counting the draws that "
    "still show it (0 = always the same)",
    "disentanglement": "Of all that a code knows, {value} beyond an even share belongs to one factor (chance {chance})",
    "accuracy": "From the image alone the model tells its labels with a balanced accuracy of {value} (chance {chance})",
    "generation": "Asked for a class, the model draws images in which the judge sees it in {value} of the cases "
    "(without asking: {chance})",
    "intervention": "When a label is set to another class, the judge sees that class in {value} of the images "
    "(in their reconstructions: {chance})",
    "reconstruction": "An image comes back from its code with a mean squared error of {value} "
    "(the mean image in its place: {chance})",
}


def sentence(measurement: Measurement) -> str:
    """What the headline says, with the best and the worst characteristic."""
    if measurement.status != "ok":
        return f"{measurement.metric}: {measurement.reason.text if measurement.reason else measurement.status}."
    mean = headline_of(measurement)
    if mean is None or not mean.estimate.defined:
        return f"{measurement.metric} is undefined here{': ' + mean.note if mean and mean.note else ''}."
    template = _SAYS.get(measurement.metric, f"{measurement.metric}: the mean {measurement.headline} is {{value}}")
    text = template.format(value=figure(mean.estimate.value, 2), chance=figure(mean.chance, 2))
    reference = "" if mean.reference is None else f"; a perfect model reaches {figure(mean.reference, 2)}"
    return f"{text}{reference}{_extremes(measurement)}."


def _extremes(measurement: Measurement) -> str:
    rows: list[Value] = [
        v
        for v in measurement.values
        if v.name == measurement.headline and v.characteristic and not v.at and v.estimate.defined
    ]
    if len(rows) < 2:
        return ""
    ordered = sorted(rows, key=lambda v: v.estimate.value)
    low, high = ordered[0], ordered[-1]
    return (
        f": from {figure(low.estimate.value, 2)} ({low.characteristic}) "
        f"to {figure(high.estimate.value, 2)} ({high.characteristic})"
    )
