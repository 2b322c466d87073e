"""The root command: imports a verb only when it is used, and turns errors into messages and exit codes."""

from __future__ import annotations

import codecs
import errno
import inspect
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from ccvae_eval import __version__
from ccvae_eval.cli import GIVEN, VERBS
from ccvae_eval.core.errors import (
    STOP_SIGNALS,
    CcvaeEvalError,
    InputError,
    StopRequest,
    UsageError,
    handle_stop_signals,
    is_memory_error,
    suggestion,
)
from ccvae_eval.rendering.text import plain

SIMILAR = dict(zip("…–—·•↑↓→×≤≥─│━┃", ".--**^v>x<>-|-|", strict=True))
"""Characters of one column that stand for others in a terminal without Unicode."""
THREAD_SECONDS = 5.0
"""Time that threads of plugins get to end after the command."""
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)
"""Errors of a disk, which stdout and the files of libraries can have without a name."""
MEMORY_HINT = "Try a smaller --sample or --batch-size, or --device cpu."
CV2_HINT = "OpenCV needs two system libraries. On Debian and Ubuntu: apt-get install libgl1 libglib2.0-0"
OLD_NAMES = {"--label": "--rename", "--rate": "--supervision", "--batch": "--batch-size"}
"""Options that were renamed; the old name works, with a note."""
ASSIGNING = frozenset({"set", "option", "training", "group", "plugin", "pad"})
"""Options whose values are settings, paths or pairs, in which a comma does not separate values of the option."""
LABEL_REQUESTS = "label"
"""The parameter of ``--rename``, whose values are NEW=OLD."""
TYPES = {"str": "TEXT", "int": "NUMBER", "float": "NUMBER", "bool": ""}
"""Words of the help for the types of Python."""


def write_options(params: Iterable[Any], ctx: Any, formatter: Any) -> None:
    """Writes the help of arguments and options by panel; a long option has its text below it."""
    panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for param in params:
        kind = re.sub(r"^(list\[)?(\w+)\]?( range)?$", r"\2", param.display_type(ctx).strip("<>"))
        if param.param_type_name == "argument":
            _, text = param.get_help_record(ctx)
            choices = f"  [{kind.replace('|', ', ')}]" if "|" in kind else ""
            panels["Arguments"].append((param.display_name_raw, text + choices))
            continue
        if param.metavar is None:
            param.metavar = TYPES.get(kind, kind if "|" in kind else kind.upper())
        panels.setdefault(param.rich_help_panel or "Options", []).append(param.get_help_record(ctx))
    write_panels(panels, formatter)


def write_panels(panels: Mapping[str, Sequence[tuple[str, str]]], formatter: Any) -> None:
    """Writes the panels of a help that have rows: terms and texts."""
    for panel, rows in panels.items():
        if rows:
            with formatter.section(panel):
                formatter.write_dl(rows, col_max=formatter.width // 3)


class Command(TyperCommand):
    """A verb: lists may be written with commas, and the old names of options work."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_options(self.get_params(ctx), ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = {name: param for param in self.params for name in param.opts}
        given: list[str] = []
        rest = iter(args)
        for part in rest:
            if part == "--":
                given += [part, *rest]
                break
            name, equals, value = part.partition("=") if part.startswith("--") else (part, "", "")
            if (new := OLD_NAMES.get(name)) in options and name not in options:
                if not {"--quiet", "-q"} & set(args):
                    sys.stderr.write(f"{name} is now called {new}\n")
                name = str(new)
            param: Any = options.get(name)
            attached: Any = options.get(part[:2]) if param is None and len(part) > 2 else None
            if attached is not None and attached.multiple:  # -cA,B
                param, name, equals, value = attached, part[:2], "=", part[2:]
            if param is None or not param.multiple or param.name in ASSIGNING:
                given.append(name + equals + value)
                continue
            between = r",(?=[^,=]*=)" if param.name == LABEL_REQUESTS else ","
            text = value if equals else next(rest, None)
            if text is None:
                given.append(name)
                continue
            for one in re.split(between, text):
                given += [name, one.strip()]
        return super().parse_args(ctx, given)


SYNONYMS = {"evaluate": "run", "eval": "run", "test": "run", "show": "report", "diff": "compare"}
"""Commands that other programs have, and the verb that is meant."""


class LazyGroup(TyperGroup):
    """Lists the verbs from ``VERBS``; imports the module of the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        del ctx
        return list(VERBS)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_options(self.get_params(ctx), ctx, formatter)
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, verb in VERBS.items():
            panels.setdefault(verb.panel, []).append((name, verb.summary))
        write_panels(panels, formatter)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        del ctx
        verb = VERBS.get(cmd_name)
        return verb and TyperCommand(cmd_name, help=verb.summary, rich_help_panel=verb.panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name = args[0]
        if name not in VERBS:
            option = f"--{name}" in (opt for param in self.params for opt in param.opts)
            known = suggestion(SYNONYMS.get(name, name), VERBS)
            meant = f"Did you mean '--{name}'?" if option else known
            hint = f"{meant} Try: {ctx.command_path} --help"
            raise UsageError(f"{name!r} is not a command", hint=hint)
        return name, load_command(name), args[1:]


def load_command(name: str) -> Any:
    """Imports the module of a verb and returns its command."""
    metric = VERBS[name].is_metric
    module = import_module(f"ccvae_eval.cli.{'measuring' if metric else name}")
    function = module.command(name) if metric else module.command
    app = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, context_settings=CONTEXT, rich_markup_mode=None
    )
    # typer keeps the line breaks of a docstring, and wraps its lines once more
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    app.command(name, cls=Command, help=text, no_args_is_help=metric or name in ("run", "train"))(function)
    return typer.main.get_command(app)


CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}

app = typer.Typer(
    cls=LazyGroup,
    name="ccvae-eval",
    help="Disentanglement evaluation for VAEs that learn from labels.\n\nStart with ccvae-eval demo, then "
    "ccvae-eval run YOUR.pt --data folder:PATH.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=CONTEXT,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"ccvae-eval {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    """Disentanglement evaluation for VAEs that learn from labels."""
    del version
    if debug:
        import logging

        logging.basicConfig(stream=sys.stderr)
        logging.getLogger("ccvae_eval").setLevel(logging.DEBUG)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    raise StopRequest(number)


def _report(error: CcvaeEvalError, arguments: list[str]) -> None:
    """Writes an error to stderr and, with --json, as one JSON document to stdout."""
    if "--json" in arguments:
        import json

        with suppress(OSError):  # of a disk that is full
            sys.stdout.write(json.dumps({"error": error.as_plain()}) + "\n")
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        sys.stderr.write(f"\x1b[31mError:\x1b[0m {plain(str(error))}\n")
    else:
        sys.stderr.write(f"Error: {plain(str(error))}\n")


def _as_known_error(error: Exception) -> CcvaeEvalError | None:
    """The error as one with a message for the user; None for an unexpected one."""
    # a data set that cannot import cv2 arrives as a plugin error
    cause = error.__cause__ if isinstance(error, CcvaeEvalError) else error
    if isinstance(cause, ImportError) and ("libGL" in str(cause) or "libgthread" in str(cause)):
        return CcvaeEvalError("a system library is missing", why=str(cause), hint=CV2_HINT)
    if isinstance(error, CcvaeEvalError):
        return error
    if is_memory_error(error):
        return CcvaeEvalError("out of memory", why=str(error), hint=MEMORY_HINT)
    if isinstance(error, OSError) and error.filename is not None:
        return InputError("file cannot be used", where=str(error.filename), why=error.strerror or str(error))
    if isinstance(error, OSError) and error.errno in DISK:
        return InputError("cannot be written", why=error.strerror or str(error))
    return None


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script; always ends in ``SystemExit``.

    Args:
        arguments: the arguments; None = those of this program, which ends with the command.
    """
    program = arguments is None
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    # --debug is accepted before and after the verb
    given = ["--debug"] * ("--debug" in arguments) + [a for a in arguments if a != "--debug"]
    GIVEN.set(tuple(given))
    if program:
        import faulthandler

        faulthandler.enable()  # a plugin that ends the process by a fault of memory is named by its line
        _accept_any_text()
    before = handle_stop_signals(_stop)
    CcvaeEvalError.in_command = True
    try:
        code = _run(given)
    except StopRequest as request:
        if "--json" in given:
            _report(CcvaeEvalError(str(request)), given)
        else:
            sys.stderr.write(f"\nThe command was {request}.\n")
        code = request.exit_code
    finally:
        CcvaeEvalError.in_command = False
    if program:
        _end(code)
    else:
        for number, handler in before.items():
            signal.signal(number, handler)
    raise SystemExit(code)


def _accept_any_text() -> None:
    """Lets a terminal without Unicode show similar characters, or question marks."""

    def similar(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        return "".join(SIMILAR.get(c, "?") for c in error.object[error.start : error.end]), error.end

    codecs.register_error("similar", similar)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="similar")


def _end(code: int) -> None:
    """Prepares the end of the program: nothing that comes now can change or delay its exit code."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    try:
        sys.stdout.flush()
    except OSError:  # a full disk, which has been reported: the interpreter would report it again
        _discard_output()
    left = [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
    for thread in left:
        thread.join(THREAD_SECONDS / len(left))
    if names := [thread.name for thread in left if thread.is_alive()]:
        sys.stderr.write(f"Threads of a plugin are still at work and are not waited for: {plain(', '.join(names))}\n")
        sys.stderr.flush()
        os._exit(code)


def _discard_output() -> None:
    """Sends what is left of the output nowhere, so that the interpreter does not complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _run(given: list[str]) -> int:
    """Runs a command and returns its exit code."""
    try:
        code = app(args=given, prog_name="ccvae-eval", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # the consumer has closed the pipe (`| head`)
        _discard_output()
        return 0
    except SystemExit as ended:
        return int(ended.code or 0)
    except Exception as error:
        if "--debug" in given:
            import traceback

            traceback.print_exc()
        return _exit_code_of(error, given)
    return code if isinstance(code, int) else 0


MUST_BE = {"int_parsing": "a whole number", "int_from_float": "a whole number", "float_parsing": "a number"}
BOUNDS = {"greater_than_equal": "at least {ge}", "less_than_equal": "at most {le}"}
"""Requirements on the value of an option, by the type of error of pydantic, with which typer reads values."""


def _requirement(error: Any) -> str:
    """The message for a value that typer refuses, in our words; "" for other errors of typer."""
    refusal = error.__cause__
    if not hasattr(refusal, "errors"):  # no value was refused, as with an unknown option
        return ""
    option, detail = error.param, refusal.errors()[0]
    if option is None:
        return ""
    name = max(option.opts, key=len)
    choices = option.display_type(error.ctx).strip("<>").split("|")
    given = repr(detail["input"])
    if detail["type"] in MUST_BE:
        required = MUST_BE[detail["type"]]
    elif detail["type"] in BOUNDS:
        required, given = BOUNDS[detail["type"]].format(**detail["ctx"]), str(detail["input"])
    elif len(choices) > 1:
        required = f"one of {', '.join(choices)}"
    else:
        return ""
    return f"{name} must be {required}, got {given}"


def _exit_code_of(error: Exception, arguments: list[str]) -> int:
    """Reports an error and returns its exit code."""
    if hasattr(error, "format_message"):  # typer's own usage errors
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
            sys.stdout.write(f"{error.format_message()}\n")
            return UsageError.exit_code
        context = getattr(error, "ctx", None)
        hint = "" if context is None else f"Try: {context.command_path} --help"
        _report(UsageError(_requirement(error) or error.format_message().rstrip("."), hint=hint), arguments)
        return UsageError.exit_code
    unknown = CcvaeEvalError(f"internal error: {type(error).__name__}: {error}", hint="--debug shows the traceback.")
    known = _as_known_error(error) or unknown
    _report(known, arguments)
    return known.exit_code


if __name__ == "__main__":
    main()
