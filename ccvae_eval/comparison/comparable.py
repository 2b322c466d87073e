"""What makes runs comparable: the same images, judge, regions, versions and settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Plain
from ccvae_eval.evaluation.run import WHOLE_DATA, Run

IMAGE = "images"
"""What differs if the images of two runs have different shapes."""
_OF_MODEL = re.compile(r" --(?:plugin|model|set)[ =](?:'[^']*'|\S+)")
"""An option that says how a checkpoint is opened."""


def name_of(run: Run) -> str:
    """Path of a run's checkpoint, or the name of its data if it has none."""
    return str(run.header.checkpoint.get("path") or run.header.data.get("name") or "model")


def require_comparable(first: Run, second: Run, one: str = "A", other: str = "B") -> None:
    """Refuses runs whose numbers cannot be compared.

    Args:
        first, second: the runs.
        one, other: their labels in the message.

    Raises:
        UsageError: naming everything that differs, and the command that makes the runs agree.
    """
    a, b = first.header, second.header
    differing: list[tuple[str, Plain, Plain]] = [
        *_differing_data(a.data, b.data),
        ("seed", a.seed, b.seed),
        ("judge", (a.judge or {}).get("sha256"), (b.judge or {}).get("sha256")),
        ("regions", a.regions.get("source"), b.regions.get("source")),
    ]
    versions: list[tuple[str, Plain, Plain]] = []
    others = {m.metric: m for m in second}
    for m in first:
        if (match := others.get(m.metric)) is None:
            continue
        versions.append((f"version of {m.metric}", m.version, match.version))
        keys = {**m.settings, **match.settings}
        differing += [(f"{m.metric}.{key}", m.settings.get(key), match.settings.get(key)) for key in keys]
    reasons = [f"{what}: {_shown(x)} and {_shown(y)}" for what, x, y in [*differing, *versions] if x != y]
    if not reasons:
        return
    command = _command_like(first, second)
    if any(what == IMAGE for what, _, _ in differing):
        hint = "Compare models whose images have one size; ccvae-eval table shows others side by side."
    elif any(x != y for _, x, y in versions):
        hint = f"Evaluate both with the same version of ccvae-eval: {first.header.command} and {command}"
    else:
        hint = f"Evaluate {other} as {one}: {command}"
        if a.judge and b.judge and any(what == "judge" and x != y for what, x, y in differing):
            hint += ". Models with different labels share a judge with --judge full"
    raise UsageError(f"runs {one} and {other} are not comparable", why="; ".join(reasons), hint=hint)


def _differing_data(one: Mapping[str, Plain], other: Mapping[str, Plain]) -> list[tuple[str, Plain, Plain]]:
    """What must agree about the images of two runs, and how each has it."""
    images = [data.get("image") for data in (one, other)]  # earlier versions did not record it
    if None not in images and images[0] != images[1]:
        first, second = (f"{data.get('name')}, {_size(data['image'])}" for data in (one, other))
        return [(IMAGE, first, second)]
    same = one.get("digest") == other.get("digest")
    key = "digest" if one.get("name") == other.get("name") else "name"
    differing = [] if same else [("data" if key == "name" else "digest of the data", one.get(key), other.get(key))]
    return differing + [(key, one.get(key), other.get(key)) for key in ("split", "sample")]


def _shown(value: Plain) -> str:
    """A value in a message; of a digest its first eight digits."""
    digest = isinstance(value, str) and re.fullmatch("[0-9a-f]{32,}", value)
    return repr(value[:8] if digest else value)


def _size(shape: Plain) -> str:
    """The shape of an image in words."""
    channels, *sides = shape if isinstance(shape, list) else [shape]
    return f"{' x '.join(map(str, reversed(sides)))} pixels, {channels} channels" if sides else f"{channels} numbers"


def require_seeds(group: str, runs: Sequence[tuple[str, Run]]) -> None:
    """Refuses a group with two runs of one checkpoint, which are one training seed.

    Args:
        group: its name.
        runs: the place of each run, and the run.

    Raises:
        UsageError: naming the two runs.
    """
    seen: dict[Plain, str] = {}
    for place, run in runs:
        digest = run.header.checkpoint.get("sha256")
        if digest and digest in seen:
            why = f"{seen[digest]} and {place} are runs of one checkpoint"
            hint = "Give one run for each training seed."
            raise UsageError(f"group {group!r} has a checkpoint twice", why=why, hint=hint)
        seen[digest] = place


def _command_like(first: Run, second: Run) -> str:
    """The command of the first run with the checkpoint of the second, into a folder of its own."""
    one, other = (str(run.header.checkpoint.get("path") or "") for run in (first, second))
    command = re.sub(r" (-o|--out)[ =]\S+", "", first.header.command)
    own = [found.strip() for found in _OF_MODEL.findall(second.header.command)]
    command = " ".join([_OF_MODEL.sub("", command), *own])
    if re.match("ccvae-eval (?!compare)", command) and one and one in command:
        return command.replace(one, other or "CHECKPOINT")
    data = first.header.data
    options = {option: data.get(option) for option in ("split", "sample", "by")}
    if data.get("split") == WHOLE_DATA:  # no split, but the first images of the data set
        options = {"limit": data["n"], "by": data.get("by")}
    named = {"data": data.get("name"), **options}
    given = [f"--{option} {value}" for option, value in named.items() if value is not None]
    metrics = [f"-m {m.metric}" for m in first]
    if not first.header.judge:
        given.append("--judge none")
    return " ".join(["ccvae-eval run", other or "CHECKPOINT", *given, f"--seed {first.header.seed}", *metrics, *own])
