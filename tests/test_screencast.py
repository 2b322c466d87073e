"""The recording of a terminal: each line appears after the one before, and output is text."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from tests.support.paths import ROOT


def test_lines_appear_one_after_the_other(tmp_path: Path) -> None:
    file = tmp_path / "session.svg"
    command = shlex.join([sys.executable, "-c", "print('one'); print('<two>')"])
    subprocess.run([sys.executable, str(ROOT / "tools" / "screencast.py"), str(file), command], check=True)
    texts = ElementTree.parse(file).iter("{http://www.w3.org/2000/svg}text")
    shown = {(t.text or "").strip(): float(re.findall(r"delay:([\d.]+)s", t.get("style", ""))[0]) for t in texts}
    assert {"one", "<two>"} <= set(shown)
    assert shown["one"] < shown["<two>"]
