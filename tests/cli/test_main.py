"""The root command: help without heavy imports, suggestions, errors and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ccvae_eval
from ccvae_eval.cli import BROKEN, VERBS
from ccvae_eval.cli.main import load_command, main
from ccvae_eval.plugins import registry

CHECKPOINT = str(Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt")


def _run(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ccvae_eval.cli.main", *arguments], capture_output=True, text=True, timeout=60, **more
    )  # type: ignore[call-overload,no-any-return]


THIRD_PARTY = {
    "asked": 'class M:\n    """A."""\n\n    question: ClassVar[str] = (\n        "Is [it] "\n        "so?"\n    )\n',
    "described": 'class M:\n    """The first line.\n\n    More.\n    """\n',
    "computed": 'class M:\n    """A docstring."""\n\n    order = 3\n    question = "Is it".upper()\n',
    "broken": "import not_there_at_all\n\nclass M:\n    pass\n",
}
SUMMARIES = {"asked": "Is [it] so?", "described": "The first line.", "computed": "IS IT", "broken": BROKEN}


@pytest.fixture
def _third_party_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers the metrics of ``THIRD_PARTY``, one module each, beside the built-in ones."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in THIRD_PARTY.items():
        (tmp_path / f"third_party_{name}.py").write_text(text)
    entries = [registry.Registration("metrics", name, f"third_party_{name}:M", "other", "1") for name in THIRD_PARTY]
    entries.append(registry.Registration("metrics", "density", "third_party_asked:M", "other", "1"))
    installed = (*registry._installed(), *entries)
    monkeypatch.setattr(registry, "_installed", lambda: installed)


@pytest.mark.usefixtures("_third_party_metrics")
def test_a_third_party_metric_has_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert {name: VERBS[name].summary for name in THIRD_PARTY} == SUMMARIES
    assert [name for name in VERBS if name in THIRD_PARTY] == ["computed", "asked", "broken", "described"]
    assert "third_party_described" not in sys.modules, "the text of the class is enough"
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert not ended.value.code
    shown = " ".join(capsys.readouterr().out.split())
    assert "Is [it] so?" in shown
    assert "The first line." in shown


@pytest.mark.usefixtures("_third_party_metrics")
def test_a_metric_that_is_registered_twice_has_qualified_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"ccvae-eval:density", "other:density"} <= set(VERBS)
    assert "density" not in list(VERBS)
    with pytest.raises(SystemExit) as ended:
        main(["density", "x.pt"])
    assert ended.value.code == 2
    assert "ccvae-eval:density or other:density" in capsys.readouterr().err


@pytest.mark.usefixtures("_third_party_metrics")
def test_a_broken_metric_is_an_error_of_its_verb_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["broken", "x.pt"])
    assert ended.value.code == 4
    assert "not_there_at_all" in capsys.readouterr().err


@pytest.mark.parametrize("verb", list(VERBS))
def test_the_root_help_shows_the_first_line_of_each_docstring(verb: str) -> None:
    assert load_command(verb).help.strip().splitlines()[0] == VERBS[verb].summary


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert verb in capsys.readouterr().out


def test_option_overrides_a_metric_s_own_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """``--option`` takes precedence over the options of a single metric's command."""
    with pytest.raises(SystemExit) as ended:
        main([
            "locality", CHECKPOINT, "--limit", "20", "--judge", "none", "--no-figures", "--no-page",
            "--out", str(tmp_path), "--json", "--steps", "3", "--columns", "each", "--option", "locality.steps=4",
        ])  # fmt: skip
    assert ended.value.code == 0
    settings = json.loads(capsys.readouterr().out)["measurements"][0]["settings"]
    assert (settings["steps"], settings["columns"]) == (4, "each")
    assert not {"figures", "report.html"} & {path.name for path in tmp_path.iterdir()}


def test_the_settings_of_a_metric_are_options() -> None:
    names = {name for parameter in load_command("locality").params for name in parameter.opts}
    assert {"--steps", "--source", "--data", "--json", "--batch-size"} <= names


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["localty", "x"], 2, "Did you mean 'locality'"),
        (["locality", "x", "--dat", "y"], 2, "--data"),
        (["locality", CHECKPOINT, "--option", "locality.step=5"], 2, "Did you mean 'steps'"),
        (["locality", CHECKPOINT, "--option", "drift.matcher=sift"], 2, "'drift', which is not evaluated"),
        (["disentanglement", CHECKPOINT, "--option", "drift.matcher=sift"], 2, "'drift', which is not evaluated"),
        (["run", "absent.pt"], 3, "absent.pt"),
        (["run", "absent.pt", "--pad", "Smiling"], 2, "--pad: 'Smiling' is not of the form A,B"),
        (["density", CHECKPOINT, "--limit", "20", "--pad", "Smiling,Moustache"], 2, "'Moustache' is unknown"),
        (["explain", "localty"], 2, "Did you mean 'locality'"),
        (["train", "ccvea", "--data", "faces"], 2, "Did you mean 'ccvae'"),
        (["train", "ccvae", "--data", "faecs"], 2, "Did you mean 'faces'"),
        (["inspect", "nowhere.bin"], 3, "nowhere.bin"),
    ],
)
def test_a_user_error_is_one_message_and_an_exit_code(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    shown = capsys.readouterr()
    assert ended.value.code == code
    assert message in shown.err
    assert "Traceback" not in shown.err + shown.out


def test_with_json_an_error_is_a_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "absent.pt", "--json"])
    assert ended.value.code == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert set(error) == {"code", "what", "where", "why", "hint"}


def test_a_closed_pipe_and_a_plain_terminal_cause_no_error(tmp_path: Path) -> None:
    environment = {**os.environ, "TERM": "dumb", "COLUMNS": "20", "LC_ALL": "C", "NO_COLOR": "1"}
    environment.pop("PYTHONUTF8", None)
    shown = _run("list", "plugins", env=environment)
    assert shown.returncode == 0, shown.stderr
    closed = subprocess.run(
        f"{sys.executable} -m ccvae_eval.cli.main list plugins --json | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in closed.stderr


def test_control_characters_in_an_argument_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["inspect", "evil\x1b[31m.pt"])
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["run", "locality", "train"])
def test_a_verb_without_arguments_shows_its_help_and_no_error(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb])
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert "Usage:" in shown.out
    assert shown.err == ""
