"""Fuzzing of the readers of untrusted files.

``python tools/fuzz.py soak --files 200000 --seed 1`` reads mutated files in child processes under limits of memory and
time (``make soak`` runs it too). ``python tools/fuzz.py atheris checkpoint --seconds 300`` lets atheris choose the
bytes by coverage; it needs the extra ``fuzz``. The files of findings are left in build/fuzz.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
BATCH, LONGEST = 5000, 1800
"""Files of one child process, and the most seconds that it may take."""
BATCH_CODE = (
    "import json, sys; from pathlib import Path; from tests.support.fuzzing import run_batch; "
    "print(json.dumps(run_batch(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])))"
)


def soak(files: int, seed: int, target: str = "", keep: Path = ROOT / "build/fuzz") -> dict[str, Any]:
    """Reads mutated files of all targets or one, and returns the figures; each finding is [file, what happened]."""
    total: dict[str, Any] = {"files": 0, "read": 0, "refused": 0, "slowest": 0.0, "growth": 0, "findings": []}
    begun = time.monotonic()
    for number, start in enumerate(range(0, files, BATCH)):
        count = min(BATCH, files - start)
        with TemporaryDirectory() as folder:
            arguments = [str(seed * 100_000 + number), str(count), folder, target]
            try:
                child = subprocess.run(
                    [sys.executable, "-c", BATCH_CODE, *arguments],
                    cwd=ROOT, capture_output=True, text=True, timeout=LONGEST, check=False,
                )  # fmt: skip
                ended = "" if child.returncode == 0 else f"exit code {child.returncode}: {child.stderr[-500:]}"
            except subprocess.TimeoutExpired:
                ended = f"stopped after {LONGEST} s"
            if ended:
                found = {
                    "files": count,
                    "findings": [[path.name, ended] for path in [*Path(folder).glob("[0-9]*")][:1]],
                }
            else:
                found = json.loads(child.stdout)
            for name, _ in found["findings"]:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / name).write_bytes((Path(folder) / name).read_bytes())
        for key, value in found.items():
            total[key] = max(total[key], value) if key in ("slowest", "growth") else total[key] + value
    return {**total, "hours": round((time.monotonic() - begun) / 3600, 3)}


def atheris(target: str, seconds: int) -> None:
    """Runs libFuzzer on one target; ends with an error at the first finding."""
    import atheris as engine

    with engine.instrument_imports(
        include=["tomllib", "zipfile", "ccvae_eval.checkpoint", "ccvae_eval.core.typed", "ccvae_eval.data.sets.npz"]
    ):
        from tests.support import fuzzing

    suffixes = sorted({seed.suffix for seed in fuzzing.seeds() if seed.target == target})
    with TemporaryDirectory() as folder, fuzzing.reading_here():
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(s for s in fuzzing.seeds() if s.target == target):
            (corpus / str(number)).write_bytes(bytes([suffixes.index(seed.suffix)]) + seed.raw)

        def once(data: bytes) -> None:
            path = Path(folder) / f"x{suffixes[data[0] % len(suffixes) if data else 0]}"
            path.write_bytes(data[1:])
            fuzzing.examine(target, path)

        options = [
            f"-max_total_time={seconds}",
            "-max_len=65536",
            "-len_control=0",
            "-timeout=10",
            "-rss_limit_mb=3000",
        ]
        keep = ROOT / "build/fuzz"
        keep.mkdir(parents=True, exist_ok=True)
        engine.Setup([sys.argv[0], *options, f"-artifact_prefix={keep}/{target}-", str(corpus)], once)
        engine.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    long = verbs.add_parser("soak")
    long.add_argument("--files", type=int, default=200_000)
    long.add_argument("--seed", type=int, default=1)
    long.add_argument("--target", default="", choices=["", "checkpoint", "npz", "typed"])
    guided = verbs.add_parser("atheris")
    guided.add_argument("target", choices=["checkpoint", "npz", "typed"])
    guided.add_argument("--seconds", type=int, default=300)
    given = parser.parse_args()
    if given.verb == "atheris":
        atheris(given.target, given.seconds)
        return
    found = soak(given.files, given.seed, given.target)
    findings = found.pop("findings")
    print(json.dumps(found))
    for what, count in Counter(what.strip().splitlines()[-1][:200] for _, what in findings).most_common():
        print(f"{count} x {what}")
    for name, what in findings[:3]:
        print(f"\n{name}\n{what}")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
