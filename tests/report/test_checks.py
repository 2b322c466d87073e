"""Each check finds what it is made for, and nothing in a run without faults; docs/checks.md has its paragraph."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ccvae_eval.core.results import Estimate, Measurement, Reason, Value
from ccvae_eval.evaluation.run import Run
from ccvae_eval.report.checks import CHECKS, SEVERITIES, findings
from tests.support.runs import IMAGES, LABELS, measurement, run_of, undefined, value

DOCS = Path(__file__).parents[2] / "docs" / "checks.md"


def _with_labels(**classes: Sequence[int]) -> Measurement:
    evidence = {f"label/{name}": np.array(column, dtype=float) for name, column in classes.items()}
    return measurement("density", "auc", [value("auc", 0.9, name) for name in LABELS], evidence=evidence)


def _locality(values: Sequence[Value] = (), **more: object) -> Measurement:
    rows = [value("focus", 0.5), *(value("focus", 0.5, name) for name in LABELS)]
    return measurement("locality", "focus", [*rows, *values], **more)


def _unlike(measured: Measurement, **changes: object) -> Run:
    return run_of(replace(measured, **changes))


HALVES = [0, 1] * (IMAGES // 2)
QUARTERS = [0, 0, 1, 1] * (IMAGES // 4)
NO_IMAGE = "balanced accuracy of the judge on the reconstructions only 0.61"

TRIGGERS: dict[str, tuple[Run, str]] = {
    "CE001": (run_of(_locality(), seen_in_training=True, split="train"), "images of split train were used in training"),
    "CE002": (run_of(_locality(notes=(f"Smiling: {NO_IMAGE}, not judged",))), f"Smiling: {NO_IMAGE}"),
    "CE003": (
        run_of(measurement("drift", "spill", [], notes=("ranks clipped by transport: Eyeglasses 2.0%, Smiling 31.2%",
                                                        ))),
        "clipped: Smiling 31%",
    ),
    "CE004": (run_of(_with_labels(Eyeglasses=HALVES, Smiling=HALVES)), r"Eyeglasses and Smiling \(1.00\)"),
    "CE005": (
        run_of(_with_labels(Eyeglasses=[1] * 5 + [0] * 55, Smiling=HALVES)), r"Eyeglasses=present \(5\)",
    ),
    "CE006": (
        run_of(measurement("reconstruction", "mse", [value("mse", 0.1), value("kl", 0.001, "Smiling")])), "Smiling",
    ),
    "CE007": (run_of(_locality([value("changed", 0.9, "Smiling", note="given; other")])), "these labels: Smiling"),
    "CE008": (
        run_of(measurement("locality", "focus", [
            replace(undefined("focus", note="undefined for every characteristic: has no region"), remedy="--sample 640")
        ])),
        r"locality.focus has no value: has no region. Add --sample 640\.",
    ),
    "CE009": (run_of(measurement("locality", "focus", [value("focus", 0.5, "Smiling")])), "their own: Eyeglasses"),
    "CE010": (
        _unlike(_locality(), status="failed", reason=Reason("nan", "the decoder gave NaN")),
        "locality failed: the decoder gave NaN",
    ),
    "CE011": (run_of(_locality([value("changed", 0.9, "Smiling", note="assigned")])), "assigned to Smiling"),
    "CE012": (run_of(_locality([value("changed", 0.2, "Smiling")])), r"Fewer than 50% .* than noise: Smiling \(0.20\)"),
    "CE013": (
        run_of(measurement("locality", "focus", [value("focus", 0.5, "Smiling"),
               undefined("focus", "Eyeglasses", "has no region")])),
        r"locality.focus is undefined for Eyeglasses \(has no region\)",
    ),
    "CE014": (
        _unlike(_locality(), status="unsupported", reason=Reason("unsupported", "needs images")), "needs images",
    ),
    "CE016": (
        run_of(measurement("reconstruction", "mse", [replace(value("mse", 0.05), chance=0.04)])),
        "MSE is 0.050; the mean image of the data has 0.040",
    ),
    "CE017": (
        run_of(measurement("drift", "spill", [value("spill", 0.0), value("textured", 0.2, "Smiling")])),
        "region: Smiling",
    ),
    "CE018": (
        run_of(measurement("disentanglement", "infom", [replace(value("active_codes", 3.0), note="inactive: z4, z5")])),
        "z4, z5",
    ),
    "CE015": (run_of(_locality([undefined("selectivity", "Smiling", "needs a judge")])), "locality.selectivity"),
}  # fmt: skip


@pytest.mark.parametrize("code", CHECKS)
def test_each_check_finds_its_fault(code: str) -> None:
    run, sentence = TRIGGERS[code]
    found = {finding.check.code: finding.sentence for finding in findings(run)}
    assert re.search(sentence, found[code])


def test_a_run_without_faults_has_no_findings() -> None:
    good = _with_labels(Eyeglasses=HALVES, Smiling=QUARTERS)
    mse, kl = replace(value("mse", 0.01), chance=0.04), value("kl", 2.0, "Smiling")
    others = [value("mse", 0.01, "Smiling"), value("kl", 0.0, "Smiling", at={"column": "z0"})]
    reconstruction = measurement("reconstruction", "mse", [mse, kl, *others])
    drift = measurement("drift", "spill", [value("spill", 0.1, "Smiling"), value("textured", 5.0, "Smiling")])
    locality = _locality([value("changed", 0.9, "Smiling")])
    assert findings(run_of(good, locality, drift, reconstruction, seen_in_training=False)) == []


def test_labels_of_samples_of_different_size_are_not_compared() -> None:
    run = run_of(_with_labels(Eyeglasses=HALVES, Smiling=HALVES[:50]))
    assert "CE004" not in {finding.check.code for finding in findings(run)}


def test_a_missing_label_is_no_class() -> None:
    missing = measurement("density", "auc", [value("auc", 0.9, n) for n in LABELS],
                          evidence={"label/Smiling": np.array([0.0] * 30 + [1.0] * 15 + [np.nan] * 15)})  # fmt: skip
    (found,) = (finding for finding in findings(run_of(missing)) if finding.check.code == "CE005")
    assert found.sentence.endswith("images: Smiling=present (15).")


def test_inactive_latent_dimensions_are_named() -> None:
    panel = Value("active_codes", Estimate(3.0, n=60), note="inactive: z4, z5")
    (found,) = findings(run_of(measurement("disentanglement", "infom", [value("infom", 0.5), panel])))
    assert found.check.code == "CE018"
    assert found.check.severity == "note", "a dimension of the style is no fault"
    assert found.sentence == "These latent dimensions tell nothing about the labels (n = 60): z4, z5."


def test_clipped_ranks_of_the_intervention_metric_count_too() -> None:
    note = "Smiling: 40% of the codes lie outside the quantiles 0.005 to 0.995 of their class"
    (found,) = findings(run_of(measurement("intervention", "effect", [value("effect", 0.5)], notes=(note,))))
    assert found.sentence.endswith("Smiling 40%.")


def test_the_worst_finding_comes_first() -> None:
    run = run_of(_locality([value("changed", 0.2, "Smiling", note="given")]), seen_in_training=True)
    severities = [finding.check.severity for finding in findings(run)]
    assert severities == sorted(severities, key=SEVERITIES.index)
    assert severities[0] == "error"


def test_a_name_with_special_characters_is_found_in_the_notes() -> None:
    run = run_of(_locality(notes=(f"a+b (c): {NO_IMAGE}, not judged",)), labels=("a+b (c)", *LABELS))
    assert next(f.sentence for f in findings(run) if f.check.code == "CE002") == f"a+b (c): {NO_IMAGE}."


def test_the_accuracy_of_the_judge_on_real_images_tells_blur_from_a_weak_judge() -> None:
    run = run_of(_locality(notes=(f"Smiling: {NO_IMAGE}, not judged", f"Eyeglasses: {NO_IMAGE}, not judged")))
    run = replace(run, header=replace(run.header, judge={"balanced_accuracy": {"Smiling": 0.894}}))
    (finding,) = (f for f in findings(run) if f.check.code == "CE002")
    assert finding.sentence == f"Eyeglasses: {NO_IMAGE}, Smiling: {NO_IMAGE} (0.89 on real images)."


def test_the_docs_have_the_paragraph_of_each_check() -> None:
    sections = re.findall(
        r"^## (CE\d{3}): (.+)\n\n\*(\w+)\.\* ([^#]+)\n\nRemedy: ([^#]+)$", DOCS.read_text(), re.MULTILINE
    )
    written = {code: (title, severity, " ".join(text.replace("`", "").split()), " ".join(remedy.split()))
               for code, title, severity, text, remedy in sections}  # fmt: skip
    assert written == {
        check.code: (check.title, check.severity, check.explanation, check.remedy) for check in CHECKS.values()
    }
