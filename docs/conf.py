"""Sphinx's settings: ``make docs`` builds the pages of this folder into build/site.

Pages that a program writes contain a comment ``<!-- generated: NAME -->``. When the site is built,
a function of ``GENERATED`` gives the text in its place, so that it cannot differ from the program.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import ccvae_eval
from ccvae_eval.cli import VERBS
from ccvae_eval.cli.main import load_command
from ccvae_eval.evaluation.storage import RUN_SCHEMA

HERE = Path(__file__).parent

project = "ccvae-eval"
release = version = ccvae_eval.__version__
copyright = "the ccvae-eval maintainers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_heading_anchors = 4
highlight_language = "text"
html_theme = "furo"
html_title = f"ccvae-eval {version}"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 80
add_module_names = False
napoleon_google_docstring = True
copybutton_exclude = ".linenos, .gp, .go"


def commands() -> str:
    """Every command with its options, as Markdown."""
    parts: list[str] = []
    for name in VERBS:
        command = load_command(name)
        context = command.make_context(name, ["x"], resilient_parsing=True)
        usage = " ".join(command.collect_usage_pieces(context))
        parts += [f"## {name}", _text(command.help), f"```text\nccvae-eval {name} {usage}\n```"]
        for panel, parameters in groupby(command.params, lambda p: getattr(p, "rich_help_panel", None)):
            records = filter(None, (parameter.get_help_record(context) for parameter in parameters))
            lines = [f"- `{names}`: {_text(help)}" for names, help in records if "--help" not in names]
            parts += [f"{panel or 'Arguments and options'}:", "\n".join(lines)] if lines else []
    return "\n\n".join(parts)


def _text(help: str | None) -> str:
    """A help text of the terminal as Markdown."""
    return re.sub(r"([<>*|])", r"\\\1", (help or "").replace("\\[", "[")).replace("[", r"\[")


def notebook() -> str:
    """The cells of docs/notebook.ipynb, which the site does not run."""
    cells = json.loads((HERE / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    sources[0] = (sources[0][0].partition("\n")[2], sources[0][1])  # the page has a title
    return "\n\n".join(f"```python\n{text}\n```" if kind == "code" else text for text, kind in sources)


def schema() -> str:
    """The JSON schema of run.json."""
    return f"```json\n{json.dumps(RUN_SCHEMA, indent=1)}\n```"


GENERATED: dict[str, Callable[[], str]] = {"commands": commands, "notebook": notebook, "schema": schema}


def fill(app: Any, docname: str, source: list[str]) -> None:
    """Puts the generated texts into a page."""
    del app, docname
    source[0] = re.sub(r"<!-- generated: (\w+) -->", lambda found: GENERATED[found[1]](), source[0])


def without_math(app: Any, kind: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Shows short formulas of docstrings as code, which needs no script from the network."""
    del app, kind, name, thing, options
    lines[:] = [re.sub(":math:`(.*?)`", r"``\1``", line) for line in lines]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", without_math)
