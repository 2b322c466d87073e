"""Tables and texts for a paper, from runs: LaTeX (booktabs), Markdown, CSV, and the paragraph of an appendix."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ccvae_eval.core.results import Estimate, ValueSpec, spec_at
from ccvae_eval.core.typed import plain as as_plain
from ccvae_eval.core.types import Plain
from ccvae_eval.evaluation.run import Address, Run, ValueRow, averaged_at, numbers_at, stopping_of
from ccvae_eval.rendering.tables import ARROWS, whole
from ccvae_eval.rendering.text import figure, inert_cell, interval_text, markdown_text, plain
from ccvae_eval.statistics.paired import over_seeds

Best = Callable[[Address], str | None]
"""Name of the model that is significantly better than all others at an address; None if there is none."""

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "[": "{[}", "]": "{]}", "*": "{*}", "`": "{`}", "'": "{'}",
    "–": "--", "∞": r"$\infty$",
}  # fmt: skip
_LATEX_ARROWS = {"↑": r" $\uparrow$", "↓": r" $\downarrow$", "": ""}


def latex_text(text: str) -> str:
    r"""Text in one line that LaTeX prints literally; nothing in it is a command.

    >>> print(latex_text(r"\input{a_b}"))
    \textbackslash{}input\{a\_b\}
    """
    return "".join(_LATEX.get(c, c) for c in plain(text, keep_newlines=False))


@dataclass(frozen=True, slots=True)
class Entry:
    """One number of a table.

    Args:
        address: of the number.
        model: name of the model or group.
        estimate: with its interval over images, or over training seeds (then ``n`` counts seeds).
        best: True if the model is significantly better than every other one in the table; None = not compared.
    """

    address: Address
    model: str
    estimate: Estimate
    best: bool | None = None


@dataclass(frozen=True, slots=True)
class PaperTable:
    """A table of values.

    Args:
        corner: head of the first column.
        columns: head of every other column, and the arrow of its direction.
        rows: name of each row, and its entries.
        notes: sentences below the table.
    """

    corner: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]
    notes: tuple[str, ...] = ()


def paper_table(
    models: Mapping[str, Sequence[Run]],
    values: Sequence[str] | None = None,
    *,
    by_characteristic: bool = False,
    comparable: bool = True,
    best: Best | None = None,
    notes: Sequence[str] = (),
) -> PaperTable:
    """The table of some values of some models.

    Args:
        models: runs of each model or method, one for each training seed; with several the entry is their mean and
            Student's t interval over seeds.
        values: addresses ``metric.value[@characteristic]``; default: the headline of every metric of the first run.
        by_characteristic: one row for each characteristic and one for the mean (of a count, the total), instead of one
            row for each model.
        comparable: False if the runs differ in images or settings. Then each mean includes every characteristic of its
            own run; otherwise only those that are defined in every run.
        best: which model is significantly better than all others; None = the models were not compared.
        notes: further sentences below the table.

    Raises:
        UsageError: an address is malformed.
    """
    runs = [run for own in models.values() for run in own]
    addresses = _addresses(runs, values)
    cells = {
        (e.address, e.model): e for part in _parts(models, comparable) for a in addresses
        for e in _entries(part, runs, a, by_characteristic, best)
    }  # fmt: skip
    arrows = {a: ARROWS[_spec(runs, a).higher_is_better] for a in addresses}
    many = any(len(own) > 1 for own in models.values())
    unit = "mean and 95% interval over training seeds (Student's t)" if many else "95% confidence interval over images"
    below = (f"value, {unit}", *table_notes(models, values, comparable=comparable), *notes)
    if not by_characteristic:
        rows = tuple((model, tuple(cells[a, model] for a in addresses)) for model in models)
        return PaperTable("model", tuple((str(a), arrows[a]) for a in addresses), rows, below)
    names = dict.fromkeys(place.characteristic for place, _ in cells)
    columns = [(model, a) for a in addresses for model in models]
    heads = tuple((f"{model}: {a}" if len(models) > 1 else str(a), arrows[a]) for model, a in columns)
    absent, last = Estimate(math.nan), " or ".join(sorted({whole(_spec(runs, a)) for a in addresses}))
    body = tuple(
        (name or last, tuple(cells.get((place, model), Entry(place, model, absent)) for model, a in columns
                             for place in [replace(a, characteristic=name)]))
        for name in sorted(names, key=lambda name: name is None)
    )  # fmt: skip
    return PaperTable("characteristic", heads, body, below)


def table_notes(
    models: Mapping[str, Sequence[Run]], values: Sequence[str] | None = None, *, comparable: bool = True
) -> list[str]:
    """The number of training seeds of each model, and the means that leave out characteristics.

    The arguments are those of :func:`paper_table`.
    """
    notes = []
    if any(len(own) > 1 for own in models.values()):
        counts = (f"{name} {len(own) if len(own) > 1 else '1 (interval over images)'}" for name, own in models.items())
        notes.append(f"training seeds: {', '.join(counts)}")
    runs = [run for own in models.values() for run in own]
    for part in _parts(models, comparable):
        of_part = "" if comparable else f"{', '.join(part)}, "
        for address in _addresses(runs, values):
            of_runs = [run for own in part.values() for run in own]
            averaged = averaged_at(of_runs, address)
            rows = [run.table(address.metric, address.name, address.by) for run in of_runs]
            names = dict.fromkeys(name for row in rows for name, v in row.items() if name is not None and v.in_mean)
            left_out = [name for name in names if not all(name in own for own in averaged)]
            if address.characteristic is not None or not left_out or not any(averaged):
                continue
            used = len(names) - len(left_out)
            what = f"mean over {used} of {len(names)} characteristics, without {', '.join(left_out)}"
            if not used:
                what = "no characteristic is defined in every run; each mean is over other characteristics"
            elif any(len(own) > used for own in averaged):
                what += " (undefined in some run); a run that defines them has no interval over images"
            notes.append(f"{of_part}{address}: {what}")
    return notes


def _addresses(runs: Sequence[Run], values: Sequence[str] | None) -> list[Address]:
    """The addresses of the values; by default the headline of every metric of the first run."""
    texts = [f"{m.metric}.{m.headline}" for m in runs[0]] if values is None else values
    return [replace(Address.parse(text), end="") for text in texts]


def _parts(models: Mapping[str, Sequence[Run]], comparable: bool) -> list[Mapping[str, Sequence[Run]]]:
    """The models whose means include the same characteristics."""
    return [models] if comparable else [{name: own} for name, own in models.items()]


def _entries(
    models: Mapping[str, Sequence[Run]],
    runs: Sequence[Run],
    address: Address,
    by_characteristic: bool,
    best: Best | None,
) -> list[Entry]:
    """The entries of one value: of every model, and with ``by_characteristic`` of every characteristic and the mean."""
    names = dict.fromkeys(
        c for run in runs for c in run.table(address.metric, address.name, address.by) if c is not None
    )
    places = [address]
    if by_characteristic and address.characteristic is None:
        places += [replace(address, characteristic=name) for name in names]
    found = []
    for place in places:
        numbers = iter(numbers_at([run for own in models.values() for run in own], place))
        winner = best(place) if best else None
        for model, own in models.items():
            estimate = _estimate(own, place, [next(numbers) for _ in own], _spec(runs, place))
            found.append(Entry(place, model, estimate, model == winner if best else None))
    return found


def _estimate(runs: Sequence[Run], place: Address, numbers: list[float], spec: ValueSpec) -> Estimate:
    """The estimate of one entry; a mean over fewer characteristics than the run's own has no interval."""
    if len(runs) > 1:
        return over_seeds(numbers, spec.range)
    own = runs[0].table(place.metric, place.name, place.by).get(place.characteristic)
    if own is not None and own.estimate.value == numbers[0]:
        return own.estimate
    return Estimate(numbers[0])


def _spec(runs: Sequence[Run], address: Address) -> ValueSpec:
    found = next((s for run in runs if (s := run.specs.get(address.metric, {}).get(address.name))), ValueSpec(""))
    return spec_at(found, address.at)


def _decimals(table: PaperTable, digits: int) -> list[int]:
    """Decimals of each column: ``digits``, or as many as give its largest value that many significant digits."""
    found = []
    for k in range(len(table.columns)):
        sizes = [abs(e.estimate.value) for _, row in table.rows for e in row[k : k + 1] if e.estimate.defined]
        largest = max(sizes, default=0.0)
        found.append(max(digits, digits - 1 - math.floor(math.log10(largest))) if 0 < largest < math.inf else digits)
    return found


def _cells(table: PaperTable, digits: int) -> list[list[tuple[str, str, bool]]]:
    """Value, interval ("" without one) and boldness of each entry, row by row."""
    places = _decimals(table, digits)
    return [
        [
            (figure(e.estimate.value, d), interval_text(e.estimate, d), bool(e.best))
            for e, d in zip(row, places, strict=True)
        ]
        for _, row in table.rows
    ]


def latex(table: PaperTable, digits: int = 2) -> str:
    """The table as a LaTeX ``tabular`` of the package booktabs, with its notes in a paragraph below."""
    titles = [_title(table, k) for k in range(len(table.columns))]
    heads = ["", *(latex_text(t) + _LATEX_ARROWS[arrow] for t, (_, arrow) in zip(titles, table.columns, strict=True))]
    lines = [
        "% \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        "\\toprule",
        f"{' & '.join(heads)} \\\\",
        "\\midrule",
    ]
    for (name, _), row in zip(table.rows, _cells(table, digits), strict=True):
        cells = [latex_text(name)]
        for value, interval, best in row:
            shown = latex_text(value).replace("-", "$-$") if value != "–" else "--"
            small = latex_text(interval).replace("-", "$-$")
            cells.append((f"\\textbf{{{shown}}}" if best else shown) + (f" {{\\scriptsize {small}}}" if small else ""))
        lines.append(f"{' & '.join(cells)} \\\\")
    notes = [f"{latex_text(note)}." for note in table.notes]
    lines += ["\\bottomrule", "\\end{tabular}", "\\par\\smallskip", "{\\footnotesize", *notes, "\\par}"]
    return "\n".join(lines) + "\n"


def _title(table: PaperTable, column: int) -> str:
    """Head of a column in words, such as "accuracy: balanced accuracy, Smiling"."""
    entry = table.rows[0][1][column]
    address = entry.address
    title = f"{address.metric}: {address.name.replace('_', ' ')}"
    if table.corner == "model":
        return title if address.characteristic is None else f"{title}, {address.characteristic}"
    several = len({e.model for e in table.rows[0][1]}) > 1
    return f"{entry.model}, {title}" if several else title


def markdown(table: PaperTable, digits: int = 2) -> str:
    """The table in Markdown."""
    heads = [table.corner, *(f"{markdown_text(name)} {arrow}".strip() for name, arrow in table.columns)]
    rows = [heads, ["---", *["---:"] * len(table.columns)]]
    for (name, _), row in zip(table.rows, _cells(table, digits), strict=True):
        cells = [
            f"{'**' * best}{value}{'**' * best} {markdown_text(interval)}".strip() for value, interval, best in row
        ]
        rows.append([markdown_text(name), *cells])
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([*lines, "", *(f"* {markdown_text(note)}" for note in table.notes)]) + "\n"


def as_csv(table: PaperTable) -> str:
    """All numbers of the table as CSV, one row each; text that a spreadsheet would evaluate is quoted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "address", "value", "low", "high", "n", "interval", "best"])
    for _, row in table.rows:
        for entry in row:
            e = entry.estimate
            numbers: list[Any] = ["" if math.isnan(x) else x for x in (e.value, e.low, e.high)]
            names = [inert_cell(plain(name)) for name in (entry.model, str(entry.address))]
            writer.writerow([*names, *numbers, e.n, e.method, "" if entry.best is None else int(entry.best)])
    return text.getvalue()


def flat(run: Run) -> dict[str, float]:
    """The defined values of a run by name, for loggers: ``{"locality/focus@Smiling": 0.51, "locality/focus": 0.47}``.

    Args:
        run: the run.

    Returns:
        ``metric/value`` for means, ``metric/value@characteristic`` for single characteristics. Further coordinates
        follow in brackets: ``locality/selectivity@Smiling[judged=Male]``.
    """
    found = {}
    for m in run:
        for v in m.values:
            if v.estimate.defined:
                owner = "" if v.characteristic is None else f"@{v.characteristic}"
                at = ",".join(f"{key}={value}" for key, value in sorted(v.at.items()))
                found[f"{m.metric}/{v.name}{owner}{at and f'[{at}]'}"] = v.estimate.value
    return found


def methods(
    models: Mapping[str, Sequence[Run]], *, compared: str = "", family: str = "", notes: Sequence[str] = ()
) -> str:
    """A paragraph on how the numbers were measured, for the appendix of a paper.

    Args:
        models: runs of each model or method, by its name. Models that were evaluated differently are described
            one by one.
        compared: "images" or "training seeds" if the models were compared, else "".
        family: number of tests among which p-values are adjusted, such as "4 tests of means".
        notes: further sentences.
    """
    described: dict[str, list[str]] = {}
    for name, own in models.items():
        for run in own:
            described.setdefault(_evaluation(run), []).append(name)
    sentences = []
    for text, names in described.items():
        which = f" ({', '.join(dict.fromkeys(names))})" if len(described) > 1 else ""
        sentences.append(f"Models{which} were {text}")
    sentences.append(
        "Confidence intervals are at the 95% level; the image is the unit of resampling (2,000 bootstrap resamples, "
        "shared by all values, unless the value has an interval in closed form)."
    )
    adjusted = f"p-values are adjusted by Holm's method{family and f' among {family}'}."
    if compared == "images":
        sentences.append(
            "Models were compared on the same images, means by sign-flip permutation tests and other values by the "
            f"studentised paired bootstrap (20,000 draws each); {adjusted}"
        )
    elif compared:
        sentences.append(f"Methods were compared over training seeds by Welch's t-test; {adjusted}")
    if notes:
        sentences.append(f"Notes: {'; '.join(notes)}.")
    return plain(" ".join(sentences), keep_newlines=False) + "\n"


def _evaluation(run: Run) -> str:
    """What was evaluated, and how."""
    h = run.header
    data = h.data
    metrics = ", ".join(f"{m.metric} (version {m.version})" for m in run)
    sentences = [
        f"evaluated with ccvae-eval {h.tool.get('version', '')} on {data.get('n')} images of the {data.get('split')} "
        f"split of {data.get('name')} (digest {str(data.get('digest'))[:8]}, seed {h.seed}).",
        f"Metrics: {metrics}. Settings: {_settings(run)}.",
    ]
    if stopping := stopping_of(data):
        sentences.append(stopping.methods)
    if h.judge:
        origin = f"trained on {h.judge.get('trained_on')}, digest {str(h.judge.get('sha256'))[:8]}"
        sentences.append(f"An independent attribute classifier ({origin}) judged edited images.")
    if source := h.regions.get("source"):
        sentences.append(f"The region of each attribute comes from: {source}.")
    return " ".join(sentences)


def _settings(run: Run) -> str:
    """The settings of every metric that are not empty."""
    parts = []
    for m in run:
        given = (f"{key} {value}" for key, value in m.settings.items() if value not in ("", [], ()))
        parts.append(f"{m.metric}: {', '.join(given)}")
    return "; ".join(parts)


def model_index(run: Run) -> dict[str, Plain]:
    """The ``model-index`` block of a model card on Hugging Face, with the means of every metric."""
    h = run.header
    name = str(h.checkpoint.get("model") or "model")
    metrics = []
    for m in run:
        for v in m.values:
            if v.characteristic is None and not v.at and v.estimate.defined:
                found = as_plain(ValueRow.of(v, run.specs.get(m.metric, {})))
                interval = None if found["low"] is None else [found["low"], found["high"]]
                metrics.append(
                    {
                        "type": f"{m.metric}.{v.name}",
                        "name": f"{m.metric} {v.name} (version {m.version})",
                        "value": found["value"],
                        "args": {"confidence_interval": interval, "chance": found["chance"], "n": found["n"]},
                    }
                )
    data = {"type": str(h.data.get("name")), "name": str(h.data.get("name")), "split": h.data.get("split")}
    task = {"type": "other", "name": "disentanglement"}
    return {"model-index": [{"name": name, "results": [{"task": task, "dataset": data, "metrics": metrics}]}]}
