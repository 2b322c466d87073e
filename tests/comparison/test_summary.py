"""A comparison in words."""

from __future__ import annotations

import math
from dataclasses import replace

from ccvae_eval.comparison.compare import compare
from ccvae_eval.comparison.summary import notes, verdicts
from tests.support.comparisons import model


def test_a_verdict_names_what_is_better_and_counts_the_rest() -> None:
    good, bad = model(1, 1.0), model(2)
    assert verdicts(compare(good, bad)) == [
        "A is better in locality.focus, drift.spill, accuracy.balanced_accuracy and density.auc."
    ]
    assert verdicts(compare(bad, good))[0].startswith("B is better in locality.focus, drift.spill, ")


def test_equal_models_have_no_evidence_of_a_difference() -> None:
    run = model(1)
    assert verdicts(compare(run, run)) == [
        "No evidence of a difference between A and B in any of 4 values; they are equal on all images."
    ]


def test_a_value_without_direction_is_higher_and_one_that_is_not_compared_is_counted() -> None:
    found = compare(model(1, 1.0), model(2))
    first, second, *others = found.values
    undefined = replace(second, difference=replace(second.difference, value=math.nan), adjusted_p=math.nan)
    changed = replace(found, values=(replace(first, higher_is_better=None), undefined, *others))
    (sentence,) = verdicts(changed)
    assert "A is higher in locality.focus, which has no direction." in sentence
    assert sentence.endswith("1 value is not compared.")


def test_a_comparison_of_one_value() -> None:
    run = model(1)
    assert verdicts(compare(run, run, values=["locality.focus@Hat"])) == [
        "No evidence of a difference between A and B in 1 value; they are equal on all images."
    ]


def test_single_characteristics_count_if_there_is_no_mean() -> None:
    found = compare(model(1, 1.0), model(2), values=["locality.focus@Hat"])
    assert verdicts(found) == ["A is better in locality.focus@Hat."]


def test_each_pair_of_three_models_has_a_sentence() -> None:
    sentences = verdicts(compare(model(1, 2.0), model(2), model(3)))
    assert [sentence.partition(":")[0] for sentence in sentences] == ["A and B", "A and C", "B and C"]
    assert sentences[0].startswith("A and B: A is better in locality.focus, ")


def test_many_models_are_described_one_by_one() -> None:
    best, *others = model(1, 2.0), model(2), model(3), model(4)
    assert verdicts(compare(best, *others)) == [
        "A is better than every other model in locality.focus, drift.spill, accuracy.balanced_accuracy and density.auc."
    ]
    same = model(1)
    assert verdicts(compare(same, same, same, same)) == [
        "No model is better than every other model in any of 4 values."
    ]


def test_notes_name_the_unit_and_the_families() -> None:
    found = compare(model(1), model(2))
    assert notes(found)[0] == "unit: images (200); the verdicts hold for images like these"
    assert "among 4 tests of means and among 6 tests of single characteristics" in notes(found)[1]
