"""Remedies of undefined values: the numbers in a reason, the sample that is enough, and what they cost."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ccvae_eval import api
from ccvae_eval.core.results import Estimate, Measurement, Reason, Value
from ccvae_eval.data.memory import as_data_set
from ccvae_eval.evaluation.remedies import Advisor, combined_commands
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.judge import selection
from ccvae_eval.metrics.locality.metric import Locality
from ccvae_eval.model.interface import Label, LabelSchema, LatentLayout
from tests.support.fakes import PlainSquaresVAE, Squares, SquaresJudge, SquaresVAE


class RareGlasses(Squares):
    """Squares of which every fortieth image has glasses."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self._labels[:, 0] = np.arange(count) % 40 == 0


def undefined(data: Squares, metrics: list[str], *, sample: int = 32, **given: Any) -> list[Value]:
    """The values without a number, of a run on a small sample."""
    run = api.evaluate(SquaresVAE(), data, metrics, sample=sample, references=False, gallery=False, **given)
    return [v for m in run for v in m.values if not v.estimate.defined]


def test_a_reason_names_the_number_of_images_that_its_metric_needs() -> None:
    (auc,) = [v for v in undefined(RareGlasses(4000), ["accuracy"], judge="none") if v.key[:2] == ("auc", "Glasses")]
    assert re.fullmatch(r"\d of 32 images are of class present, 10 needed", auc.note)
    name, size = auc.remedy.split()
    assert name == "--sample"
    labels = RareGlasses(4000).labels_of(api.sample_ids(RareGlasses(4000), "test", sample=int(size)))
    assert 20 <= labels[:, 0].sum() < 30, "as many as the metrics that intervene need"


def test_a_sample_of_each_size_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: Counter[int | None] = Counter()
    draw = api.sample_ids

    def counted(*args: Any, sample: int | None = None, **given: Any) -> Any:
        sizes[sample] += 1
        return draw(*args, sample=sample, **given)

    monkeypatch.setattr(api, "sample_ids", counted)
    found = undefined(RareGlasses(4000), ["accuracy", "locality", "drift"], judge="none")
    assert sum(v.remedy.startswith("--sample") for v in found) > 3
    del sizes[32]  # that of the evaluation
    assert max(sizes.values()) == 1


@pytest.mark.parametrize(
    ("judge", "remedy"), [("none", "--judge auto"), ("auto", "ccvae-eval explain judge")], ids=["declined", "failed"]
)
def test_a_judge_is_advised_only_if_none_was_wanted(
    judge: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection.Wanted, "trained", lambda *_: None)
    found = undefined(Squares(300), ["generation"], judge=judge, cache_dir=tmp_path)
    assert {v.remedy for v in found if v.note == "needs a judge"} == {remedy}


def test_a_judge_that_would_be_of_no_use_is_not_advised(tmp_path: Path) -> None:
    data = Squares(300)
    data._labels[:] = np.where(np.arange(300)[:, None] < 200, data._labels, 0)  # the split `test` begins at 200
    found = undefined(data, ["generation"], cache_dir=tmp_path)
    assert {v.remedy for v in found if v.note == "needs a judge"} == {"ccvae-eval explain judge"}


def of(metric: str, **labels: str) -> Measurement:
    """A measurement with a headline value for each label: a number for "", else undefined with this remedy."""
    values = [Value("v", Estimate(math.nan if r else 1.0), name, remedy=r) for name, r in labels.items()]
    return Measurement(metric, 1, {}, "v", tuple(values))


def following(*measurements: Measurement) -> list[str]:
    return combined_commands(measurements, lambda given: f"ccvae-eval run a.pt {given}")


TRAIN, EXPLAIN = "ccvae-eval train vae --out b.pt", "ccvae-eval explain judge"
REGIONS = "--data folder:a,regions=celeba"


def test_the_next_commands_have_all_options_and_all_trainings() -> None:
    both = following(of("a", A=TRAIN, B=REGIONS, C=EXPLAIN), of("b", A="--sample 640", B=TRAIN, C="--sample 80"))
    assert both == [f"ccvae-eval run a.pt {REGIONS} --sample 640", TRAIN]
    assert following(of("a", A=f"--sample 80 {REGIONS}"), of("b", A="--sample 90 --judge auto")) == [
        f"ccvae-eval run a.pt --sample 90 {REGIONS} --judge auto"
    ]
    assert following(of("a", A=EXPLAIN), of("b", A="ccvae-eval explain drift")) == [EXPLAIN]
    assert following(of("a", A=EXPLAIN, B=TRAIN)) == [TRAIN]
    assert following(of("a", A="")) == []


def test_the_next_command_keeps_every_label_that_has_a_number_or_a_remedy_of_its_own() -> None:
    """Rare: more images; Global: a number elsewhere; Tiny: no data set has enough; Blurred: a longer training."""
    first = of("locality", Rare="--sample 640", Global="--labels Rare,Tiny", Tiny="--labels Rare", Blurred=TRAIN)
    second = of("density", Rare="", Global="", Tiny="--labels Rare,Global", Blurred="--labels Rare")
    found = following(first, second)
    assert found == ["ccvae-eval run a.pt --sample 640 --labels Rare,Global,Blurred", TRAIN]
    assert following(of("a", A="", B="--labels A"), of("b", A="", B="")) == []


class Rarities(Squares):
    """Squares of which every fortieth has glasses and every ninetieth smiles; of hair, class 2 is rarer than 1."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        numbers = np.arange(count)
        self._labels[:, 0], self._labels[:, 1] = numbers % 40 == 0, numbers % 90 == 7
        self._labels[:, 2] = np.where(numbers % 61 == 3, 2, numbers % 53 == 5)


@pytest.mark.parametrize("assigned", [False, True])
def test_one_larger_sample_is_enough_for_every_label(*, assigned: bool) -> None:
    data, model = Rarities(9000), SquaresVAE()
    if assigned:
        model.layout = LatentLayout(model.layout.dim)

    def rare(sample: int) -> tuple[list[str], set[str]]:
        metrics = ["density", "locality", "drift", "accuracy"]
        run = api.evaluate(model, data, metrics, sample=sample, references=False, gallery=False, judge="none")
        headlines = [v for m in run for v in m.values if v.name == m.headline and v.characteristic]
        return combined_commands(run.measurements, str), {v.remedy for v in headlines if "--sample" in v.remedy}

    commands, remedies = rare(64)
    assert len(remedies) == 1, "every label names the same size"
    size = int(remedies.pop().removeprefix("--sample "))
    assert commands[0].startswith(f"--sample {size}")
    assert not rare(size)[1]


def test_rare_classes_and_missing_regions_are_told_at_once() -> None:
    rare = RareGlasses(8000)
    schema = LabelSchema((Label("Eyeglasses"), *rare.schema.labels[1:]))
    data: Any = as_data_set((rare.batch(np.arange(8000)).images, rare._labels, schema))
    data.spec = "folder:mine"
    model = SquaresVAE()
    model.layout = LatentLayout(model.layout.dim, {"Eyeglasses": (0,)})
    model.labels = schema
    notices: list[str] = []
    run = api.evaluate(model, data, ["locality"], sample=64, references=False, gallery=False, judge="none",
                       notice=notices.append)  # fmt: skip
    remedy = run.find("locality.focus@Eyeglasses").remedy
    assert re.fullmatch(r"--sample \d+ --data folder:mine,regions=celeba", remedy)
    assert any(remedy in notice for notice in notices), "it is said before anything is computed"
    reason = run.find("locality.focus@Eyeglasses").note
    assert "regions=celeba fits CelebA's aligned images, regions=celebahq CelebA-HQ" in reason


def test_a_label_without_a_box_in_a_face_is_not_told_to_add_boxes() -> None:
    squares = Squares(300)
    schema = LabelSchema((Label("Male"), Label("Eyeglasses"), *squares.schema.labels[2:]))
    data: Any = as_data_set((squares.batch(np.arange(300)).images, squares._labels, schema))
    data.spec = "folder:mine"
    model = SquaresVAE()
    model.layout = LatentLayout(model.layout.dim, {"Male": (0,), "Eyeglasses": (1,)})
    model.labels = schema
    run = api.evaluate(model, data, ["locality"], references=False, gallery=False, judge="none")
    male, glasses = (run.find(f"locality.focus@{name}") for name in ("Male", "Eyeglasses"))
    assert male.remedy == "--labels Eyeglasses"
    assert "neither regions=celeba nor celebahq has one of this label" in male.note
    assert glasses.remedy == "--data folder:mine,regions=celeba"


@pytest.mark.parametrize(
    ("spec", "reason", "remedy"),
    [
        ("folder:mine", "; write folder:mine,regions=FOLDER for masks LABEL/NAME.png", "ccvae-eval explain folder"),
        (
            "npz:mine",
            ", and no option adds any; locality.selectivity and intervention need none",
            "ccvae-eval explain selectivity",
        ),
        (
            "arrays",
            "; give masks of shape (N, H, W) in data={'images': ..., 'labels': ..., 'regions': {LABEL: masks}}",
            "ccvae-eval explain locality",
        ),
    ],
)
def test_data_without_regions_are_told_the_option_that_adds_them(spec: str, reason: str, remedy: str) -> None:
    squares = Squares(300)
    data: Any = as_data_set((squares.batch(np.arange(300)).images, squares.labels_of(np.arange(300)), squares.schema))
    data.spec = spec
    values = undefined(data, ["locality"], judge="none", sample=56)
    found = {(v.note, v.remedy) for v in values if v.name == "focus"}
    assert (f"this data set has no regions{reason}", remedy) in found


def test_more_images_are_not_advised_where_only_regions_would_help() -> None:
    data = RareGlasses(4000)
    arrays: Any = as_data_set((data.batch(np.arange(4000)).images, data._labels, data.schema))
    arrays.spec = "npz:mine"
    values = undefined(arrays, ["locality"], judge="none", sample=56)
    (focus,) = (v for v in values if v.key[:2] == ("focus", "Glasses"))
    assert "no option adds any" in focus.note
    assert "needed" not in focus.note
    assert focus.remedy == "ccvae-eval explain selectivity"


def test_a_model_that_cannot_draw_a_label_is_told_what_would_let_it() -> None:
    class Undrawable(PlainSquaresVAE):
        """Has latent dimensions of its labels, and no p(z_c|y)."""

        def __init__(self) -> None:
            super().__init__()
            self.layout, self.labels = self.inner.layout, self.inner.labels

    def reason(model: PlainSquaresVAE) -> Reason:
        run = api.evaluate(model, Squares(300), ["diversity"], references=False, gallery=False, judge="none")
        found = run.measurement("diversity").reason
        assert found is not None
        return found

    own, plain = reason(Undrawable()), reason(PlainSquaresVAE())
    assert "p(z_c|y): give wrap(prior=...), or write the method conditional_prior(labels)" in own.text
    assert own.remedy == "ccvae-eval explain diversity"
    assert "because it was trained without labels; disentanglement measures such models" in plain.text
    assert plain.remedy == "ccvae-eval explain disentanglement"
    data = Squares(300)
    data._labels[:, 1] = np.random.default_rng(0).random(300) < 0.5
    run = api.evaluate(PlainSquaresVAE(), data, ["density"], references=False, gallery=False, judge="none")
    assert run.find("density.auc@Smile").remedy == "ccvae-eval explain disentanglement"


def test_arrays_with_too_few_images_are_told_how_to_use_all_of_them() -> None:
    data = RareGlasses(900)
    arrays = {"images": data.batch(np.arange(900)).images, "labels": data._labels, "names": data.schema}
    run = api.evaluate(SquaresVAE(), arrays, ["accuracy"], references=False, gallery=False, judge="none")
    auc = run.find("accuracy.auc@Glasses")
    assert auc.remedy == "--limit 900"
    used = re.search(
        r"the split test are evaluated, which has (\d+) of the 900; --limit 900 evaluates all", str(run.header.warnings)
    )
    assert used is not None
    assert int(used[1]) == run.header.data["n"]
    whole = api.evaluate(SquaresVAE(), arrays, ["accuracy"], references=False, gallery=False, judge="none", limit=900)
    assert whole.header.data["n"] == 900
    assert whole.find("accuracy.auc@Glasses").estimate.defined
    assert "split test" not in str(whole.header.warnings)


def test_a_sample_larger_than_the_split_is_mentioned() -> None:
    notices: list[str] = []
    run = api.evaluate(
        SquaresVAE(), Squares(300), ["accuracy"], sample=5000, judge="none", references=False, gallery=False,
        notice=notices.append,
    )  # fmt: skip
    used = run.header.data["n"]
    assert used < 300
    assert f"Split test has only {used} images, fewer than --sample 5000." in notices


def test_the_class_that_is_rare_is_that_of_the_label_whose_images_are_counted() -> None:
    found = undefined(RareGlasses(4000), ["density"], judge="none", sample=64)
    (cross,) = [v for v in found if v.key == ("cross_auc", "Smile", (("judged", "Glasses"),))]
    assert re.fullmatch(r"\d of 64 images are of class present, 20 needed", cross.note)
    assert int(cross.remedy.removeprefix("--sample ")) > 500


class UnreliableJudge(SquaresJudge):
    """A judge that recognises neither real images nor reconstructions."""

    record = SimpleNamespace(balanced_accuracy={"Glasses": 0.5, "Smile": 0.99, "Hair": 0.97})

    def log_probabilities(self, images: Any) -> Any:
        return {name: value.flip(1) for name, value in super().log_probabilities(images).items()}


def test_no_training_of_the_model_is_advised_if_the_judge_fails_on_real_images() -> None:
    subject = prepare(SquaresVAE(), Squares(64), np.arange(64), judge=UnreliableJudge())
    advisor = Advisor(lambda *_: Squares(64).labels_of(np.arange(64)), retrain="ccvae-eval train")
    (m,) = (advisor.explained(m, subject) for m in measure(subject, [Locality(steps=3)]))
    found = {v.characteristic: v for v in m.values if v.name == "selectivity"}
    assert found["Glasses"].note == (
        "the judge cannot recognise this label on real images either (balanced accuracy 0.50, needs 0.80): "
        "more images to train it on or --judge FILE"
    )
    assert found["Glasses"].remedy == "ccvae-eval explain judge"
    assert "in the reconstructions (balanced accuracy 0.00" in found["Smile"].note
    assert found["Smile"].remedy == "ccvae-eval train"
