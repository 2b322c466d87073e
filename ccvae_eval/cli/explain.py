"""``explain``: metrics and values from their specifications; data sets, models and other plugins from docstrings."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import Json, registered
from ccvae_eval.core.errors import UsageError, suggestion
from ccvae_eval.evaluation.metric import reasons_of
from ccvae_eval.plugins import registry
from ccvae_eval.rendering.tables import ARROWS, FittedTable
from ccvae_eval.rendering.text import argument_help, escaped, explanation, flowing, wrapped

if TYPE_CHECKING:
    from ccvae_eval.core.results import ValueSpec


REGIONS = """Regions show where a label may change an image. locality and drift compare inside and outside.

--data 'folder:PATH,regions=celeba'     boxes for the aligned images of CelebA (178 x 218 pixels, or their square)
--data 'folder:PATH,regions=celebahq'   boxes for CelebA-HQ and CelebAMask-HQ
--data 'folder:PATH,regions=FOLDER'     masks LABEL/NAME.png, nonzero inside the region

Whether boxes fit is seen in figures/locality-change-maps.png. faces and the grids (dsprites and others) have exact
regions, other data sets none. In Python, arrays take masks under the key regions."""
TOPICS = {
    "judge": """The judge is an independent classifier of images. It checks that an edit shows the intended label.

It is trained once on the split "judge" of the data, on degraded copies of the images, and cached. A label whose
balanced accuracy (of a continuous label: rank correlation) on the model's reconstructions is below 0.80 has no judged
values, because its response could be due to blur. The remedies are a model with sharper reconstructions (train longer),
or another judge.

Options: --judge auto (the default), --judge none, --judge FILE.
Train your own: ccvae-eval train judge --data folder:PATH --out judge.safetensors""",
    "regions": REGIONS,
    "celebahq": REGIONS,
}
"""Explanations of what is neither a plugin nor a value."""
DESCRIBED = ("data", "models", "adapters", "matchers", "features", "reports")
"""Groups of plugins that are explained by their docstrings."""
_CHECK = re.compile(r"CE\d{3}", re.IGNORECASE)


def command(
    what: Annotated[
        str,
        typer.Argument(
            help="A metric, value, check (CE002), data set, model, 'judge' or 'schema'.",
            show_default=False,
            autocompletion=registered("metrics", "schema", *TOPICS),
        ),
    ],
    json: Json = False,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="Print the sources as BibTeX; also of 'compare'.")] = False,
) -> None:
    """Explain a metric, value, check, data set or model, or print the schema of run.json."""
    with Screen(as_json=json) as screen:
        if bibtex:
            from ccvae_eval.report.bibliography import SOURCES
            from ccvae_eval.report.bibliography import bibtex as bibtex_of

            if what not in SOURCES:
                raise UsageError(f"no sources are recorded for {what!r}", hint=suggestion(what, SOURCES))
            screen.document(bibtex_of(SOURCES[what]))
        elif what == "schema":
            from ccvae_eval.evaluation.storage import RUN_SCHEMA

            screen.document(RUN_SCHEMA)
        elif what in registry.metrics:
            _explain_metric(registry.metrics[what], screen)
        elif what in TOPICS:
            _explain_text(what, "", TOPICS[what], screen)
        elif group := next((group for group in DESCRIBED if what in registry.Registry(group)), None):
            entry = registry.Registry(group).find(what)
            _explain_text(what, group, entry.description() or "No description.", screen)
        elif _CHECK.fullmatch(what):
            _explain_check(what.upper(), screen)
        else:
            _explain_value(what, screen)


def _explain_metric(kind: Any, screen: Screen) -> None:
    if screen.as_json:
        screen.document(_as_plain(kind))
        return
    screen.show(Text(wrapped(explanation(kind), screen.out.width)), "")
    screen.show(*_reading(kind, screen), _values_table(kind.values), "", _undefined(kind, screen))


def _reading(kind: Any, screen: Screen) -> list[Text | str]:
    """How to read the headline of a metric, if it says so."""
    reading = getattr(kind, "reading", "")
    return [Text(wrapped(f"How to read {kind.headline}:\n{reading}", screen.out.width)), ""] if reading else []


def _undefined(kind: Any, screen: Screen) -> Text:
    """The reasons of undefined values of a metric, and what can be done about each."""
    reasons: dict[str, list[str]] = {}
    for reason, text in reasons_of(kind).items():
        reasons.setdefault(text, []).append(reason)
    lines = ["Undefined values:", *(f"    {'; '.join(alike)}: {text}" for text, alike in reasons.items())]
    return Text(wrapped("\n".join(lines), screen.out.width))


def _explain_text(name: str, group: str, text: str, screen: Screen) -> None:
    if screen.as_json:
        screen.document({"name": name, "group": group, "text": text})
        return
    # the settings that "Args:" lists are the options of a model; its other sections are for programmers
    shown = wrapped(flowing(text), screen.out.width)
    screen.show(Text(shown))


def _explain_check(code: str, screen: Screen) -> None:
    from ccvae_eval.report.checks import CHECKS  # imports torch, which other explanations do not need

    check = CHECKS.get(code)
    if check is None:
        raise UsageError(f"no check has the code {code}", hint=f"Checks: {', '.join(sorted(CHECKS))}")
    if screen.as_json:
        texts = {"severity": check.severity, "title": check.title, "explanation": check.explanation}
        screen.document({"name": code, **texts, "remedy": check.remedy})
        return
    heading, remedy = f"{code} ({check.severity}): {check.title}", f"Remedy: {check.remedy}"
    screen.show(Text(wrapped("\n\n".join((heading, check.explanation, remedy)), screen.out.width)))


def _explain_value(name: str, screen: Screen) -> None:
    """Explains a value by its name, in whatever metric, or by its address; upper and lower case do not matter."""
    from ccvae_eval.core.errors import PluginError

    kinds: list[Any] = []
    for entry in registry.metrics.registrations():
        with suppress(PluginError):
            kinds.append(entry.load())
    sought = name.partition("@")[0].lower()
    found = [(k, value) for k in kinds for value in k.values if sought in (value.lower(), f"{k.name}.{value}".lower())]
    if not found:
        groups = [known for group in ("metrics", *DESCRIBED) for known in registry.Registry(group)]
        known = [*groups, *TOPICS, *(value for kind in kinds for value in kind.values), "schema"]
        hint = suggestion(name, list(dict.fromkeys(known)))
        close = hint if hint.startswith("Did you mean") else "Try: ccvae-eval list plugins"
        raise UsageError(f"nothing is called {name!r}", hint=close)
    if screen.as_json:
        documents = [{"metric": k.name, "value": v, **asdict(k.values[v])} for k, v in found]
        screen.document({"name": name, "values": documents})
        return
    for kind, value in found:
        reading = _reading(kind, screen) if value == kind.headline else []
        screen.show(f"[bold]{escaped(kind.name)}.{escaped(value)}[/bold]", _values_table({value: kind.values[value]}))
        screen.show("", *reading)
    screen.advise("Next: " + " or ".join(dict.fromkeys(f"ccvae-eval explain {kind.name}" for kind, _ in found[:1])))


def _range_text(spec: ValueSpec) -> str:
    low, high = spec.range
    if low is not None and high is not None:
        return f"[{low:g}, {high:g}]"
    return f"≥ {low:g}" if low is not None else f"≤ {high:g}" if high is not None else ""


def _values_table(values: dict[str, ValueSpec]) -> Table:
    table = FittedTable("value", "", "range", "unit", "definition", spare=("unit", "range"))
    for column in table.columns[:3]:
        column.no_wrap = True
    table.columns[-1].min_width = 32
    for name, spec in values.items():
        judge = " (needs the judge)" if spec.needs_judge else ""
        chance = spec.chance or (f"none: {spec.no_chance}" if spec.no_chance else "none")
        lines = map(escaped, (f"{spec.summary}{judge}", f"chance: {chance}", f"reference: {spec.reference}"))
        cells = map(escaped, (name, ARROWS[spec.higher_is_better], _range_text(spec), spec.unit))
        table.add_row(*cells, "\n".join(lines))
    return table


def _as_plain(kind: Any) -> dict[str, Any]:
    help_of = argument_help(kind)
    return {
        "name": kind.name,
        "version": kind.version,
        "headline": kind.headline,
        "text": explanation(kind),
        "undefined": reasons_of(kind),
        "settings": {f.name: {"default": f.default, "help": help_of.get(f.name, "")} for f in fields(kind)},
        "values": {name: asdict(spec) for name, spec in kind.values.items()},
    }
