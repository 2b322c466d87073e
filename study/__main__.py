"""Runs the calibration study and writes its pages, docs/calibration-*.md (``make study``; ``python -m study [PAGE]``).

Each page is one ``ccvae-eval calibrate`` on the reference model of drawn faces. Measurements are kept in build/study,
so that an interrupted study goes on where it stopped. ``python -m study new-values`` measures nothing.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from pathlib import Path

from PIL import Image

from ccvae_eval.core.files import atomic_write
from study.new_values import write_table

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "study"
SOME_VALUES_FAIL = 1
COLOURS = 64
"""Colours of a picture of curves, which is then a quarter as large."""
NEW_VALUES = "new-values"
"""The table of new values in docs/metrics/calibration.md, from the pages as they are."""
PAGES = {
    "codes": "density measurement accuracy --steps 3 --dial shuffle --dial mix --dial seep --dial stir --dial shift "
    "--dial collapse --dial mislabel --dial temper",
    "pictures": "locality drift diversity --steps 3 --dial shuffle --dial mix --dial seep --dial stir --dial collapse "
    "--dial smear --dial stray --dial warp --dial fade --dial leak --dial idle --dial jump --dial wobble",
    "edits": "intervention reconstruction generation --steps 3 --dial warp --dial leak --dial bias --dial idle "
    "--dial collapse --dial fade --dial dim --dial shift --dial shuffle --dial mix --dial smear",
    "panel": "disentanglement --dial mix --dial shuffle --dial seep --dial correlate --dial turn --dial stir",
}


def write_page(name: str) -> bool:
    """Measures what a page shows and writes it with its picture; False if a value fails one of its perturbations."""
    folder = WORK / name
    command = [sys.executable, "-m", "ccvae_eval.cli.main", "calibrate", *PAGES[name].split(), "--out", str(folder)]
    code = subprocess.run(command, cwd=ROOT).returncode
    if code not in (0, SOME_VALUES_FAIL):
        raise SystemExit(code)
    text = (folder / "calibration.md").read_text().replace("(curves.png)", f"(pictures/calibration-{name}.png)")
    picture, content = Image.open(folder / "curves.png").convert("RGB"), io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    atomic_write(ROOT / "docs" / "pictures" / f"calibration-{name}.png", content.getvalue())
    atomic_write(ROOT / "docs" / f"calibration-{name}.md", text.encode())
    return code == 0


def main() -> None:
    """Writes the pages that are asked for, or all, and the table of new values; exit code 1 if a value fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", nargs="*", choices=[*PAGES, NEW_VALUES, []], help="only these pages; default: all")
    asked = parser.parse_args().page or PAGES
    passed = [write_page(name) for name in asked if name != NEW_VALUES]
    write_table(ROOT / "docs")
    raise SystemExit(0 if all(passed) else SOME_VALUES_FAIL)


if __name__ == "__main__":
    main()
