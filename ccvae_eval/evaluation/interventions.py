"""The interventions that metrics ask for: each says which codes to decode for a chunk of images.

They are values (frozen, hashable): two metrics that ask for equal ones share one decoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ccvae_eval.core.errors import UndefinedError
from ccvae_eval.core.types import Codes
from ccvae_eval.evaluation.subject import Chunk, Subject
from ccvae_eval.model.checks import asked
from ccvae_eval.model.fixed_batches import padded
from ccvae_eval.model.interface import Intervenes
from ccvae_eval.model.latents import LatentPath, class_path, gaussian_path, replaced, swapped, transported

CodeSource = Literal["codes", "prior"]
LEAST_PER_CLASS = 20
LEAST_SEPARATION = 0.1


def unseen(subject: Subject, rows: slice | None = None) -> Chunk:
    """Some images, or all, as a chunk whose pixels nobody looks at."""
    rows = slice(0, len(subject)) if rows is None else rows
    return Chunk(rows, subject.ids[rows], torch.empty(0), subject.posterior.rows(rows), subject.codes[rows])


class Intervention(Protocol):
    """One code for each image of a chunk."""

    @property
    def characteristic(self) -> str:
        """What is intervened on; "" where it is nothing, or no single characteristic."""
        ...

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        """The codes to decode, shape (n, D); rows it does not apply to hold the image's own code."""
        ...


def path_between(
    subject: Subject, characteristic: str, start: int, end: int, source: CodeSource = "codes"
) -> LatentPath:
    """The path from one class to another in the columns of a characteristic; found once for a subject.

    Raises:
        UndefinedError: a class has fewer than 20 images, or the class means lie less than .1 pooled deviations apart.
    """
    key = ("path", characteristic, start, end, source)
    return subject.cached(key, lambda: _path_between(subject, characteristic, start, end, source))


def _path_between(subject: Subject, characteristic: str, start: int, end: int, source: CodeSource) -> LatentPath:
    columns = list(subject.layout[characteristic])
    label = subject.schema[characteristic]
    if source == "prior":
        prior = subject.prior_of(characteristic)
        path = gaussian_path((prior.loc[start], prior.loc[end]), (prior.scale[start], prior.scale[end]))
    else:
        classes = subject.classes(characteristic)
        ends = [subject.codes[classes == k][:, columns] for k in (start, end)]
        for k, codes in zip((start, end), ends, strict=True):
            if len(codes) < LEAST_PER_CLASS:
                raise UndefinedError(
                    f"only {len(codes)} images of class {label.class_name(k)}, {LEAST_PER_CLASS} are needed",
                    where=characteristic,
                )
        path = class_path(ends[0], ends[1])
    if path.separated < LEAST_SEPARATION:
        raise UndefinedError("classes not separated", where=characteristic)
    return path


@dataclass(frozen=True, slots=True)
class Traverse:
    """A point on the path (docs/metrics.md, section 2), all other columns as they are.

    Binary: from absent to present. Categorical: from the image's class to the one drawn for it.

    Args:
        characteristic: whose columns.
        position: from 0 (start) to 1 (end).
        source: where the path's ends come from.
        column: only the i-th column of the block, the others staying at the image's own; None = the whole block.
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
        if label.kind == "continuous":
            raise UndefinedError("a continuous label has no classes to go between", where=label.name)
        own = chunk.codes[:, list(subject.layout[self.characteristic])].double()
        if label.kind == "binary":
            path = path_between(subject, self.characteristic, 0, 1, self.source)
            return path.at(self.position).expand(len(chunk), -1)
        now, then = subject.current_class(label.name)[chunk.rows], subject.target_class(label.name)[chunk.rows]
        points = own.clone()
        for start, end in {(int(a), int(b)) for a, b in zip(now, then, strict=True) if a >= 0}:
            rows = (now == start) & (then == end)
            points[rows] = path_between(subject, self.characteristic, start, end, self.source).at(self.position)
        return points


def donor_rows(subject: Subject, characteristic: str) -> Tensor:
    """For each image the row of a seeded random image of the class drawn for it, shape (N,); -1 where there is none."""
    return subject.cached(("donors", characteristic), lambda: _donor_rows(subject, characteristic))


def _donor_rows(subject: Subject, characteristic: str) -> Tensor:
    now, then = subject.current_class(characteristic), subject.target_class(characteristic)
    draw = torch.from_numpy(subject.uniforms(f"donor/{characteristic}", subject.ids)[:, 0])
    donors = torch.full((len(subject),), -1)
    for target in range(subject.schema[characteristic].cardinality):
        rows = torch.nonzero(now == target)[:, 0]
        if len(rows):
            donors = torch.where(then == target, rows[(draw * len(rows)).long()], donors)
    return donors


@dataclass(frozen=True, slots=True)
class Interpolate:
    """A point on the line from the image's code to the code of an image of another class, in all columns.

    Args:
        characteristic: whose class the two images differ in.
        position: from 0 (the image's own code) to 1 (the other's).
    """

    characteristic: str
    position: float

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        donors = donor_rows(subject, self.characteristic)[chunk.rows]
        other = torch.where((donors >= 0)[:, None], subject.codes[donors.clamp_min(0)], chunk.codes)
        return chunk.codes + self.position * (other - chunk.codes)


Mode = Literal["transport", "mean", "sample"]


@dataclass(frozen=True, slots=True)
class Do:
    """do(c = v) (docs/metrics.md, section 0), all other columns as they are.

    A model that intervenes in a way of its own (``Intervenes``) does so, whatever ``mode`` and ``source``.

    Args:
        characteristic: c.
        mode: "transport" keeps the rank within the class, "mean" takes the class mean, "sample" a draw.
        source: classes as fitted to the codes of other images, or as p(z_c|y) has them.
        value: v, the index of a class; None = one unlike now.
    """

    characteristic: str
    mode: Mode = "transport"
    source: CodeSource = "codes"
    value: int | None = None

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        return self.applied(subject, chunk)[0]

    def applied(self, subject: Subject, chunk: Chunk) -> tuple[Codes, Tensor]:
        """The codes, and which images' ranks were clipped, shape (n,).

        The chunk's codes are the subject's own; :meth:`between` takes any.
        """
        name = self.characteristic
        if subject.schema[name].kind == "continuous":
            raise UndefinedError("a continuous label has no other class", where=name)
        if isinstance(subject.model, Intervenes):
            then = self._then(subject)[chunk.rows]
            moved = by_model(subject, chunk, {name: then})
            return torch.where((then >= 0)[:, None], moved, chunk.codes), torch.zeros(len(chunk), dtype=torch.bool)
        # all images at once: chunk by chunk these few small operations would cost a fiftieth of the decoding
        values, clipped = subject.cached(("do", self), lambda: self._whole(subject))
        return replaced(chunk.codes, subject.layout[name], values[chunk.rows]), clipped[chunk.rows]

    def _then(self, subject: Subject) -> Tensor:
        """The class that each image gets, shape (N,); -1 = none."""
        if self.value is None:
            return subject.target_class(self.characteristic)
        return torch.full((len(subject),), self.value)

    def _whole(self, subject: Subject) -> tuple[Codes, Tensor]:
        """The characteristic's columns after the intervention, of all images, and which of their ranks were clipped."""
        name = self.characteristic
        own_class, now = subject.classes(name), subject.current_class(name)
        codes, clipped = self.between(subject, unseen(subject), now, self._then(subject), own_class)
        return codes[:, list(subject.layout[name])], clipped

    def between(
        self, subject: Subject, chunk: Chunk, now: Tensor, then: Tensor, own_class: Tensor | None = None
    ) -> tuple[Codes, Tensor]:
        """The codes moved from one class to another, and which images' ranks were clipped.

        Args:
            subject, chunk: whose codes.
            now, then: classes, shape (n,); where ``then`` is -1 nothing is moved, nor where a rank is asked for and
                ``now`` is -1, or where both are one class.
            own_class: the class to whose Gaussian each code contributed, and from which it is taken out; -1 = none.
        """
        name, columns = self.characteristic, subject.layout[self.characteristic]
        own = chunk.codes[:, list(columns)]
        known = (then >= 0) & ((now >= 0) & (now != then) if self.mode == "transport" else then >= 0)
        before, after = self._classes(subject, own, now.clamp_min(0), then.clamp_min(0), own_class)
        clipped = torch.zeros(len(chunk), dtype=torch.bool)
        if self.mode == "transport":
            moved, clipped = transported(own, before, after)
        elif self.mode == "mean":
            moved = after[0].to(own.dtype)
        else:
            moved = (after[0] + after[1] * subject.noise(f"do/{name}", chunk.ids, len(columns))).to(own.dtype)
        values = torch.where(known[:, None], moved, own)
        return replaced(chunk.codes, columns, values), clipped & known

    def _classes(
        self, subject: Subject, own: Tensor, here: Tensor, there: Tensor, own_class: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(mean, deviation) of the class that each code leaves and of the one it goes to."""
        name = self.characteristic
        if self.source == "prior" or self.mode == "sample":
            prior = subject.prior_of(name)
            loc, scale = prior.loc.double(), prior.scale.double()
            return (loc[here], scale[here]), (loc[there], scale[there])
        fitted = subject.class_codes(name)
        if bool((fitted.count < LEAST_PER_CLASS).any()):
            raise UndefinedError(f"a class has fewer than {LEAST_PER_CLASS} images", where=name)
        before = fitted.loc[here], fitted.scale[here]
        if own_class is not None:
            without = fitted.without(own, here)
            labelled = (own_class >= 0)[:, None]
            before = torch.where(labelled, without[0], before[0]), torch.where(labelled, without[1], before[1])
        return before, (fitted.loc[there], fitted.scale[there])


def by_model(subject: Subject, chunk: Chunk, targets: Mapping[str, Tensor]) -> Codes:
    """The codes after an intervention that the model makes itself, at the noise of the images' own codes.

    Args:
        subject, chunk: whose codes.
        targets: the class of each image, shape (n,), -1 = left alone, for each label.
    """
    assert isinstance(subject.model, Intervenes)
    found = chunk.codes.clone()
    if not len(chunk):
        return found
    noise = padded(subject.noise("posterior", chunk.ids, subject.layout.dim)).to(subject.device)
    rows = torch.stack(list(targets.values()), 1)
    for combination in torch.unique(rows, dim=0):
        assignment = {name: float(v) for name, v in zip(targets, combination, strict=True) if v >= 0}
        if assignment:
            with asked(subject.model, "intervene(images, codes, assignment, noise)"):
                moved = subject.model.intervene(
                    padded(chunk.images), padded(chunk.codes).to(subject.device), assignment, noise
                )
            here = (rows == combination).all(1)
            found[here] = moved[: len(chunk)].cpu()[here]
    return found


@dataclass(frozen=True, slots=True)
class Assign:
    """do() of several labels at once, the same for every image.

    Args:
        assignment: (characteristic, class index) of each.
        mode, source: as in :class:`Do`.
    """

    assignment: tuple[tuple[str, int], ...]
    mode: Mode = "transport"
    source: CodeSource = "codes"

    @property
    def characteristic(self) -> str:
        return ""

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        if isinstance(subject.model, Intervenes):
            targets = {name: torch.full((len(chunk),), value) for name, value in self.assignment}
            return by_model(subject, chunk, targets)
        found = chunk.codes
        for name, value in self.assignment:
            moved = Do(name, self.mode, self.source, value).codes(subject, chunk)
            columns = subject.layout[name]
            found = replaced(found, columns, moved[:, list(columns)])
        return found


@dataclass(frozen=True, slots=True)
class Swap:
    """The columns of c from a seeded random image of another class; see :func:`donor_rows`."""

    characteristic: str

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        donors = donor_rows(subject, self.characteristic)[chunk.rows]
        given = torch.where((donors >= 0)[:, None], subject.codes[donors.clamp_min(0)], chunk.codes)
        return swapped(chunk.codes, subject.layout[self.characteristic], given)


def why_not(intervention: Intervention, subject: Subject) -> str:
    """Why an intervention does not exist for a subject; "" if it does. No image is decoded."""
    try:
        intervention.codes(subject, unseen(subject, slice(0, 0)))
    except UndefinedError as error:
        return error.what
    return ""


@dataclass(frozen=True, slots=True)
class Redraw:
    """The columns of c drawn anew from q(z_c|x): what the posterior's own noise does to the image.

    Args:
        characteristic: c.
        draw: which draw; draws of different numbers are independent.
        every: all columns of z instead.
    """

    characteristic: str
    draw: int = 0
    every: bool = False

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        columns = range(subject.layout.dim) if self.every else subject.layout[self.characteristic]
        who = "" if self.every else self.characteristic
        noise = subject.noise(f"redraw/{who}/{self.draw}", chunk.ids, len(columns))
        return replaced(chunk.codes, tuple(columns), chunk.posterior.columns(list(columns)).at(noise))


@dataclass(frozen=True, slots=True)
class PriorDraw:
    """The columns of c drawn from p(z_c | y_c = v), all other columns as they are (docs/metrics.md, section 4).

    Args:
        characteristic: c.
        draw: which draw.
        value: "present" (binary: v = 1; categorical: the class drawn for the image), or "now".
    """

    characteristic: str
    draw: int
    value: Literal["present", "now"] = "present"

    def classes(self, subject: Subject, chunk: Chunk) -> Tensor:
        """The class v of each image, shape (n,); -1 where it is unknown."""
        name = self.characteristic
        if self.value == "now":
            return subject.current_class(name)[chunk.rows]
        if subject.schema[name].kind == "binary":
            return torch.ones(len(chunk), dtype=torch.long)
        return subject.target_class(name)[chunk.rows]

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        name = self.characteristic
        if subject.schema[name].kind == "continuous":
            raise UndefinedError("a continuous label has no class to draw from", where=name)
        columns = subject.layout[name]
        prior, classes = subject.prior_of(name), self.classes(subject, chunk)
        noise = subject.noise(f"prior/{name}/{self.draw}", chunk.ids, len(columns))
        values = prior.rows(classes.clamp_min(0)).at(noise)
        own = chunk.codes[:, list(columns)]
        return replaced(chunk.codes, columns, torch.where((classes >= 0)[:, None], values, own))


@dataclass(frozen=True, slots=True)
class PosteriorMean:
    """No intervention: the mean of q(z|x) in place of its sample."""

    characteristic: str = ""

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        del subject
        return chunk.posterior.loc
