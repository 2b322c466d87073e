"""Writes docs/performance.md from the JSON file of pytest-benchmark: ``make bench``.

python tools/performance.py build/benchmarks.json docs/performance.md
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HEAD = """# Performance

Written by `make bench`; do not edit. Every figure is a ratio of two measurements within one run (processor time on one
thread, the least of several rounds), because machines differ by a factor of three. `make test` runs each benchmark once
and asks for no time.
"""


def processor() -> str:
    """Name of the processor, where the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown processor"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )


def commit() -> str:
    """The commit that was measured, marked where the tree had changes."""
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return found.stdout.strip() or "unknown commit"


def page(document: dict[str, Any], load: float) -> str:
    """The page as Markdown: one row for each figure that a benchmark recorded."""
    machine = document["machine_info"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    facts = (
        f"Measured {document['datetime'][:10]} at {commit()}: {processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"load {load:.1f} at the end, Python {machine['python_version']}."
    )
    rows = ["| what | figure | budget | met |", "|---|---|---|---|"]
    for benchmark in document["benchmarks"]:
        for what, (figure, budget) in benchmark["extra_info"].get("budgets", {}).items():
            rows.append(f"| {what} | {figure:.3g} | {budget:g} | {'yes' if figure <= budget else '**no**'} |")
    return "\n".join([HEAD, facts, "", *rows, ""])


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:3])
    target.write_text(page(json.loads(source.read_text()), os.getloadavg()[0]))
