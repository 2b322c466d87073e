"""Records the numbers of a fixed set of small runs, and compares current numbers with a record.

python tools/regression.py record FILE             run every case and write its numbers
python tools/regression.py record --portable FILE  write a record for other machines: rounded, without array digests
python tools/regression.py check FILE              compare with a tolerance: 1e-4 relative or 3/n, whichever is wider
python tools/regression.py check --exact FILE      compare every value, interval, chance level and evidence array bit by
                                                   bit; for one machine, before and after a refactoring

``--case NAME`` (repeatable) selects cases. Texts (notes, reasons, units) are not compared.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

SAMPLE, SEED = 64, 3
METRICS = (
    "density", "measurement", "locality", "drift", "diversity", "accuracy", "reconstruction", "intervention",
    "generation", "disentanglement",
)  # fmt: skip
MODELS = (
    "vae", "ccvae", "mccvae", "beta-ccvae", "csvae", "condvae", "condvae-info", "m2", "diva", "adapted-diva", "mvae",
)  # fmt: skip
MODEL_OPTIONS = {"diva": ["--set", "domain=Hair_Color"]}
FIXTURES = Path(os.environ.get("CCVAE_EVAL_SHARED", Path(__file__).parents[2] / "shared")) / "fixtures"
NUMBERS = ("value", "low", "high", "chance", "reference")
RELATIVE, COUNTS = 1e-4, 3.0

Row = list[Any]
"""Address, value, low, high, chance, reference, n, excluded."""


def _plain(number: float | None) -> float | None:
    return None if number is None or math.isnan(number) else float(number)


def _array(array: Any) -> dict[str, Any]:
    found = np.ascontiguousarray(array)
    return {"shape": list(found.shape), "sha256": sha256(f"{found.dtype}".encode() + found.tobytes()).hexdigest()}


def rows_of(run: Any) -> dict[str, Any]:
    """The numbers of a run: one row for each value, and a digest of each evidence array."""
    rows: list[Row] = []
    for measurement in run:
        for value in measurement.values:
            at = ";".join(f"{key}={condition}" for key, condition in sorted(value.at.items()))
            estimate = value.estimate
            numbers = (estimate.value, estimate.low, estimate.high, value.chance, value.reference)
            address = f"{measurement.metric}.{value.name}@{value.characteristic or ''}[{at}]"
            rows.append([address, *map(_plain, numbers), estimate.n, value.excluded])
    arrays = {f"{m.metric}/{name}": _array(array) for m in run for name, array in sorted(m.evidence.items())}
    return {"status": {m.metric: m.status for m in run}, "rows": rows, "evidence": arrays}


def _shipped() -> Any:
    import ccvae_eval

    with as_file(files("ccvae_eval") / "assets" / "ccvae-faces64.pt") as path:
        return ccvae_eval.load(path)


def shipped_model() -> dict[str, Any]:
    """Every metric on the shipped checkpoint."""
    import ccvae_eval

    return rows_of(ccvae_eval.evaluate(_shipped(), "faces", METRICS, sample=SAMPLE, seed=SEED, device="cpu"))


def without_judge() -> dict[str, Any]:
    """The default metrics without a judge and without references."""
    import ccvae_eval

    run = ccvae_eval.evaluate(
        _shipped(), "faces", sample=SAMPLE, seed=SEED, device="cpu", judge="none", references=False
    )
    return rows_of(run)


def model_without_labels() -> dict[str, Any]:
    """The shipped networks as a VAE without labels: latent dimensions are assigned to labels by the evaluation."""
    import ccvae_eval

    opened = _shipped()
    model = ccvae_eval.wrap(
        encode=opened.model.encode, decode=opened.model.decode, characteristics={}, dim=opened.model.layout.dim
    )
    run = ccvae_eval.evaluate(model, "faces", METRICS, sample=SAMPLE, seed=SEED, device="cpu", references=False)
    return rows_of(run)


def points() -> dict[str, Any]:
    """A linear model of the Swiss roll, for data that are points instead of images."""
    import torch

    import ccvae_eval
    from ccvae_eval import Gaussian

    mix = torch.tensor([[0.1, 0.02, 0.0], [0.01, 0.05, 0.02], [0.0, 0.03, 0.1]])
    back = torch.linalg.inv(mix.double()).float()

    def encode(points: Any) -> Any:
        return Gaussian(points @ mix, torch.full((len(points), 3), 0.1))

    model = ccvae_eval.wrap(
        encode=encode, decode=lambda codes: codes @ back, characteristics={"far": [0]}, dim=3,
        labels=ccvae_eval.binary_schema("far"),
    )  # fmt: skip
    metrics = ("density", "accuracy", "reconstruction", "disentanglement")
    run = ccvae_eval.evaluate(model, "swissroll,n=2000", metrics, sample=500, seed=SEED, device="cpu", judge="none")
    return rows_of(run)


def _panel(codes: Any, factors: Any) -> dict[str, Any]:
    from ccvae_eval.metrics.disentanglement import Disentanglement
    from ccvae_eval.metrics.disentanglement.arrays import score_arrays

    return rows_of(score_arrays(codes, factors, Disentanglement(every=True), seed=SEED))


def panel() -> dict[str, Any]:
    """Every score of the disentanglement panel on synthetic codes."""
    generator = np.random.default_rng(SEED)
    factors = np.stack([generator.integers(0, levels, 1500) for levels in (2, 3, 6, 10)], axis=1)
    noise = generator.standard_normal((1500, 6))
    codes = noise + factors @ generator.standard_normal((4, 6))
    return _panel(codes, factors)


def panel_fixtures() -> dict[str, Any]:
    """The panel on the reference codes, if the folder of shared data is available."""
    path = FIXTURES / "metrics_parity_dev.npz"
    if not path.exists():
        return {"skipped": f"{path.name} is missing"}
    with np.load(path) as arrays:
        rows = slice(0, 1000)
        return {name: _panel(arrays[name][rows], arrays["factors"][rows]) for name in ("codes_aligned", "codes_mixed")}


def calibration() -> dict[str, Any]:
    """Two metrics at three strengths of each of their own perturbations."""
    import ccvae_eval

    found = ccvae_eval.calibrate(("density", "reconstruction"), sample=16, steps=3, seed=SEED, foreign=False)
    plain = found.as_plain()
    rows: list[Row] = []
    for row, curve in zip(plain["calibration"], plain["curves"], strict=True):
        address = f"{row['metric']}.{row['value']}~{row['dial']}"
        if row["own"]:
            rows.append([f"{address}[passed]", float(row["passed"] or 0), None, None, row["spearman"], None, 16, 0])
        for step, strength in enumerate(curve["strengths"]):
            numbers = (curve["values"][step], curve["low"][step], curve["high"][step], curve["known"][step])
            rows.append([f"{address}[{strength}]", *numbers, None, 16, 0])
    return {"status": {}, "rows": rows, "evidence": {}}


def training() -> dict[str, Any]:
    """Three training steps of every model: the digest of its weights, and a small evaluation.

    Training amplifies differences between machines, so only ``--exact`` compares this case.
    """
    import ccvae_eval
    from ccvae_eval.cli.main import main

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            path = Path(folder) / f"{name}.pt"
            command = ["train", name, "--data", "faces,size=32,n=400", "--steps", "3", "--batch-size", "32"]
            command += ["--supervision", "0.5", "--seed", "1", "--device", "cpu", "--out", str(path), "--quiet"]
            command += MODEL_OPTIONS.get(name, [])
            try:
                main(command)
            except SystemExit as end:
                if end.code:
                    raise
            opened = ccvae_eval.load(path)
            weights = {key: _array(tensor.numpy()) for key, tensor in sorted(opened.model.state_dict().items())}
            run = ccvae_eval.evaluate(
                opened, "faces,size=32,n=400", ("density", "accuracy", "reconstruction", "intervention"), sample=24,
                seed=SEED, device="cpu", judge="none", references=False,
            )  # fmt: skip
            found[name] = {**rows_of(run), "weights": weights}
    return found


CASES: Mapping[str, Callable[[], dict[str, Any]]] = {
    "shipped": shipped_model,
    "without-judge": without_judge,
    "without-labels": model_without_labels,
    "points": points,
    "panel": panel,
    "panel-fixtures": panel_fixtures,
    "calibration": calibration,
    "training": training,
}
EXACT_ONLY = ("panel-fixtures", "training")
"""Cases that a portable record omits: data that other machines may lack, and trained weights."""


def differences(expected: Mapping[str, Any], found: Mapping[str, Any], *, exact: bool, where: str) -> Iterator[str]:
    """Yields the differences between two records of a case, one line each."""
    if "rows" not in expected:
        if "skipped" in expected or "skipped" in found:
            return
        for name in expected:
            yield from differences(expected[name], found.get(name, {}), exact=exact, where=f"{where}/{name}")
        return
    if expected["status"] != found.get("status"):
        yield f"{where}: status was {expected['status']}, is {found.get('status')}"
    before = {row[0]: row for row in expected["rows"]}
    after = {row[0]: row for row in found.get("rows", ())}
    for address in before.keys() | after.keys():
        if address not in before or address not in after:
            yield f"{where}: {address} is {'new' if address in after else 'missing'}"
            continue
        old, new = before[address], after[address]
        if exact:
            if old != new:
                yield f"{where}: {address} was {old[1:]}, is {new[1:]}"
            continue
        n = max(int(old[6]), 1)
        for name, one, other in zip(NUMBERS, old[1:6], new[1:6], strict=True):
            if (one is None) != (other is None) or (
                one is not None and abs(one - other) > max(RELATIVE * abs(one), COUNTS / n)
            ):
                yield f"{where}: {name} of {address} was {one}, is {other}"
    for kind in ("evidence", "weights"):
        for name, array in expected.get(kind, {}).items():
            current = found.get(kind, {}).get(name)
            if current is None or (current != array if exact else current["shape"] != array["shape"]):
                yield f"{where}: {kind} {name} differs"


def measured(names: list[str]) -> dict[str, Any]:
    """Runs the cases by name; the result is passed through JSON, so that it compares equal to one read from a file."""
    found = {}
    for name in names:
        print(name, file=sys.stderr, flush=True)
        found[name] = CASES[name]()
    document: dict[str, Any] = json.loads(json.dumps(found))
    return document


def portable(found: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that other machines reproduce: numbers with seven digits, no digests, no trained weights."""

    def rounded(cell: Any) -> Any:
        return float(f"{cell:.7g}") if isinstance(cell, float) else cell

    return {
        name: {"status": case["status"], "rows": [[rounded(cell) for cell in row] for row in case["rows"]]}
        for name, case in found.items()
        if name not in EXACT_ONLY
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--exact", action="store_true", help="check: equal in every bit")
    parser.add_argument("--portable", action="store_true", help="record: for other machines")
    parser.add_argument("--case", action="append", choices=CASES)
    arguments = parser.parse_args()
    if arguments.what == "record":
        found = measured(arguments.case or list(CASES))
        arguments.file.parent.mkdir(parents=True, exist_ok=True)
        if arguments.portable:
            found = portable(found)
        text = "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in found.items()) + "\n}\n"
        arguments.file.write_text(text)
        return
    expected = json.loads(arguments.file.read_text())
    names = arguments.case or [name for name in expected if arguments.exact or name not in EXACT_ONLY]
    found = measured(names)
    lines = [
        line for name in names for line in differences(expected[name], found[name], exact=arguments.exact, where=name)
    ]
    print(*lines, sep="\n")
    counted = sum(json.dumps(expected[name]).count('"sha256"') for name in names)
    print(f"{len(lines)} differences; {len(names)} cases, {counted} arrays", file=sys.stderr)
    raise SystemExit(bool(lines))


if __name__ == "__main__":
    main()
