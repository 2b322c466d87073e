"""The interface of reports: renderings of a run into files, registered in the group ``ccvae_eval.reports``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ccvae_eval.core.errors import PluginError
from ccvae_eval.core.files import make_folder
from ccvae_eval.evaluation.run import Run
from ccvae_eval.plugins import registry
from ccvae_eval.plugins.attribution import CREATION, plugin_call


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
    with plugin_call(entry, "report", CREATION):
        report = kind()
    if not isinstance(report, Report):
        raise PluginError(f"report {name!r} has no write(run, folder)", where=entry.origin)
    make_folder(folder)
    with plugin_call(entry, "report", "write(run, folder)"):
        return [Path(file) for file in report.write(run, folder)]
