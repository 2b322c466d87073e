"""Interventions on the codes of images, as metrics request them.

Interventions are frozen and hashable: metrics that request equal interventions share one decoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ccvae_eval.core.errors import UndefinedError
from ccvae_eval.core.results import too_few_images
from ccvae_eval.core.types import Codes
from ccvae_eval.evaluation.metric import CodeSource, Mode
from ccvae_eval.evaluation.result_table import NO_LABEL, NOT_RELATED, NOT_SEPARATED, ONE_VALUE
from ccvae_eval.evaluation.subject import Subject, once_per_subject
from ccvae_eval.model.checks import model_call
from ccvae_eval.model.fixed_batches import Chunk, padded
from ccvae_eval.model.interface import Intervenes, supports
from ccvae_eval.model.latents import (
    LatentPath,
    class_path,
    gaussian_path,
    replaced,
    swapped,
    transported,
    value_path,
)

LEAST_PER_CLASS = 20
"""Images that each class needs for a path or a fitted Gaussian."""

CLIPPED_WARNING = 0.1
"""Share of ranks clipped by transport above which a metric adds a note."""

LEAST_SEPARATION = 0.1
"""Distance of two class means, in pooled standard deviations, that a path needs."""


def chunk_without_images(subject: Subject, rows: slice | None = None) -> Chunk:
    """Some images of the subject (None = all) as a chunk without pixels."""
    rows = slice(0, len(subject)) if rows is None else rows
    return Chunk(rows, subject.ids[rows], torch.empty(0), subject.posterior.rows(rows), subject.codes[rows])


class Intervention(Protocol):
    """Maps each image of a chunk to a code."""

    @property
    def characteristic(self) -> str:
        """The characteristic intervened on; "" for none or for several."""
        ...

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        """The codes to decode, shape (n, D); an image that the intervention does not apply to keeps its own code."""
        ...


def require_levels(subject: Subject, name: str) -> None:
    """Raises an ``UndefinedError`` unless a continuous label has two values, and a value for at least 20 images."""
    known = int((~subject.column(name).isnan()).sum())
    if not known:
        raise UndefinedError(NO_LABEL, where=name)
    if known < LEAST_PER_CLASS:
        raise UndefinedError(f"{known} images have the label, {LEAST_PER_CLASS} are needed", where=name)
    if subject.cardinality(name) < 2:
        raise UndefinedError(ONE_VALUE, where=name)


@once_per_subject
def path_between(
    subject: Subject, characteristic: str, start: int, end: int, source: CodeSource = "codes"
) -> LatentPath:
    """Path from one class to another in the latent dimensions of a characteristic; computed once for a subject.

    Args:
        subject: the subject.
        characteristic: a characteristic.
        start, end: indices of the two classes, or of two levels of a continuous label.
        source: "codes" fits the classes to the codes of the images, "prior" takes them from p(z_c|y).

    Raises:
        UndefinedError: a class has fewer than 20 images, or the class means are less than 0.1 pooled standard
            deviations apart.
    """
    if subject.schema[characteristic].kind == "continuous":
        return _path_between_levels(subject, characteristic, start, end, source)
    path = _path_between_classes(subject, characteristic, start, end, source)
    if path.separation < LEAST_SEPARATION:
        raise UndefinedError(NOT_SEPARATED, where=characteristic)
    return path


@once_per_subject
def _path_between_classes(subject: Subject, name: str, start: int, end: int, source: CodeSource) -> LatentPath:
    """:func:`path_between` of two classes, however close they are."""
    if source == "prior":
        prior = subject.prior_of(name)
        return gaussian_path((prior.loc[start], prior.loc[end]), (prior.scale[start], prior.scale[end]))
    classes, columns = subject.classes(name), list(subject.layout[name])
    ends = [subject.codes[classes == k][:, columns] for k in (start, end)]
    for k, codes in zip((start, end), ends, strict=True):
        if len(codes) < LEAST_PER_CLASS:
            why = too_few_images(len(codes), LEAST_PER_CLASS, subject.schema[name].class_name(k))
            raise UndefinedError(why, where=name)
    return class_path(ends[0], ends[1])


def class_pairs(now: Tensor, then: Tensor) -> list[tuple[int, int]]:
    """The pairs of start and end class that occur, in order; an image with the end class -1 has none."""
    return sorted({(a, b) for a, b in zip(now.tolist(), then.tolist(), strict=True) if b >= 0})


@once_per_subject
def close_classes(subject: Subject, name: str, source: CodeSource = "codes") -> list[tuple[int, int]]:
    """Pairs of start and target class of a categorical label that have no path: they are not separated.

    Raises:
        UndefinedError: a class has fewer than 20 images, or no pair has a path.
    """
    pairs = class_pairs(subject.current_class(name), subject.target_class(name))
    distances = [_path_between_classes(subject, name, a, b, source).separation for a, b in pairs]
    close = [pair for pair, distance in zip(pairs, distances, strict=True) if distance < LEAST_SEPARATION]
    if close and len(close) == len(pairs):
        raise UndefinedError(NOT_SEPARATED, where=name)
    return close


@once_per_subject
def class_at_end(subject: Subject, name: str, source: CodeSource = "codes") -> Tensor:
    """Class at the end of each image's path, shape (N,): its target class; -1 for an image without a path.

    Raises:
        UndefinedError: see :func:`close_classes`.
    """
    now, then = subject.current_class(name), subject.target_class(name)
    for start, end in close_classes(subject, name, source):
        then = torch.where((now == start) & (then == end), -1, then)
    return then


def _path_between_levels(subject: Subject, name: str, start: int, end: int, source: CodeSource) -> LatentPath:
    """:func:`path_between` of a continuous label, between the mean codes of two levels."""
    require_levels(subject, name)
    ends = subject.levels(name)[[start, end]]
    if source == "prior":
        prior = subject.prior_at(name, ends)
        loc, scale = prior.loc, prior.scale
    else:
        loc, scale = subject.code_regression(name).at(ends)
    column = subject.column(name).double()
    span = float((ends[1] - ends[0]).abs() / (2 * column[~column.isnan()].std()))
    path = value_path((loc[0], loc[1]), (scale[0], scale[1]), span)
    if path.separation < LEAST_SEPARATION:
        raise UndefinedError(NOT_RELATED, where=name)
    return path


@dataclass(frozen=True, slots=True)
class Traverse:
    """A point on the path of a characteristic (docs/metrics.md, section 2); the other latent dimensions stay unchanged.

    Binary: from absent to present. Categorical: from the image's class to its target class, if these two are
    separated. Continuous: from the lowest to the highest level (``Subject.levels``).

    Args:
        characteristic: the characteristic.
        position: from 0 (start) to 1 (end).
        source: source of the path's ends, see :func:`path_between`.
        column: moves only the i-th latent dimension of the characteristic; None = all of them.
    """

    characteristic: str
    position: float
    source: CodeSource = "codes"
    column: int | None = None

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        columns = subject.layout[self.characteristic]
        points = self._points(subject, chunk)
        if self.column is None:
            return replaced(chunk.codes, columns, points)
        return replaced(chunk.codes, columns[self.column : self.column + 1], points[:, self.column : self.column + 1])

    def _points(self, subject: Subject, chunk: Chunk) -> Tensor:
        label = subject.schema[self.characteristic]
        if label.kind != "categorical":
            path = path_between(subject, label.name, 0, subject.cardinality(label.name) - 1, self.source)
            return path.at(self.position).expand(len(chunk), -1)
        now = subject.current_class(label.name)[chunk.rows]
        then = class_at_end(subject, label.name, self.source)[chunk.rows]
        points = chunk.codes[:, list(subject.layout[self.characteristic])].double()
        for start, end in class_pairs(now, then):
            rows = (now == start) & (then == end)
            points[rows] = path_between(subject, self.characteristic, start, end, self.source).at(self.position)
        return points


@once_per_subject
def donor_rows(subject: Subject, characteristic: str) -> Tensor:
    """For each image the row of a random image of its target class, shape (N,); -1 without such an image."""
    now, then = subject.current_class(characteristic), subject.target_class(characteristic)
    draw = torch.from_numpy(subject.uniforms(f"donor/{characteristic}", subject.ids)[:, 0])
    donors = torch.full((len(subject),), -1)
    for target in range(subject.cardinality(characteristic)):
        rows = torch.nonzero(now == target)[:, 0]
        if len(rows):
            donors = torch.where(then == target, rows[(draw * len(rows)).long()], donors)
    return donors


def _donor_codes(subject: Subject, chunk: Chunk, characteristic: str) -> Codes:
    """The code of each image's donor; the image's own code without one."""
    donors = donor_rows(subject, characteristic)[chunk.rows]
    return torch.where((donors >= 0)[:, None], subject.codes[donors.clamp_min(0)], chunk.codes)


@dataclass(frozen=True, slots=True)
class Interpolate:
    """A point on the line from the image's code to that of its donor (:func:`donor_rows`), in all latent dimensions.

    Args:
        characteristic: the characteristic in whose class the two images differ.
        position: from 0 (the image's code) to 1 (the donor's).
    """

    characteristic: str
    position: float

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        return chunk.codes + self.position * (_donor_codes(subject, chunk, self.characteristic) - chunk.codes)


@dataclass(frozen=True, slots=True)
class Do:
    """Intervention do(c = v) (docs/metrics.md, section 0); the other latent dimensions stay unchanged.

    A model with its own interventions (``Intervenes``) applies those and ignores ``mode`` and ``source``. A continuous
    label has levels in place of classes, and its codes follow a regression on the label: transport keeps the rank in
    the distribution at the image's own value.

    Args:
        characteristic: c.
        mode: "transport" keeps the rank within the class, "mean" takes the class mean, "sample" draws from p(z_c|y).
        source: "codes" fits the classes to the codes of the other images, "prior" takes them from p(z_c|y).
        value: v, the index of a class or the value of a continuous label; None = each image's target class.
    """

    characteristic: str
    mode: Mode = "transport"
    source: CodeSource = "codes"
    value: float | None = None

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        return self.applied(subject, chunk)[0]

    def applied(self, subject: Subject, chunk: Chunk) -> tuple[Codes, Tensor]:
        """The codes of the intervention, and a mask of the images whose rank was clipped, shape (n,).

        The chunk must hold the subject's codes; :meth:`between` accepts any codes.
        """
        name = self.characteristic
        if subject.schema[name].kind == "continuous":
            require_levels(subject, name)
        if supports(subject.model, Intervenes):
            if self.value is None:
                values = subject.class_values(name, subject.target_class(name)[chunk.rows]).double()
            else:
                values = torch.full((len(chunk),), float(self.value), dtype=torch.float64)
            moved = model_intervention(subject, chunk, {name: values})
            return moved, torch.zeros(len(chunk), dtype=torch.bool)
        # all images at once, which is faster than chunk by chunk
        values, clipped = subject.cached(("do", self), lambda: self._all_images(subject))
        return replaced(chunk.codes, subject.layout[name], values[chunk.rows]), clipped[chunk.rows]

    def _target(self, subject: Subject) -> Tensor:
        """Class v of each image, shape (N,); -1 = unknown. Level 0 stands for any value of a continuous label."""
        if self.value is None:
            return subject.target_class(self.characteristic)
        continuous = subject.schema[self.characteristic].kind == "continuous"
        return torch.full((len(subject),), 0 if continuous else int(self.value))

    def _all_images(self, subject: Subject) -> tuple[Codes, Tensor]:
        """Latent dimensions of c after the intervention, for all images, and the mask of clipped ranks."""
        name = self.characteristic
        own_class, now = subject.classes(name), subject.current_class(name)
        codes, clipped = self.between(subject, chunk_without_images(subject), now, self._target(subject), own_class)
        return codes[:, list(subject.layout[name])], clipped

    def between(
        self, subject: Subject, chunk: Chunk, now: Tensor, then: Tensor, own_class: Tensor | None = None
    ) -> tuple[Codes, Tensor]:
        """The codes moved from one class to another, and a mask of the images whose rank was clipped, shape (n,).

        Args:
            subject, chunk: the subject and the codes.
            now, then: current and new class of each image, shape (n,). A code stays unchanged if ``then`` is -1, and
                in mode "transport" also if ``now`` is -1 or equal to ``then``.
            own_class: class whose fitted Gaussian contains the code, which is then left out of the fit; -1 = none.
        """
        name, columns = self.characteristic, subject.layout[self.characteristic]
        own = chunk.codes[:, list(columns)]
        to_value = self.value is not None and subject.schema[name].kind == "continuous"
        known = (then >= 0) & ((now >= 0) & ((now != then) | to_value) if self.mode == "transport" else then >= 0)
        distributions = self._levels if subject.schema[name].kind == "continuous" else self._classes
        before, after = distributions(subject, chunk, now.clamp_min(0), then.clamp_min(0), own_class)
        clipped = torch.zeros(len(chunk), dtype=torch.bool)
        if self.mode == "transport":
            moved, clipped = transported(own, before, after)
        elif self.mode == "mean":
            moved = after[0].to(own.dtype)
        else:
            moved = (after[0] + after[1] * subject.noise(f"do/{name}", chunk.ids, len(columns))).to(own.dtype)
        values = torch.where(known[:, None], moved, own)
        return replaced(chunk.codes, columns, values), clipped & known

    def _levels(
        self, subject: Subject, chunk: Chunk, here: Tensor, there: Tensor, own_class: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """:meth:`_classes` of a continuous label."""
        name = self.characteristic
        values = [subject.class_values(name, classes, chunk.rows) for classes in (here, there)]
        if self.value is not None:
            values[1] = torch.full_like(values[0], self.value)
        if self.source == "prior" or self.mode == "sample":
            (before, after) = (subject.prior_at(name, each) for each in values)
            return (before.loc.double(), before.scale.double()), (after.loc.double(), after.scale.double())
        fitted = subject.code_regression(name)
        now = fitted.at(values[0])
        if own_class is not None:
            without = fitted.leave_one_out(chunk.codes[:, list(subject.layout[name])], values[0])
            labelled = (own_class >= 0)[:, None]
            now = torch.where(labelled, without[0], now[0]), torch.where(labelled, without[1], now[1])
        return now, fitted.at(values[1])

    def _classes(
        self, subject: Subject, chunk: Chunk, here: Tensor, there: Tensor, own_class: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(mean, standard deviation) of each code's current class ``here`` and new class ``there``."""
        name = self.characteristic
        if self.source == "prior" or self.mode == "sample":
            prior = subject.prior_of(name)
            loc, scale = prior.loc.double(), prior.scale.double()
            return (loc[here], scale[here]), (loc[there], scale[there])
        fitted = subject.class_codes(name)
        if int(fitted.count.min()) < LEAST_PER_CLASS:
            rarest = subject.schema[name].class_name(int(fitted.count.argmin()))
            raise UndefinedError(too_few_images(int(fitted.count.min()), LEAST_PER_CLASS, rarest), where=name)
        before = fitted.loc[here], fitted.scale[here]
        if own_class is not None:
            without = fitted.leave_one_out(chunk.codes[:, list(subject.layout[name])], here)
            labelled = (own_class >= 0)[:, None]
            before = torch.where(labelled, without[0], before[0]), torch.where(labelled, without[1], before[1])
        return before, (fitted.loc[there], fitted.scale[there])


def model_intervention(subject: Subject, chunk: Chunk, targets: Mapping[str, Tensor]) -> Codes:
    """The codes after the model's own intervention (``Intervenes``), with the noise of the images' posterior samples.

    Args:
        subject, chunk: the subject and the images.
        targets: for each label its new class or value in each image, shape (n,), float64, NaN = unchanged.
    """
    assert supports(subject.model, Intervenes)
    found = chunk.codes.clone()
    if not len(chunk):
        return found
    size = subject.fixed_batch
    noise = padded(subject.noise("posterior", chunk.ids, subject.layout.dim), size).to(subject.device)
    rows = torch.stack(list(targets.values()), 1).nan_to_num(nan=-torch.inf)  # NaN is equal to nothing
    for combination in torch.unique(rows, dim=0):
        assignment = {name: float(v) for name, v in zip(targets, combination, strict=True) if v > -torch.inf}
        if assignment:
            with model_call(subject.model, "intervene(images, codes, assignment, noise)"):
                moved = subject.model.intervene(
                    padded(chunk.images, size), padded(chunk.codes, size).to(subject.device), assignment, noise
                )
            here = (rows == combination).all(1)
            found[here] = moved[: len(chunk)].cpu()[here]
    return found


@dataclass(frozen=True, slots=True)
class Assign:
    """Joint intervention do() on several labels, the same for every image.

    Args:
        assignment: pairs of (characteristic, class index or value of a continuous label).
        mode, source: as in :class:`Do`.
    """

    assignment: tuple[tuple[str, float], ...]
    mode: Mode = "transport"
    source: CodeSource = "codes"

    @property
    def characteristic(self) -> str:
        return ""

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        if supports(subject.model, Intervenes):
            targets = {n: torch.full((len(chunk),), float(v), dtype=torch.float64) for n, v in self.assignment}
            return model_intervention(subject, chunk, targets)
        found = chunk.codes
        for name, value in self.assignment:
            moved = Do(name, self.mode, self.source, value).codes(subject, chunk)
            columns = subject.layout[name]
            found = replaced(found, columns, moved[:, list(columns)])
        return found


@dataclass(frozen=True, slots=True)
class Together:
    """Joint intervention do() on several labels of each image, drawn at random, each set to another class.

    The labels of a smaller number are among those of a larger one.

    Args:
        count: number of labels that are set.
        names: labels to draw from.
        mode, source: as in :class:`Do`.
    """

    count: int
    names: tuple[str, ...]
    mode: Mode = "transport"
    source: CodeSource = "codes"

    @property
    def characteristic(self) -> str:
        return ""

    def targets(self, subject: Subject) -> dict[str, Tensor]:
        """Class that each label is set to in each image, shape (N,); -1 = the label stays.

        No label of an image is set if its class is unknown for one of those that were drawn.
        """
        ranks = subject.uniforms("together", subject.ids, len(self.names)).argsort(1).argsort(1)
        targets = torch.stack([subject.target_class(name) for name in self.names], 1)
        drawn = torch.from_numpy(ranks < self.count)
        known = ((targets >= 0) | ~drawn).all(1, keepdim=True)
        return dict(zip(self.names, torch.where(drawn & known, targets, -1).unbind(1), strict=True))

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        every = subject.cached(("together", self), lambda: self.targets(subject))
        targets = {name: found[chunk.rows] for name, found in every.items()}
        if supports(subject.model, Intervenes):
            values = {name: subject.class_values(name, target).double() for name, target in targets.items()}
            return model_intervention(subject, chunk, values)
        found = chunk.codes
        for name, target in targets.items():
            columns = subject.layout[name]
            moved = Do(name, self.mode, self.source).codes(subject, chunk)[:, list(columns)]
            found = replaced(found, columns, torch.where((target >= 0)[:, None], moved, chunk.codes[:, list(columns)]))
        return found


@dataclass(frozen=True, slots=True)
class Swap:
    """Replaces the latent dimensions of c by those of the image's donor (:func:`donor_rows`)."""

    characteristic: str

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        other = _donor_codes(subject, chunk, self.characteristic)
        return swapped(chunk.codes, subject.layout[self.characteristic], other)


def why_not(intervention: Intervention, subject: Subject) -> str:
    """Reason why an intervention is undefined for a subject, found without decoding; "" if it is defined."""
    try:
        intervention.codes(subject, chunk_without_images(subject, slice(0, 0)))
    except UndefinedError as error:
        return error.what
    return ""


@dataclass(frozen=True, slots=True)
class Redraw:
    """Resamples the latent dimensions of c from q(z_c|x), which shows the effect of the posterior's noise.

    Args:
        characteristic: c.
        draw: index of the draw; different draws are independent.
        every: resamples all of z instead.
    """

    characteristic: str
    draw: int = 0
    every: bool = False

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        columns = range(subject.layout.dim) if self.every else subject.layout[self.characteristic]
        name = "" if self.every else self.characteristic
        noise = subject.noise(f"redraw/{name}/{self.draw}", chunk.ids, len(columns))
        return replaced(chunk.codes, tuple(columns), chunk.posterior.columns(list(columns)).at(noise))


@dataclass(frozen=True, slots=True)
class PriorDraw:
    """Samples the latent dimensions of c from p(z_c | y_c = v); the others stay unchanged (docs/metrics.md, section 4).

    Args:
        characteristic: c.
        draw: index of the draw; different draws are independent.
        value: v: "present" (binary: 1; others: the image's target class or level) or "now" (the current one).
    """

    characteristic: str
    draw: int
    value: Literal["present", "now"] = "present"

    def classes(self, subject: Subject, chunk: Chunk) -> Tensor:
        """Class v of each image, shape (n,); -1 = unknown."""
        name = self.characteristic
        if self.value == "now":
            return subject.current_class(name)[chunk.rows]
        if subject.schema[name].kind == "binary":
            return torch.ones(len(chunk), dtype=torch.long)
        return subject.target_class(name)[chunk.rows]

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        name = self.characteristic
        columns = subject.layout[name]
        prior, classes = subject.prior_of(name), self.classes(subject, chunk)
        noise = subject.noise(f"prior/{name}/{self.draw}", chunk.ids, len(columns))
        values = prior.rows(classes.clamp_min(0)).at(noise)
        own = chunk.codes[:, list(columns)]
        return replaced(chunk.codes, columns, torch.where((classes >= 0)[:, None], values, own))


@dataclass(frozen=True, slots=True)
class PosteriorMean:
    """No intervention: the mean of q(z|x) instead of its sample."""

    characteristic: str = ""

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        del subject
        return chunk.posterior.loc
