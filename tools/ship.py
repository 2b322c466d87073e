"""Makes the files that the package carries in ``ccvae_eval/assets``; run after a change of what they are made from.

python tools/ship.py judge         the judge of faces at 64 pixels (about three minutes)
python tools/ship.py checkpoint    the demo's checkpoint (half an hour); stop it with Ctrl-C and call it again to go on
python tools/ship.py references    what the oracle reaches in the default evaluations of faces (about six minutes);
                                   after the judge, and after every new version or default of a metric; with names
                                   of metrics only theirs are measured again, the others stay as they are
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
from ccvae_eval.api import CARD, metric_named, set_up
from ccvae_eval.cli.demo import ASSET as CHECKPOINT
from ccvae_eval.cli.demo import DEMO_IMAGES
from ccvae_eval.data.spec import open_data
from ccvae_eval.judge import train_judge
from ccvae_eval.judge.selection import SHIPPED
from ccvae_eval.oracle.model import oracle
from ccvae_eval.oracle.references import SHIPPED as REFERENCES
from ccvae_eval.oracle.references import Table, tables_of

ASSETS = Path(ccvae_eval.__file__).parent / "assets"

JUDGE_DATA = "faces,size=64,seed=64,n=60000"
"""A seed of its own: no image that anybody evaluates was seen by the judge, whatever its ``n`` and split."""
JUDGE_STEPS = 2000
LARGEST_JUDGE = 200_000

WORK = Path("build/ship")
CHECKPOINT_SETTINGS = [
    "--rate",
    "0.5",
    "--steps",
    "12000",
    "--set",
    "likelihood=laplace",
    "--batch",
    "64",
    "--average",
    "0.999",
    "--seed",
    "1",
    "--half",
]
LARGEST_CHECKPOINT = 3_000_000


def ship_judge(only: list[str]) -> None:
    """Trains the judge and says how good it is."""
    if only:
        raise SystemExit("the judge is one for all")

    def progress(done: int, total: int) -> None:
        if done % 100 == 0:
            print(f"{done} of {total} steps")

    judge = train_judge(open_data(JUDGE_DATA), seed=0, steps=JUDGE_STEPS, progress=progress)
    path = ASSETS / SHIPPED
    judge.save(path)
    size = path.stat().st_size
    if size > LARGEST_JUDGE:
        raise SystemExit(f"{path.name} has {size} bytes, {LARGEST_JUDGE} are allowed")
    print(f"{path.name}: {size} bytes, {judge.sha256}\n{'label':18}accuracy  balanced  blurred")
    for name in judge.labels.names:
        tables = (judge.record.accuracy, judge.record.balanced_accuracy, judge.record.blurred_accuracy)
        print(f"{name:18}" + "".join(f"{table[name]:<10.4f}" for table in tables))


def ship_checkpoint(only: list[str]) -> None:
    """Trains the demo's checkpoint with the command that docs/reproduction.md names, and puts it into the package."""
    if only:
        raise SystemExit("the checkpoint is one for all")
    made = WORK / CHECKPOINT
    made.parent.mkdir(parents=True, exist_ok=True)
    command = ["train", "ccvae", "--data", "faces", *CHECKPOINT_SETTINGS, "--out", str(made), "--resume"]
    subprocess.run([sys.executable, "-m", "ccvae_eval.cli.main", *command], check=True)
    size = made.stat().st_size
    if size > LARGEST_CHECKPOINT:
        raise SystemExit(f"{made.name} has {size} bytes, {LARGEST_CHECKPOINT} are allowed")
    shutil.copyfile(made, ASSETS / CHECKPOINT)
    print(f"{CHECKPOINT}: {size} bytes")


def ship_references(only: list[str]) -> None:
    """Measures the oracle as the demo, a plain ``run`` and the command of each metric with a smaller sample would."""
    path = ASSETS / REFERENCES
    data = open_data("faces")
    model = oracle(data)
    largest = max(metric_named(name).default_sample for name in CARD)
    evaluations: list[tuple[tuple[str, ...], int | None]] = [(CARD, DEMO_IMAGES), (CARD, None)]
    evaluations += [((name,), None) for name in CARD if metric_named(name).default_sample < largest]
    tables: dict[str, Table] = json.loads(path.read_text()) if only else {}
    again = {metric_named(name).headline for name in only}
    # a metric's first row is of its headline
    tables = {key: table for key, table in tables.items() if table[0][0] not in again}
    for metrics, sample in evaluations:
        setup = set_up(model, data, metrics, sample=sample, device="cpu", references=False)
        chosen = tuple(metric for metric in setup.metrics if metric.name in (only or CARD))
        setup = replace(setup, metrics=chosen)
        tables |= tables_of(setup.measure(), setup.subject, chosen)
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
