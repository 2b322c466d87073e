"""Commands of ``ccvae-eval`` within the process of a test."""

from __future__ import annotations

import pytest

from ccvae_eval.cli.main import main


def run_command(*arguments: object) -> int:
    """Runs a command, such as ``run_command("list", "models")``, and returns its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)
