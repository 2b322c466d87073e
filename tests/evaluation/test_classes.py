"""Values by class of another label (``--by``): rows of the classes, the worst class, and the gap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ccvae_eval
from ccvae_eval.comparison.compare import compare
from ccvae_eval.comparison.gate import Rule, check_rules
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import Value, spec_at
from ccvae_eval.evaluation.result_table import Mean, RatioOfSums, ResultTable, Undefined
from ccvae_eval.evaluation.run import Address, Run
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.storage import read, write
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.accuracy.metric import Accuracy, BalancedAccuracy
from ccvae_eval.metrics.density.metric import Density
from ccvae_eval.metrics.locality.metric import Locality
from ccvae_eval.metrics.reconstruction.metric import Reconstruction
from ccvae_eval.metrics.shared.contrasts import RocAuc
from ccvae_eval.model.interface import Label, LabelSchema
from ccvae_eval.report import terminal
from ccvae_eval.report.page.answer import metric_parts
from ccvae_eval.statistics.resampling import ResampleWeights
from tests.support.fakes import SCHEMA, Squares, SquaresJudge, SquaresVAE

pytestmark = pytest.mark.oracle

COUNT = 120
ADDRESSES = ("accuracy.accuracy", "reconstruction.mse")


class Forgetful(SquaresVAE):
    """Loses the colours of images with glasses: its predictions and reconstructions of them are worse."""

    def encode(self, images: Any, labels: Any = None) -> Any:
        found = super().encode(images, labels)
        lost = (found.loc[:, :1] > 0) & (torch.arange(found.loc.shape[1]) == 4)
        return replace(found, loc=torch.where(lost, 0.3 * found.loc, found.loc))


def metrics() -> list[Any]:
    return [Accuracy(least=4), Reconstruction(importance=0)]


def measured(ids: Any, by: str | None = "Glasses", model: Any = None, labels: Any = None, **more: Any) -> Run:
    data = Squares(COUNT, **more)
    subject = prepare(
        model or Forgetful(), data, np.asarray(ids), judge=SquaresJudge(), by=by, characteristics=labels
    )  # fmt: skip
    run = measure(subject, metrics())
    return replace(run, header=replace(run.header, data={"name": data.spec, "by": by, "n": len(subject)}))


@pytest.fixture(scope="module")
def run() -> Run:
    return measured(np.arange(COUNT))


def has(run: Run, address: str) -> Value:
    return run.find(address)


def glasses(ids: Any = range(COUNT)) -> np.ndarray:
    return Squares(COUNT).labels_of(np.asarray(ids))[:, 0]


@pytest.mark.parametrize(("name", "value"), [("absent", 0), ("present", 1)])
def test_a_class_has_the_value_of_an_evaluation_of_its_images(run: Run, name: str, value: int) -> None:
    alone = measured(np.flatnonzero(glasses() == value), by=None)
    for address in ADDRESSES:
        table, own = run.table(*address.split("."), by=f"Glasses:{name}"), alone.table(*address.split("."))
        assert table
        for characteristic, found in table.items():
            assert found.estimate.value == pytest.approx(own[characteristic].estimate.value, abs=1e-12)
            assert found.estimate.n == own[characteristic].estimate.n


def test_the_gap_is_the_difference_of_the_classes_and_the_worst_is_the_worse_one(run: Run) -> None:
    for address, higher in zip(ADDRESSES, (True, False), strict=True):
        one, other = (has(run, f"{address}/by=Glasses:{name}").estimate for name in ("absent", "present"))
        gap, worst = (has(run, f"{address}/by=Glasses:{name}") for name in ("gap", "worst"))
        assert gap.estimate.value == pytest.approx(abs(one.value - other.value), abs=1e-15)
        assert gap.estimate.low <= gap.estimate.value <= gap.estimate.high
        assert worst.estimate.value == (min if higher else max)(one.value, other.value)
        assert worst.note == "Glasses:present"
        assert gap.estimate.low > 0, "the model loses what it needs where there are glasses"


def test_values_of_all_images_are_not_changed(run: Run) -> None:
    plain = measured(np.arange(COUNT), by=None)
    for m, other in zip(run, plain, strict=True):
        own = [v for v in m.values if "by" not in v.at]
        assert [(v.key, v.estimate) for v in own] == [(v.key, v.estimate) for v in other.values]


def test_another_label_of_the_data_may_divide_the_images() -> None:
    """The model need not have the label."""

    class WithoutGlasses(SquaresVAE):
        def __init__(self) -> None:
            super().__init__()
            self.labels = SCHEMA.select(["Smile", "Hair"])
            kept = {name: columns for name, columns in self.layout.characteristics.items() if name != "Glasses"}
            self.layout = replace(self.layout, characteristics=kept)

        def predict(self, images: Any, codes: Any) -> Any:
            return {name: p for name, p in super().predict(images, codes).items() if name != "Glasses"}

    found = measured(np.arange(COUNT), model=WithoutGlasses())
    alone = measured(np.flatnonzero(glasses() == 1), by=None, model=WithoutGlasses())
    value = has(found, "accuracy.accuracy@Smile/by=Glasses:present")
    assert value.estimate.value == alone["accuracy.accuracy@Smile"]


def test_a_rare_class_is_undefined_with_its_reason() -> None:
    few = np.concatenate([np.flatnonzero(glasses() == 0), np.flatnonzero(glasses() == 1)[:7]])
    found = measured(few)
    for address in ADDRESSES:
        rare = has(found, f"{address}/by=Glasses:present")
        assert not rare.estimate.defined
        gap = has(found, f"{address}/by=Glasses:gap")
        assert not gap.estimate.defined
        assert gap.note == "fewer than two classes have enough images"
        assert has(found, f"{address}/by=Glasses:absent").estimate.defined
    one = has(found, "accuracy.accuracy@Smile/by=Glasses:present")
    assert one.note == "only 7 images of class Glasses:present, 20 are needed"


def test_a_rare_class_of_three_leaves_the_gap_of_the_others() -> None:
    hair = Squares(COUNT).labels_of(np.arange(COUNT))[:, 2]
    few = np.concatenate([np.flatnonzero(hair < 2), np.flatnonzero(hair == 2)[:7]])
    found = measured(few, by="Hair")
    gap = has(found, "accuracy.accuracy@Smile/by=Hair:gap")
    assert gap.estimate.defined
    assert (gap.excluded, gap.note) == (1, "without Hair:Brown")


def test_images_without_the_label_are_in_no_class() -> None:
    found = measured(np.arange(COUNT), missing=0.2)
    counts = [has(found, f"reconstruction.mse/by=Glasses:{name}").estimate.n for name in ("absent", "present")]
    labels = Squares(COUNT, missing=0.2).labels_of(np.arange(COUNT))[:, 0]
    assert counts == [int((labels == k).sum()) for k in (0, 1)]
    assert sum(counts) < COUNT


def table_by(groups: dict[str, Sequence[int]], n: int) -> ResultTable:
    subject = prepare(SquaresVAE(), Squares(n), np.arange(n), by="Hair")
    masks = {name: np.isin(np.arange(n), rows) for name, rows in groups.items()}
    object.__setattr__(subject, "groups", replace(subject.groups, images=masks))
    return ResultTable(Locality(), subject, ResampleWeights(0, n, 200))


def test_means_of_the_classes_cover_the_same_characteristics() -> None:
    """A characteristic that one class lacks enters the mean of no class."""
    table = table_by({"a": range(30), "b": range(30, 60)}, 60)
    values = np.random.default_rng(0).random(60)
    table.add("focus", "Glasses", Mean(values))
    table.add("focus", "Smile", Mean(np.where(np.arange(60) < 35, values + 1, np.nan)))
    found = {(v.characteristic, v.at.get("by")): v for v in table.measurement([], {}).values}
    for name, rows in (("a", slice(30)), ("b", slice(30, 60))):
        mean = found[None, f"Hair:{name}"]
        assert mean.estimate.value == pytest.approx(values[rows].mean(), abs=1e-12)
        assert mean.excluded == 1
    assert found["Smile", "Hair:a"].estimate.defined
    assert not found["Smile", "Hair:a"].in_mean
    assert not found["Smile", "Hair:b"].estimate.defined
    assert found[None, None].estimate.value == pytest.approx(
        (values.mean() + (values[:35] + 1).mean()) / 2, abs=1e-12
    ), "the mean of all images has both"


def test_a_mean_over_latent_dimensions_leaves_out_images_of_its_class_only() -> None:
    table = table_by({"a": range(30), "b": range(30, 60)}, 60)
    values = np.random.default_rng(2).random(60)
    values[:3] = np.nan
    for column in (0, 1):
        table.add("focus", "Glasses", Mean(values), {"column": column})
    found = {v.at.get("by"): v for v in table.measurement([], {}).values if v.characteristic and "column" not in v.at}
    assert found["Hair:a"].note == "mean over 2 latent dimensions"
    assert [found[by].excluded for by in (None, "Hair:a", "Hair:b")] == [3, 3, 0]


def test_a_ratio_is_that_of_the_sums_in_the_class() -> None:
    table = table_by({"a": range(30), "b": range(30, 60)}, 60)
    u, v = np.random.default_rng(1).random((2, 60))
    table.add("focus", "Glasses", RatioOfSums(u, v))
    found = {v.at.get("by"): v for v in table.measurement([], {}).values if v.characteristic == "Glasses"}
    assert found["Hair:a"].estimate.value == pytest.approx(u[:30].sum() / v[:30].sum(), abs=1e-12)
    assert table.evidence["focus/Glasses/by=Hair:b/numerator"][30:] == pytest.approx(u[30:])


def test_the_area_of_a_class_is_that_of_its_scores() -> None:
    data = Squares(COUNT, agreement=0.5)
    subject = prepare(SquaresVAE(), data, np.arange(COUNT), by="Smile")
    found = measure(subject, [Density()])
    smile = Squares(COUNT, agreement=0.5).labels_of(np.arange(COUNT))[:, 1]
    evidence = found.measurement("density").evidence
    value = found.find("density.auc@Glasses/by=Smile:present")
    column = evidence["auc/Glasses/by=Smile:present/numerator"]
    assert value.estimate.value == pytest.approx(np.nanmean(column), abs=1e-12)
    assert np.isnan(column[smile == 0]).all()
    own = found.find("density.auc@Smile/by=Smile:present")
    assert own.note == "the label is never absent", "a label does not vary within its own class"


@pytest.mark.parametrize(
    "statistic",
    [lambda scores, labels: BalancedAccuracy(scores.round(), labels), lambda *pair: RocAuc(*([one] for one in pair))],
)
def test_a_class_of_images_needs_enough_images_of_each_class_of_the_label(statistic: Any) -> None:
    images, labels = np.arange(60), np.arange(60) % 2.0
    labels[30:] = images[30:] >= 58
    whole = statistic(np.random.default_rng(3).random(60), labels)
    assert whole.within(images >= 30) == Undefined("only 2 images of a class, 8 are needed")
    assert (~np.isnan(whole.within(images < 30).terms()[0])).sum() == 30


def test_labels_without_classes_and_unknown_labels_are_refused() -> None:
    with pytest.raises(UsageError, match="label 'Glases' is unknown") as error:
        measured(np.arange(40), by="Glases")
    assert "Glasses" in str(error.value.hint)

    class Aged(Squares):
        @property
        def schema(self) -> LabelSchema:
            return LabelSchema((*SCHEMA, Label("Age", "continuous"), Label("Kind", "categorical", ("gap", "b"))))

        def labels_of(self, ids: Any) -> Any:
            return np.column_stack([super().labels_of(ids), np.zeros((len(ids), 2), np.float32)])

    for by, message in (("Age", "label 'Age' is continuous"), ("Kind", "class 'gap' of label 'Kind'")):
        with pytest.raises(UsageError, match=message):
            prepare(SquaresVAE(), Aged(40), np.arange(40), by=by)


def test_addresses_of_classes() -> None:
    for text in ("a.b/by=L:x", "a.b@c/by=L:x.low", "a.b@c"):
        assert str(Address.parse(text)) == text
    assert Address.parse("a.b@c/by=L:x y.z") == Address("a", "b", "c", "", "L:x y.z")


def test_an_absent_class_is_refused_with_the_known_ones(run: Run) -> None:
    with pytest.raises(UsageError, match="has no value by 'Glasses:presnt'") as error:
        run.find("accuracy.accuracy/by=Glasses:presnt")
    assert "Glasses:present" in str(error.value.hint)
    with pytest.raises(UsageError) as error:
        measured(np.arange(40), by=None).find("accuracy.accuracy/by=Glasses:gap")
    assert "--by Glasses" in str(error.value.hint)


def test_a_stored_run_has_the_directions_of_its_values(run: Run, tmp_path: Path) -> None:
    write(run, tmp_path)
    stored = read(tmp_path)
    assert stored["accuracy.accuracy/by=Glasses:gap"] == run["accuracy.accuracy/by=Glasses:gap"]
    assert stored.specs["accuracy"]["accuracy"].higher_is_better is True
    rows = {(row["name"], row["characteristic"], row["at"]): row for row in stored.rows()}
    gap = rows["accuracy", None, "by=Glasses:gap"]
    assert (gap["higher_is_better"], gap["range_low"], gap["range_high"]) == (False, 0.0, 1.0)
    spec = replace(stored.specs["accuracy"]["accuracy"], higher_is_better=None, range=(None, 1.0))
    assert spec_at(spec, {"by": "Glasses:gap"}).higher_is_better is None
    assert spec_at(spec, {"by": "Glasses:gap"}).range == (0.0, None)


def test_a_gate_bounds_the_gap_and_the_worst_class(run: Run) -> None:
    gap = run.find("accuracy.accuracy/by=Glasses:gap").estimate
    rules = [
        Rule.parse("max", f"accuracy.accuracy/by=Glasses:gap={gap.high + 0.01}"),
        Rule.parse("max", f"accuracy.accuracy/by=Glasses:gap={gap.low}"),
        Rule.parse("min", "accuracy.accuracy/by=Glasses:worst.value=0"),
        Rule.parse("min", "accuracy.accuracy/by=Smile:worst=0"),
    ]
    assert [result.passed for result in check_rules(run, rules)] == [True, False, True, False]


@pytest.mark.parametrize("what", ["present", "worst", "gap"])
def test_comparisons_of_classes_have_the_values_of_the_runs(run: Run, what: str) -> None:
    other = measured(np.arange(COUNT), model=SquaresVAE())
    for address in ADDRESSES:
        place = f"{address}/by=Glasses:{what}"
        found = compare(run, other, values=[place])[place]
        assert found.first == pytest.approx(run[place], abs=1e-9)
        assert found.second == pytest.approx(other[place], abs=1e-9)
        assert found.better == "B", "only A loses anything"
        assert found.difference.low <= found.difference.value <= found.difference.high
        same = compare(run, run, values=[place])[place]
        assert same.equal


@pytest.mark.parametrize("what", ["worst", "gap"])
def test_comparisons_of_means_cover_the_characteristics_of_both_runs(run: Run, what: str) -> None:
    some = measured(np.arange(COUNT), labels=("Smile", "Hair"))
    place = f"accuracy.accuracy/by=Glasses:{what}"
    found = compare(run, some, values=[place])[place]
    assert found.equal, "the same model on the same images"
    assert found.first == found.second == pytest.approx(some[place], abs=1e-9)
    assert found.note == "mean over 2 of 3 characteristics"
    assert found.first != pytest.approx(run[place], abs=1e-3), "its mean covers Glasses too"


def test_tables_and_page_show_the_classes_apart(run: Run) -> None:
    from rich.console import Console

    console = Console(width=120, record=True, file=StringIO())
    console.print(terminal.tables(run, "accuracy"), terminal.summary(run))
    shown = console.export_text()
    assert "by Glasses" in shown
    assert "absent" in shown
    assert "present" in shown
    assert "by Glasses:present" not in shown, "the other tables have no such rows"
    part = next(part for part in metric_parts(run) if part.name == "accuracy")
    assert not any("by" in row.at for row in part.others)
    assert {row.at for row in part.classes} >= {"by Glasses:gap", "by Glasses:worst", "by Glasses:present"}
    assert next(metric_parts(measured(np.arange(40), by=None))).classes == ()


def test_evaluate_takes_the_label() -> None:
    data = Squares(300)
    run = ccvae_eval.evaluate(
        SquaresVAE(), data, ["accuracy"], by="Glasses", judge="none", references=False, gallery=False
    )
    assert run.header.data["by"] == "Glasses"
    assert not math.isnan(run["accuracy.accuracy/by=Glasses:gap"])
    with pytest.raises(UsageError, match="unknown"):
        ccvae_eval.evaluate(SquaresVAE(), data, ["accuracy"], by="Hat", judge="none", references=False)
