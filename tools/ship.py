"""Makes the files that the package carries in ``ccvae_eval/assets``; run after a change of what they are made from.

python tools/ship.py judge         the judge of faces at 64 pixels (about three minutes on two cores)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ccvae_eval
from ccvae_eval.data.opening import open_data
from ccvae_eval.judge import train_judge
from ccvae_eval.judge.choosing import SHIPPED

ASSETS = Path(ccvae_eval.__file__).parent / "assets"

JUDGE_DATA = "faces,size=64,seed=64,n=60000"
"""A seed of its own: no image that anybody evaluates was seen by the judge, whatever its ``n`` and split."""
JUDGE_STEPS = 2000
LARGEST_JUDGE = 200_000


def ship_judge() -> None:
    """Trains the judge and says how good it is."""

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


SHIPMENTS = {"judge": ship_judge}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=SHIPMENTS)
    ASSETS.mkdir(exist_ok=True)
    SHIPMENTS[parser.parse_args().what]()
