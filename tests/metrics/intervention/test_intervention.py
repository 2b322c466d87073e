"""Interventions against brute force, closed forms, and the oracle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import energy_distance as scipy_energy_distance
from torch import Tensor

from ccvae_eval.calibration.decoder_faults import Idle
from ccvae_eval.calibration.reference_images import ReferenceImages
from ccvae_eval.core.errors import UsageError
from ccvae_eval.data.sets.faces.dataset import Faces
from ccvae_eval.evaluation.interventions import Assign, Do, Swap, Together, donor_rows
from ccvae_eval.evaluation.plan import Plan
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.judge.selection import shipped_judge
from ccvae_eval.metrics.intervention.counterfactuals import energy_distance
from ccvae_eval.metrics.intervention.metric import Interventions
from ccvae_eval.metrics.intervention.rows import unfairness
from ccvae_eval.metrics.shared.assignments import assignment_of, assignment_text
from ccvae_eval.oracle.model import oracle
from ccvae_eval.statistics.resampling import ResampleWeights
from tests.support.fakes import SCHEMA, PlainSquaresVAE, Squares, SquaresJudge, SquaresVAE

pytestmark = pytest.mark.oracle

COUNT = 128
QUICK: Mapping[str, Any] = {"repeats": (1, 2), "axiom_images": 32, "draws": 3, "rendered": 64}
SOME = ("Eyeglasses", "Wearing_Hat", "Hair_Color")


def subject_of(model: Any = None, count: int = COUNT, judge: Any = None, **data: Any) -> Subject:
    return prepare(model or SquaresVAE(), Squares(count, **data), np.arange(count), judge=judge)


def measured(subject: Subject, **settings: Any) -> Run:
    return measure(subject, [Interventions(**{**QUICK, **settings})])


def at(run: Run, name: str, characteristic: str | None, **where: Any) -> float:
    for value in run.measurement("intervention").values:
        if value.name == name and value.characteristic == characteristic and dict(value.at) == where:
            return value.estimate.value
    raise AssertionError((name, characteristic, where))


@pytest.fixture(scope="module")
def drawn() -> Run:
    data = Faces(size=32, n=1000)
    ids = data.split("test")[:160]
    return measure(prepare(oracle(data, ids), data, ids, characteristics=SOME), [Interventions(**QUICK)])


@pytest.mark.slow
def test_the_oracle_has_zero_error(drawn: Run) -> None:
    for name in SOME:
        assert at(drawn, "fidelity", name) == pytest.approx(0, abs=1e-9)
        assert 0 <= at(drawn, "identity", name) < 1e-3, "regions exclude changes of 8/255 or less"
        another = drawn.find(f"intervention.reversibility@{name}").chance
        assert another is not None
        for m in (1, 2):
            # not 0: a variety that is not visible without the attribute keeps its value, while the edit back maps it
            # from its rank in the other class
            assert 0 <= at(drawn, "reversibility", name, m=m) < 0.02 * another
    for name in ("Eyeglasses", "Wearing_Hat"):
        for where in ("inside", "outside"):
            assert at(drawn, "error", name, where=where) == pytest.approx(0, abs=1e-9)
    energy = next(v for v in drawn.measurement("intervention").values if v.name == "energy" and v.characteristic)
    assert energy.estimate.low < 0 < energy.estimate.high, "p(z_c|y) is the distribution of the data's variety"
    assert at(drawn, "composition", None, m=2) == 0
    fidelity = drawn.find("intervention.fidelity@Eyeglasses")
    assert fidelity.chance is not None
    assert fidelity.chance > 0.02, "without the swap the donor's glasses are missing"


def test_a_disentangled_model_changes_the_edited_label_only() -> None:
    run = measured(subject_of(judge=SquaresJudge()))
    for name in ("Glasses", "Smile", "Hair"):
        assert at(run, "effect", name) == 1
        assert run.find(f"intervention.effect@{name}").chance == pytest.approx(0, abs=0.05)
        assert at(run, "kept", name) == 1
        assert at(run, "transfer", name) > 0.95
        assert at(run, "identity", name) == pytest.approx(0, abs=1e-6)
        others = [j for j in ("Glasses", "Smile", "Hair") if j != name]
        assert all(at(run, "change", name, judged=j) == pytest.approx(0, abs=1e-6) for j in others)


def test_effect_kept_and_transfer_match_brute_force() -> None:
    class LeakyVAE(SquaresVAE):
        """A change of Glasses changes a third of the smiles too."""

        def decode(self, codes: Tensor) -> Tensor:
            shifted = codes.clone()
            shifted[:, 2] = shifted[:, 2] - 1.3 * shifted[:, 0]
            return super().decode(shifted)

    subject = subject_of(LeakyVAE(), judge=SquaresJudge())
    run = measured(subject)
    judge = SquaresJudge()
    before = judge.log_probabilities(subject.decode(subject.codes))
    chunks = list(subject.chunks())
    do = torch.cat([Do("Glasses").codes(subject, chunk) for chunk in chunks])
    after = judge.log_probabilities(subject.decode(do))
    effect = (after["Glasses"].argmax(1) == 1 - subject.classes("Glasses")).double().mean()
    assert at(run, "effect", "Glasses") == pytest.approx(float(effect))
    trusted = {v.at["judged"] for v in run.measurement("intervention").values if v.name == "kept" and "judged" in v.at}
    for j in trusted - {"Glasses"}:
        kept = (after[j].argmax(1) == before[j].argmax(1)).double().mean()
        assert at(run, "kept", "Glasses", judged=j) == pytest.approx(float(kept))
    donors = donor_rows(subject, "Glasses")
    swap = torch.cat([Swap("Glasses").codes(subject, chunk) for chunk in chunks])
    assert torch.equal(swap[:, 0], subject.codes[donors, 0])
    assert torch.equal(swap[:, 1:], subject.codes[:, 1:])
    seen = judge.log_probabilities(subject.decode(swap))["Glasses"].argmax(1)
    given = subject.classes("Glasses")[donors]
    gain = (seen == given).double() - (before["Glasses"].argmax(1) == given).double()
    assert at(run, "transfer", "Glasses") == pytest.approx(float(gain.mean()))


def test_composition_encodes_and_decodes_images_repeatedly() -> None:
    class Fading(SquaresVAE):
        """Every decoding is a little greyer."""

        def decode(self, codes: Tensor) -> Tensor:
            return 0.9 * super().decode(codes) + 0.05

    subject = subject_of(Fading(), count=32)
    with torch.no_grad():
        image = subject.data.batch(np.arange(32)).images
        start = image
        distances = []
        for _ in range(2):
            image = subject.model.decode(subject.model.encode(image).loc)
            distances.append(float((image - start).abs().mean()))
    run = measured(subject)
    assert at(run, "composition", None, m=1) == pytest.approx(distances[0], rel=1e-4)
    assert at(run, "composition", None, m=2) == pytest.approx(distances[1], rel=1e-4)
    assert distances[1] > distances[0]


def test_reversibility_is_near_zero_for_an_invertible_model() -> None:
    run = measured(subject_of(count=96))
    another = run.find("intervention.reversibility@Glasses").chance
    assert another is not None
    # ranks outside 0.005 to 0.995 are clipped
    assert at(run, "reversibility", "Glasses", m=2) < 0.02 * another


def test_an_assignment_sets_its_labels_only() -> None:
    subject = subject_of(judge=SquaresJudge())
    run = measured(subject, assign="Glasses=1,Hair=Blond")
    do = {"do": "Glasses=1,Hair=Blond"}
    assert at(run, "obeyed", None, **do) == 1
    assert at(run, "obeyed", "Glasses", **do) == at(run, "obeyed", "Hair", **do) == 1
    assert at(run, "kept", None, **do, judged="Smile") == 1
    rows = run.measurement("intervention").values
    chance = next(v.chance for v in rows if v.name == "obeyed" and v.characteristic is None)
    known = (subject.classes("Glasses") == 1) & (subject.classes("Hair") == 1)
    assert chance == pytest.approx(float(known.double().mean()), abs=0.03)


def test_modes_mean_sample_and_transport_move_codes_as_documented() -> None:
    subject = subject_of()
    chunk = next(iter(subject.chunks()))
    fitted = subject.class_codes("Glasses")
    mean = Assign((("Glasses", 1),), mode="mean").codes(subject, chunk)
    assert torch.allclose(mean[:, 0].double(), fitted.loc[1, 0].expand(32))
    drawn = Assign((("Glasses", 1),), mode="sample").codes(subject, chunk)[:, 0]
    expected = 2 + 0.5 * subject.noise("do/Glasses", chunk.ids, 1)[:, 0]
    assert torch.allclose(drawn, expected)
    moved = Assign((("Glasses", 1), ("Smile", 0))).codes(subject, chunk)
    there = subject.classes("Glasses")[chunk.rows] == 1
    assert torch.equal(moved[there, 0], chunk.codes[there, 0]), "images of the assigned class keep their codes"
    assert (moved[~there, 0] > 0).all()
    assert torch.equal(moved[:, 4:], chunk.codes[:, 4:])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Glases=1", "unknown"),
        ("Glasses", "must have the form LABEL=CLASS"),
        ("Glasses=2", "has no class"),
        ("Hair=Blnd", "Did you mean 'Blond'"),
        ("Glasses=1,Glasses=0", "twice"),
    ],
)
def test_an_invalid_assignment_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        assignment_of(text, subject_of(count=40))


def test_assignment_text_is_in_canonical_form() -> None:
    subject = subject_of(count=40)
    assert assignment_text(assignment_of(" Glasses=present, Hair=2 ", subject), subject) == "Glasses=1,Hair=Brown"


def test_energy_distance_matches_scipy_up_to_the_unbiased_correction() -> None:
    random = np.random.default_rng(0)
    x, y = random.random((5, 6)), random.random((7, 6))
    found = energy_distance(
        [torch.from_numpy(row).reshape(6, 1, 1, 1) for row in x],
        [torch.from_numpy(row).reshape(6, 1, 1, 1) for row in y],
        np.ones((6, 1), bool),
    )
    for image in range(6):
        both = [np.abs(np.subtract.outer(z, z)).mean() for z in (x[:, image], y[:, image])]
        unbiased = both[0] * 5 / 4 + both[1] * 7 / 6
        squared = scipy_energy_distance(x[:, image], y[:, image]) ** 2
        assert found[image] == pytest.approx((squared + sum(both) - unbiased) / 2)


def test_without_a_judge_the_other_values_are_defined() -> None:
    run = measured(subject_of())
    measurement = run.measurement("intervention")
    assert measurement.status == "ok"
    defined = {v.name for v in measurement.values if v.estimate.defined}
    assert {"identity", "fidelity", "composition", "reversibility", "error", "energy"} <= defined
    assert all("needs a judge" in v.note for v in measurement.values if v.name == "effect")


def test_transport_is_undefined_with_too_few_images_of_a_class() -> None:
    run = measured(subject_of(count=30))
    rows = [v for v in run.measurement("intervention").values if v.name == "reversibility" and v.characteristic]
    assert all(np.isnan(v.estimate.value) and "20 are needed" in v.note for v in rows)


def test_a_model_with_intervene_edits_its_own_codes() -> None:
    class InterveningVAE(PlainSquaresVAE):
        """Assigns latent dimensions to no label, but implements ``intervene``."""

        def __init__(self) -> None:
            super().__init__()
            self.labels = Squares(1).schema

        def intervene(self, images: Tensor, codes: Tensor, assignment: Mapping[str, float], noise: Tensor) -> Tensor:
            assert len(images) == len(codes) == len(noise) == 32
            moved = codes.clone()
            for name, value in assignment.items():
                moved[:, 2 * self.labels.index(name)] = 10 + value
            return moved

    subject = subject_of(InterveningVAE(), count=200)
    chunk = next(iter(subject.chunks()))
    codes = Do("Hair").codes(subject, chunk)
    assert torch.equal(codes[:, 4], 10.0 + subject.target_class("Hair")[chunk.rows])
    both = Assign((("Glasses", 1), ("Smile", 0))).codes(subject, chunk)
    assert torch.equal(both[:, [0, 2]], torch.tensor([11.0, 10.0]).expand(32, 2))
    two = Together(2, ("Glasses", "Hair", "Smile"))
    moved, targets = two.codes(subject, chunk), two.targets(subject)
    for name, column in (("Glasses", 0), ("Smile", 2), ("Hair", 4)):
        target, own = targets[name][chunk.rows], chunk.codes[:, column]
        assert (target < 0).any(), "labels that were not drawn stay"
        assert torch.equal(moved[:, column], torch.where(target < 0, own, 10.0 + target))


@pytest.mark.parametrize("settings", [{"repeats": ()}, {"repeats": (0,)}, {"draws": 1}, {"rendered": -1}])
def test_invalid_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"intervention\."):
        Interventions(**settings)


class Biased(SquaresVAE):
    """Shows a smile wherever it shows glasses."""

    def decode(self, codes: Tensor) -> Tensor:
        codes = codes.clone()
        codes[:, 2] = torch.where(codes[:, 0] > 0, 4.0, codes[:, 2])
        return super().decode(codes)


@pytest.mark.parametrize("model", [SquaresVAE, Biased])
def test_unfairness_is_the_distance_of_the_judged_classes(model: type[SquaresVAE]) -> None:
    """Brute force: every image is decoded in both classes of Glasses and judged."""
    judge, data, ids = SquaresJudge(), Squares(COUNT), np.arange(COUNT)
    subject = prepare(model(), data, ids, judge=judge, by="Glasses")
    run = measured(subject)
    (chunks, names), do = (list(subject.chunks()), ("Smile", "Hair")), Do("Glasses")
    now = subject.current_class("Glasses")
    before = judge.log_probabilities(subject.decode(subject.codes))
    after = judge.log_probabilities(subject.decode(torch.cat([do.codes(subject, chunk) for chunk in chunks])))
    trusted = [j for j in names if any(v.at.get("judged") == j for v in run.measurement("intervention").values)]
    for j in trusted:
        classes = before[j].argmax(1), after[j].argmax(1)
        everyone = torch.bincount(classes[0], minlength=3) / COUNT
        distances = []
        for v in (0, 1):
            shown = torch.where(now == v, *classes)
            distances.append((everyone - torch.bincount(shown, minlength=3) / COUNT).abs().sum() / 2)
        expected = float(sum(distances)) / 2
        assert at(run, "unfairness", "Glasses", judged=j) == pytest.approx(expected, abs=1e-6)
    found = [at(run, "unfairness", "Glasses", judged=j) for j in trusted]
    assert run["intervention.unfairness@Glasses"] == pytest.approx(float(np.mean(found)), abs=1e-12)
    if model is SquaresVAE:
        value = run.find("intervention.unfairness@Glasses").estimate
        assert value.value == 0
        assert 0 < value.high < 0.05, "no image in 128 changed"


def test_unfairness_needs_a_label_that_the_model_edits() -> None:
    judge, selected = SquaresJudge(), ("Smile", "Hair")
    subject = prepare(
        SquaresVAE(), Squares(COUNT), np.arange(COUNT), judge=judge, characteristics=selected, by="Glasses"
    )
    assert measured(subject).find("intervention.unfairness@Glasses").note == "the label of --by is not edited"
    assert "unfairness" not in {v.name for v in measured(subject_of(judge=judge)).measurement("intervention").values}


def test_unfairness_of_three_classes_counts_edits_for_each_class_they_could_go_to() -> None:
    """With many images, the mean is that of an evaluation that edits every image to every class."""
    rng, n = np.random.default_rng(0), 200_000
    now, step = rng.integers(0, 3, n), rng.integers(1, 3, n)
    then = (now + step) % 3
    before = (rng.random(n) < 0.2 + 0.3 * now).astype(float)
    after = (rng.random(n) < 0.1 + 0.4 * then).astype(float)
    found = unfairness(before, after, now, then, ResampleWeights(0, n, 2))
    everyone = before.mean()
    shown = [(0.2 + 0.3 * v) / 3 + (0.1 + 0.4 * v) * 2 / 3 for v in range(3)]
    assert found.value == pytest.approx(np.mean([abs(everyone - p) for p in shown]), abs=0.005)


def test_labels_are_set_together_as_assigned_one_by_one() -> None:
    """Brute force: each image alone, with the assignment that was drawn for it."""
    subject = subject_of(Biased(), judge=SquaresJudge(), agreement=0.9)
    several = Together(2, ("Glasses", "Hair", "Smile"))
    targets, chunks = several.targets(subject), list(subject.chunks())
    codes = torch.cat([several.codes(subject, chunk) for chunk in chunks])
    assert {int((torch.stack(list(targets.values())) >= 0).sum(0)[row]) for row in range(COUNT)} == {2}
    judged, hits = SquaresJudge().log_probabilities(subject.decode(codes)), []
    for row in range(COUNT):
        asked = tuple((name, int(target[row])) for name, target in targets.items() if target[row] >= 0)
        alone = torch.cat([Assign(asked).codes(subject, chunk) for chunk in chunks])[row]
        assert torch.equal(codes[row], alone)
        hits.append(all(int(judged[name][row].argmax()) == value for name, value in asked))
    run = measured(subject, together=2)
    assert at(run, "obeyed_together", None, set=2) == pytest.approx(float(np.mean(hits)), abs=1e-12)
    assert np.mean(hits) < 0.95, "a smile that was removed comes back with glasses"


def test_together_is_opt_in_and_costs_one_decoded_image_for_each_size() -> None:
    subject = subject_of(judge=SquaresJudge())
    plain, more = (Plan.of(subject, [Interventions(**QUICK, together=n)]).decode for n in (0, 3))
    assert more - plain == 3 * COUNT
    run = measured(subject, together=4)
    assert [at(run, "obeyed_together", None, set=n) for n in (1, 2, 3)] == [1.0, 1.0, 1.0]
    four = next(v for v in run.measurement("intervention").values if v.at == {"set": 4})
    assert four.note == "3 labels can be set"
    assert "obeyed_together" not in {v.name for v in measured(subject).measurement("intervention").values}


def test_smaller_sets_are_among_the_larger_ones() -> None:
    subject = subject_of(missing=0.1)
    names = ("Glasses", "Hair", "Smile")
    one, two = (Together(n, names).targets(subject) for n in (1, 2))
    for name in names:
        both = (one[name] >= 0) & torch.stack(list(two.values())).ge(0).any(0)
        assert torch.equal(one[name][both], two[name][both])


def test_no_label_is_set_if_the_class_of_one_that_was_drawn_is_unknown() -> None:
    subject = subject_of(PlainSquaresVAE(), missing=0.1)
    targets = torch.stack(list(Together(2, ("Glasses", "Hair", "Smile")).targets(subject).values()))
    assert set((targets >= 0).sum(0).tolist()) == {0, 2}


def test_combinations_are_counted_in_the_training_images() -> None:
    """Brute force over the images of the training split."""
    data = Squares(600)
    ids, training = np.arange(400, 600), np.arange(0, 8)
    subject = prepare(SquaresVAE(), data, ids, judge=SquaresJudge(), trained_on=training)
    run = measured(subject, together=2)
    labels, several = data.labels_of(training), Together(2, ("Glasses", "Hair", "Smile"))
    targets = several.targets(subject)
    seen = []
    for row in range(len(ids)):
        asked = [int(t[row]) if (t := targets[j])[row] >= 0 else int(subject.classes(j)[row]) for j in SCHEMA.names]
        seen.append(int((labels == asked).all(1).sum()))
    found = {v.at["seen"]: v for v in run.measurement("intervention").values if v.at.get("set") == 2 and "seen" in v.at}
    counts = {"0": sum(n == 0 for n in seen), "1..9": sum(0 < n < 10 for n in seen), "10..99": 0, "100+": 0}
    assert {name: value.estimate.n for name, value in found.items()} == counts
    assert min(counts["0"], counts["1..9"]) > 0
    assert found["100+"].note == "no image is asked for such a combination"
    unknown = measured(prepare(SquaresVAE(), data, ids, judge=SquaresJudge()), together=2)
    assert not any("seen" in v.at for v in unknown.measurement("intervention").values)


@pytest.mark.slow
def test_sets_of_labels_of_the_oracle_follow_the_share_of_ignored_edits() -> None:
    """Edits of which each label is ignored with probability p leave (1 - p)^s of the sets of s labels."""
    data = Faces(n=1000)
    ids = data.split("test")[:200]
    names = ("Eyeglasses", "Wearing_Hat", "Pale_Skin")
    references = ReferenceImages(oracle(data, ids), ids)
    for strength in (0.0, 0.3):
        subject = prepare(Idle(references, strength), data, ids, judge=shipped_judge(), characteristics=names)
        run = measured(subject, together=3, rendered=0, axiom_images=0)
        for count in (1, 2, 3):
            value = next(v for v in run.measurement("intervention").values if v.at == {"set": count})
            assert value.estimate.low <= (1 - strength) ** count <= value.estimate.high
