"""The interface of reports: renderings of a run into files, registered in the group ``ccvae_eval.reports``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ccvae_eval.core.errors import CcvaeEvalError, PluginError
from ccvae_eval.evaluation.run import Run
from ccvae_eval.plugins import registry


@runtime_checkable
class Report(Protocol):
    """A rendering of a run. The class is constructed without arguments and selected by ``--report NAME``."""

    def write(self, run: Run, folder: Path) -> Sequence[Path]:
        """Writes the run into a folder, which may not exist yet, and returns the files; must not modify the run."""
        ...


def write_report(name: str, run: Run, folder: Path) -> list[Path]:
    """Writes one registered report of a run and returns its files.

    Raises:
        UsageError: no report has this name.
        PluginError: the report failed or lacks ``write``; the error names the plugin and its distribution.
    """
    entry = registry.reports.find(name)
    kind: Any = entry.load()
    where = f"{entry.distribution} {entry.version}".strip()
    try:
        report = kind()
        if not isinstance(report, Report):
            raise PluginError(f"report {name!r} has no write(run, folder)", where=where)
        folder.mkdir(parents=True, exist_ok=True)
        return [Path(file) for file in report.write(run, folder)]
    except CcvaeEvalError:
        raise
    except Exception as error:
        raise PluginError(
            f"report {name!r} failed in write(run, folder)",
            where=where,
            why=f"{type(error).__name__}: {error}",
            hint=f"run.json has been written. `ccvae-eval check {name} --kind report` tests the report alone.",
        ) from error
