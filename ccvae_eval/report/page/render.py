"""Rendering of a run into HTML with the templates of this package."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ccvae_eval.core.errors import python_words
from ccvae_eval.core.files import atomic_write
from ccvae_eval.evaluation.run import Run
from ccvae_eval.rendering.text import plain
from ccvae_eval.report import terminal
from ccvae_eval.report.checks import findings
from ccvae_eval.report.matrices import LEVELS, matrices
from ccvae_eval.report.page import answer, pictures

PAGE = "report.html"


def page_html(run: Run) -> str:
    """The report of a run as one HTML document, from the run alone."""
    columns, strips, pads = pictures.image_numbers(run), pictures.strips(run), pictures.two_label_sheets(run)
    data = {
        "strips": [{"ids": strip.ids, "stations": strip.stations} for strip in strips],
        "pads": [pad[:2] for pad in pads],
        "samples": {metric: len(ids) for metric, ids in run.ids.items()},
        "ids": [int(i) for i in run.gallery.get("ids", ())],
        "classes": pictures.image_classes(run),
        "columns": columns,
    }
    linked = {(column["value"], column["of"]) for column in columns}
    return document(
        "report.html", title=run_title(run), data=data, **_answer(run), strips=strips, pads=pads,
        draws=pictures.draws(run), gallery=pictures.gallery_sheets(run),
        figures={m.metric: pictures.figures(m) for m in run}, matrices=matrices(run, linked), levels=range(LEVELS + 1),
        facts=answer.facts(run), methods=answer.methods(run), warnings=run.header.warnings,
        command=run.header.command,
    )  # fmt: skip


def write_page(run: Run, folder: Path) -> Path:
    """Writes the report of a run into its folder, as report.html.

    Args:
        run: the run as it was read from the folder, so that a later page of the same folder is equal.
        folder: the folder.
    """
    atomic_write(folder / PAGE, page_html(run).encode())
    return folder / PAGE


def runs_html(runs: Mapping[str, Run]) -> str:
    """A table of several runs: one row each, with the headline value of every metric.

    Args:
        runs: the runs by the path of their folder, relative to the page.
    """
    metrics = list(dict.fromkeys((m.metric, m.headline) for run in runs.values() for m in run))
    rows = []
    for path, run in runs.items():
        values = {p.metric: p for p in answer.profile(run)}
        worst = next((f.check.severity for f in findings(run)), "")
        rows.append((path, quote(f"{path}/{PAGE}"), run, values, worst))
    return document("runs.html", title=f"{len(runs)} runs", data={}, metrics=metrics, rows=rows)


def notebook_html(run: Run) -> str:
    """The answer, the checks and the metrics of a run, without a script, to stand inside another page."""
    template = environment().get_template("notebook.html")
    figures = {m.metric: pictures.figures(m) for m in run}
    context = _answer(run)
    context["findings"] = [
        replace(f, check=replace(f.check, remedy=python_words(f.check.remedy))) for f in context["findings"]
    ]
    return template.render(style=Markup(_asset("style.css")), figures=figures, **context)


def document(
    template: str,
    *,
    title: str,
    data: Mapping[str, Any],
    style: str = "",
    scripts: Sequence[str] = ("script.js",),
    **context: Any,
) -> str:
    """A page from a template that extends ``base.html``, with the hashes of its style and its script in its policy.

    Args:
        template: name of the template.
        title: title of the document.
        data: plain data for the script.
        style: name of a style that extends ``style.css``.
        scripts: names of the scripts that follow ``common.js``.
        **context: what the template shows.
    """
    style = _joined("style.css", style)
    script = _joined("common.js", *scripts)
    policy = (
        f"default-src 'none'; img-src data:; style-src {_source_hash(style)}; script-src {_source_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment().get_template(template).render(
        title=title, data=data, policy=Markup(policy), style=Markup(style), script=Markup(script), **context
    )  # fmt: skip


@cache
def environment() -> Environment:
    """The environment of the templates: everything is escaped, control characters are made visible."""

    def shown(value: Any) -> Any:
        return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    found = Environment(
        loader=ChoiceLoader([PackageLoader("ccvae_eval.report", f"{part}/templates") for part in ("page", "live")]),
        autoescape=True, finalize=shown, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.filters["breakable"] = breakable
    return found


def breakable(text: str) -> Markup:
    """The text, in which a narrow window may break a line after an underscore, a comma or a slash.

    >>> breakable("Arched_Eyebrows")
    Markup('Arched_<wbr>Eyebrows')
    """
    return Markup("<wbr>").join(re.findall(r"[^_,/]*[_,/]|[^_,/]+", plain(text)))


def _joined(*names: str) -> str:
    return "".join(_asset(name) for name in names if name)


@cache
def _asset(name: str) -> str:
    loader: Any = environment().loader
    return str(loader.get_source(environment(), name)[0])


def _source_hash(content: str) -> str:
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"


def _answer(run: Run) -> dict[str, Any]:
    """The context of the parts that the page and the notebook share."""
    return {
        "heading": run_title(run),
        "meta": answer.meta(run),
        "sentences": [terminal.sentence(m) for m in run],
        "positions": answer.profile(run),
        "findings": findings(run),
        "metrics": list(answer.metric_parts(run)),
    }


def run_title(run: Run) -> str:
    """The model, the data and the checkpoint's file of a run."""
    data, checkpoint = run.header.data, run.header.checkpoint
    title = f"{checkpoint.get('model') or 'codes'} on {data.get('name') or 'data in memory'}"
    return f"{title}: {Path(str(checkpoint['path'])).name}" if checkpoint.get("path") else title
