"""The commands, rules and numbers of docs/compare.md are those of the program."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ccvae_eval.cli.main import load_command
from ccvae_eval.comparison.gate import read_gate

TEXT = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition("#")[0].strip() for line in re.findall(r"(?:^|run: |cmd: )(ccvae-eval .*)$", TEXT, re.MULTILINE)
]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line: str) -> None:
    _, verb, *arguments = shlex.split(line)
    load_command(verb).make_context(verb, arguments)


def test_the_file_of_rules_is_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "gate.toml").write_text(block)
    gate = read_gate(tmp_path / "gate.toml")
    assert [rule.kind for rule in gate.rules] == ["min", "min", "max", "max-drop"]
    assert gate.baseline == "runs/main"
