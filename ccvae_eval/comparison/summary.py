"""A comparison in words, for the terminal and the page: verdicts, formatted numbers, and how to read the tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ccvae_eval.comparison.compare import LEVEL, ComparedValue, Comparison
from ccvae_eval.statistics.paired import Difference

MOST_PAIRS = 3
"""Pairs of models up to which each pair is described by itself."""
BOLD = f"bold: better than every other model at an adjusted p below {LEVEL}"
"""The bold numbers of a table of models."""


def short(number: float, sign: str = "") -> str:
    """A number with three significant digits, a difference (with its sign) with two; a dash if undefined.

    >>> short(0.01234), short(0.01234, "+"), short(math.nan)
    ('0.0123', '+0.012', '–')
    """
    digits = 2 if sign else 3
    return "–" if math.isnan(number) else "0" if number == 0 else f"{number:{sign}.{digits}g}"


def interval(difference: Difference) -> str:
    """The confidence interval of a difference; "" without one."""
    low, high = difference.low, difference.high
    return "" if math.isnan(low) else f"[{short(low, '+')}, {short(high, '+')}]"


def p_value(p: float) -> str:
    """A p-value with three decimals; "" if undefined.

    >>> p_value(0.0123), p_value(0.0001), p_value(math.nan)
    ('0.012', '<.001', '')
    """
    return "" if math.isnan(p) else "<.001" if p < 0.001 else f"{p:.3f}"


def verdicts(found: Comparison) -> list[str]:
    """The result in a few sentences: one for each pair of up to three models, else one for each model.

    They count the means over characteristics, or the single characteristics if no mean was compared.
    """
    values = found.means or found.singles
    pairs: dict[tuple[str, str], list[ComparedValue]] = {}
    for value in values:
        pairs.setdefault(value.models, []).append(value)
    if len(pairs) <= MOST_PAIRS:
        sentences = {models: _verdict(models, own, found.unit) for models, own in pairs.items()}
        return [f"{listed(models)}: {s}" if len(pairs) > 1 else s for models, s in sentences.items()]
    addresses = list(dict.fromkeys(value.address for value in values))
    best = {m: [str(address) for address in addresses if found.best(address) == m] for m in found.models}
    named = [f"{m} is better than every other model in {listed(own)}." for m, own in best.items() if own]
    return named or [f"No model is better than every other model in any of {_count(len(addresses))}."]


def _verdict(models: tuple[str, str], values: Sequence[ComparedValue], unit: str) -> str:
    first, second = models
    total, compared = _count(len(values)), [v for v in values if v.compared]
    left_out = len(values) - len(compared)
    parts = []
    if not compared:
        return f"{first} and {second} were not compared in any of {total}."
    for m in models:
        better = [str(v.address) for v in compared if v.better == m]
        higher = [str(v.address) for v in compared if v.higher == m and v.better is None]
        parts += [f"{m} is better in {listed(better)}."] if better else []
        parts += [f"{m} is higher in {listed(higher)}, which has no direction."] if higher else []
    same = sum(v.higher is None for v in compared)
    if not parts:
        which = f"any of {_count(same)}" if same > 1 else "1 value"
        equal = f"; they are equal on all {unit}" if all(v.equal for v in compared) else ""
        parts.append(f"No evidence of a difference between {first} and {second} in {which}{equal}.")
    elif same:
        parts.append(f"No evidence of a difference between {first} and {second} in {same} of {total}.")
    return " ".join(
        [*parts, *([f"{_count(left_out)} {'is' if left_out == 1 else 'are'} not compared."] if left_out else [])]
    )


def _count(number: int) -> str:
    return f"{number} value{'s' * (number != 1)}"


def listed(names: Sequence[str]) -> str:
    """Names as a list in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def families(found: Comparison) -> str:
    """The number of tests in each family, within which p-values are adjusted."""
    kinds = ((found.means, "means"), (found.singles, "single characteristics"))
    return " and among ".join(f"{v[0].family} test{'s' * (v[0].family != 1)} of {what}" for v, what in kinds if v)


def adjustment(found: Comparison) -> str:
    """How p-values are adjusted, and that confidence intervals are not."""
    return f"p-values are adjusted (Holm) among {families(found)}; confidence intervals are not adjusted"


def notes(found: Comparison) -> list[str]:
    """How to read the tables of a comparison."""
    counts = sorted({v.difference.n for v in found.values if v.difference.n})
    n = "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1]))) if counts else "0"
    rows = dict.fromkeys(f"{v.address}: {v.note}" for v in found.means if v.note and not v.verdict.endswith(v.note))
    return [
        f"unit: {found.unit} ({n}); the verdicts hold for {found.unit} like these",
        adjustment(found),
        "smallest detectable: the smallest difference that these tests find with a power of 80%",
        *rows,
        *found.notes,
    ]
