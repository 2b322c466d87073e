"""Creates the files in ``ccvae_eval/assets`` that ship with the package; run it when their inputs change.

python tools/ship.py judge         train the judge of faces at 64 pixels (about three minutes)
python tools/ship.py checkpoint    train the demo's checkpoint (half an hour); to resume after Ctrl-C, repeat it
python tools/ship.py references    measure the reference model in the default evaluations of faces (about six minutes):
                                   after a new judge, and after a new version or default of a metric; with names of
                                   metrics, measure only these
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ccvae_eval
from ccvae_eval.api import DEFAULT_METRICS, metric_named, plan
from ccvae_eval.cli.demo import ASSET as CHECKPOINT
from ccvae_eval.cli.demo import DEMO_IMAGES, DEMO_OPTIONS
from ccvae_eval.data.spec import open_data
from ccvae_eval.evaluation.runner import run
from ccvae_eval.judge import train_judge
from ccvae_eval.judge.selection import SHIPPED
from ccvae_eval.oracle.model import oracle
from ccvae_eval.oracle.references import SHIPPED as REFERENCES
from ccvae_eval.oracle.references import Table, tables_of

ASSETS = Path(ccvae_eval.__file__).parent / "assets"

JUDGE_DATA = "faces,size=64,seed=64,n=60000"
"""Data with their own seed, so that the judge has seen no image of the data set ``faces`` in any size or split."""
JUDGE_STEPS = 2000
LARGEST_JUDGE = 200_000

WORK = Path("build/ship")
CHECKPOINT_SETTINGS = [
    "--supervision", "0.5", "--steps", "12000", "--set", "likelihood=laplace", "--batch-size", "64",
    "--average", "0.999", "--seed", "1", "--half",
]  # fmt: skip
LARGEST_CHECKPOINT = 3_000_000


def ship_judge(only: list[str]) -> None:
    """Trains the judge and prints its accuracy."""
    if only:
        raise SystemExit("judge takes no names of metrics")

    def progress(done: int, total: int) -> None:
        if done % 100 == 0:
            print(f"{done} of {total} steps")

    judge = train_judge(open_data(JUDGE_DATA), seed=0, steps=JUDGE_STEPS, progress=progress)
    path = ASSETS / SHIPPED
    judge.save(path)
    size = path.stat().st_size
    if size > LARGEST_JUDGE:
        raise SystemExit(f"{path.name} must have at most {LARGEST_JUDGE} bytes, got {size}")
    print(f"{path.name}: {size} bytes, {judge.sha256}\n{'label':18}accuracy  balanced  blurred")
    for name in judge.labels.names:
        tables = (judge.record.accuracy, judge.record.balanced_accuracy, judge.record.blurred_accuracy)
        print(f"{name:18}" + "".join(f"{table[name]:<10.4f}" for table in tables))


def ship_checkpoint(only: list[str]) -> None:
    """Trains the demo's checkpoint with the command in docs/reproduction.md, and copies it into the package."""
    if only:
        raise SystemExit("checkpoint takes no names of metrics")
    trained = WORK / CHECKPOINT
    trained.parent.mkdir(parents=True, exist_ok=True)
    command = ["train", "ccvae", "--data", "faces", *CHECKPOINT_SETTINGS, "--out", str(trained), "--resume"]
    subprocess.run([sys.executable, "-m", "ccvae_eval.cli.main", *command], check=True)
    size = trained.stat().st_size
    if size > LARGEST_CHECKPOINT:
        raise SystemExit(f"{trained.name} must have at most {LARGEST_CHECKPOINT} bytes, got {size}")
    shutil.copyfile(trained, ASSETS / CHECKPOINT)
    print(f"{CHECKPOINT}: {size} bytes")


def ship_references(only: list[str]) -> None:
    """Measures the reference model in the evaluations of ``demo``, ``run`` and each metric with a smaller sample."""
    path = ASSETS / REFERENCES
    data = open_data("faces")
    model = oracle(data)
    largest = max(metric_named(name).default_sample for name in DEFAULT_METRICS)
    smaller = [(name,) for name in DEFAULT_METRICS if metric_named(name).default_sample < largest]
    evaluations = [(names, None, {}) for names in (DEFAULT_METRICS, *smaller)]
    evaluations.insert(0, (DEFAULT_METRICS, DEMO_IMAGES, DEMO_OPTIONS))
    tables: dict[str, Table] = json.loads(path.read_text()) if only else {}
    renewed = {metric_named(name).headline for name in only}
    # the first row of a table is the metric's headline
    tables = {key: table for key, table in tables.items() if table[0][0] not in renewed}
    for metrics, sample, options in evaluations:
        planned = plan(model, data, metrics, options=options, sample=sample, device="cpu")
        chosen = tuple(part for part in planned.parts if part.metric.name in (only or DEFAULT_METRICS))
        planned = replace(planned, parts=chosen)
        tables |= tables_of(run(planned), planned.subject, planned.metrics)
        print(f"{len(tables)} tables after {', '.join(metrics)} on {sample or 'the default number of'} images")
        path.write_text(json.dumps(tables, separators=(",", ":"), sort_keys=True) + "\n")
    print(f"{path.name}: {path.stat().st_size} bytes")


SHIPMENTS = {"judge": ship_judge, "checkpoint": ship_checkpoint, "references": ship_references}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=SHIPMENTS)
    parser.add_argument("only", nargs="*")
    ASSETS.mkdir(exist_ok=True)
    arguments = parser.parse_args()
    SHIPMENTS[arguments.what](arguments.only)
