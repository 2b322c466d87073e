"""Each saboteur does what its dial says, by how much it says, and nothing at its first end."""

import numpy as np
import pytest
import torch

from ccvae_eval.calibration.code_faults import (
    Collapsed,
    Shifted,
    Turned,
    class_shares,
    own_pairs,
    part_of_a_turn,
    shuffled_rows,
)
from ccvae_eval.calibration.decoder_faults import Dimmed, Faded, Idle, Leaking, Smeared, Strayed, Warped, ramp, wobbled
from ccvae_eval.calibration.perturbations import PERTURBATIONS, PerturbationContext
from ccvae_eval.calibration.prediction_faults import Mislabelled, Tempered
from ccvae_eval.calibration.reference_images import ImageRenderer, ReferenceImages
from ccvae_eval.calibration.study_cells import VIEWS
from ccvae_eval.core.errors import DataError, UnsupportedError, UsageError
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.model.latents import replaced
from ccvae_eval.oracle.model import oracle
from ccvae_eval.statistics.calibration_error import expected_calibration_error, honest_calibration_error
from tests.support.fakes import Squares, SquaresVAE

NAMES = ("Eyeglasses", "Smiling", "Wearing_Hat", "Wearing_Necktie", "Hair_Color")


@pytest.fixture(scope="module")
def faces():
    return Faces(size=32)


@pytest.fixture(scope="module")
def bench(faces):
    return PerturbationContext(faces, faces.split("test")[:96], NAMES)


@pytest.fixture(scope="module")
def originals(bench):
    return bench.originals


@pytest.fixture(scope="module")
def images(faces, bench):
    return faces.batch(bench.ids).images


def without_glasses(originals):
    """Codes with the glasses turned over."""
    (u,) = originals.block("Eyeglasses").shown
    return replaced(originals.codes, (u,), -originals.codes[:, [u]])


def edits(originals):
    """Codes after some interventions: glasses turned over, another variety, another hair."""
    yield originals.codes
    yield without_glasses(originals)
    yield replaced(originals.codes, originals.block("Wearing_Hat").variety, torch.tensor(0.7))
    hair = originals.block("Hair_Color").shown
    yield replaced(originals.codes, hair, originals.codes[:, list(hair)].roll(1, 1))


PLAIN = [name for name, dial in PERTURBATIONS.items() if dial.base == "oracle"]


@pytest.mark.parametrize("name", PLAIN)
def test_at_its_first_end_a_dial_changes_nothing(name, bench, originals, images):
    model = PERTURBATIONS[name].spoil(bench, PERTURBATIONS[name].strengths[0])
    plain = oracle(bench.data, bench.ids)
    assert torch.equal(model.encode(images).loc, originals.codes)
    for codes in edits(originals):
        assert (model.decode(codes) - plain.decode(codes)).abs().max() < 1e-6
    labels = torch.from_numpy(bench.data.labels_of(bench.ids))
    assert torch.allclose(model.conditional_prior(labels).scale, plain.conditional_prior(labels).scale, atol=1e-6)
    for label, told in model.predict(images, originals.codes).items():
        assert torch.equal(told.argmax(1), plain.predict(images, originals.codes)[label].argmax(1))


@pytest.mark.parametrize("name", list(PERTURBATIONS))
def test_at_its_last_end_a_dial_changes_something(name, bench, originals, images):
    dial = PERTURBATIONS[name]
    first, last = (dial.spoil(bench, strength) for strength in dial.strengths)
    labels = torch.from_numpy(bench.data.labels_of(bench.ids))
    (u,) = originals.block("Eyeglasses").shown
    halfway = replaced(without_glasses(originals), (u,), torch.tensor(0.5))
    both = [
        [
            model.encode(images).loc,
            model.decode(halfway),
            model.conditional_prior(labels).loc,
            model.conditional_prior(labels).scale,
            *model.predict(images, model.encode(images).loc).values(),
        ]
        for model in (first, last)
    ]
    assert any(not torch.allclose(a, b, atol=1e-3) for a, b in zip(*both, strict=True))


def test_a_smear_keeps_the_mass_of_the_change_and_ends_evenly(originals):
    codes = without_glasses(originals)
    rows = originals.scene(codes).classes[:, 0] == 1  # the others are the base: nothing is changed on it
    base = Smeared(originals, 0.0).decode(replaced(codes, (0,), torch.tensor(-2.0)))
    whole = (Smeared(originals, 0.0).decode(codes) - base)[rows].abs()
    even = (Smeared(originals, 1.0).decode(codes) - base)[rows].abs()
    half = (Smeared(originals, 0.5).decode(codes) - base)[rows].abs()
    mass = whole.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(even, mass.expand_as(even), atol=1e-6)
    # where a faint change opposes the direction in which there is room, some of it cancels
    assert half.mean((1, 2, 3)).numpy() == pytest.approx(mass.flatten().numpy(), rel=0.02)


def test_pictures_stay_pictures(originals):
    for make in (Smeared, Strayed, Warped, Faded, Dimmed, Leaking, Idle):
        for dose in (0.3, 1.0):
            painted = make(originals, dose).decode(without_glasses(originals))
            assert painted.min() >= 0
            assert painted.max() <= 1


def test_straying_keeps_the_sizes_of_changes_and_not_their_places(originals):
    codes = without_glasses(originals)
    rows = originals.scene(codes).classes[:, 0] == 1
    base = Strayed(originals, 0.0).decode(replaced(codes, (0,), torch.tensor(-2.0)))
    before, after = ((Strayed(originals, d).decode(codes) - base)[rows].abs().flatten(2) for d in (0.0, 1.0))
    assert torch.allclose(before.sort(2).values / 2, after.sort(2).values, atol=1e-6)
    assert not torch.allclose(before / 2, after, atol=1e-2)


@pytest.mark.parametrize("dose", [0.0, 1.0])
def test_the_truth_that_an_edit_is_compared_with_can_be_read(faces, bench, dose):
    """Even of a warp without strength, which replaces what lies inside the region all the same."""
    originals = PerturbationContext(faces, bench.ids, NAMES).originals  # which has drawn nothing yet
    warped = Warped(originals, dose)
    u = originals.block("Eyeglasses").shown[0]
    without = replaced(originals.codes, (u,), -originals.codes[:, [u]].abs())
    worn = np.flatnonzero((originals.codes[:, u] > 0).numpy())
    truth = faces.with_attribute(bench.ids[worn], "Eyeglasses", np.zeros(len(worn), np.float32))
    with pytest.raises(DataError, match="does not know a picture"):
        warped.encode(truth)
    warped.decode(without)
    read = warped.encode(truth).loc
    assert bool((read[:, u] < 0).all())


def test_a_warp_leaves_what_was_not_touched(originals, images):
    assert torch.equal(Warped(originals, 1.0).decode(originals.codes), images)
    codes = without_glasses(originals)
    region = torch.from_numpy(originals.data.region(originals.ids, "Eyeglasses"))[:, None]
    still, moved = (Warped(originals, dose).decode(codes) for dose in (0.0, 1.0))
    plain = ReferenceImages(originals.oracle, originals.ids).oracle.decode(codes)
    assert torch.equal(torch.where(region, 0.0, still), torch.where(region, 0.0, plain))
    assert torch.equal(torch.where(region, still, 0.0), torch.where(region, moved, 0.0))
    assert (torch.where(region, 0.0, moved) - torch.where(region, 0.0, plain)).abs().mean() > 0.01


def test_a_leak_turns_all_others_over_in_the_end(originals):
    scene = originals.scene(without_glasses(originals))
    for dose in (0.0, 0.5, 1.0):
        leaked = Leaking(originals, dose).leaked(scene)
        assert np.array_equal(leaked[:, 0], scene.classes[:, 0])
        share = (leaked[:, 1:] != scene.classes[:, 1:]).mean()
        assert share == pytest.approx(dose, abs=4 * np.sqrt(dose * (1 - dose) / scene.classes[:, 1:].size))
    assert np.array_equal(Leaking(originals, 1.0).leaked(originals.scene(originals.codes)), originals.classes)


def test_an_idle_intervention_gives_the_original(originals, images):
    for codes in edits(originals):
        assert torch.equal(Idle(originals, 1.0).decode(codes), images)
    same = (Idle(originals, 0.5).decode(without_glasses(originals)) == images).flatten(1).all(1)
    assert float(same.float().mean()) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(len(images)))


def test_what_a_saboteur_has_painted_it_can_read(originals):
    model = Smeared(originals, 0.5)
    codes = without_glasses(originals)
    again = originals.scene(model.encode(model.decode(codes)).loc)
    assert np.array_equal(again.classes, originals.scene(codes).classes)


def test_the_truth_that_an_edit_is_compared_with_is_left_alone(originals, images):
    """Idle, glasses stay on; a face that was drawn without them is still rebuilt without."""
    model = Idle(originals, 1.0)
    glasses = originals.classes[:, 0] == 1
    edited = model.decode(without_glasses(originals))[glasses]
    assert torch.equal(edited, images[glasses])
    bare = originals.classes.copy()
    bare[:, 0] = 0
    truth = originals.draw(originals.factors, bare)[glasses]
    assert torch.equal(model.decode(model.encode(truth).loc), truth)


def test_idle_requests_are_drawn_from_the_frequencies_of_the_classes(originals):
    """Faces from the prior, asked to wear glasses."""
    generator = np.random.default_rng(0)
    codes = torch.from_numpy(generator.standard_normal((600, originals.coding.dim)).astype(np.float32))
    (u,) = originals.block("Eyeglasses").shown
    codes[:, u] = 2.0
    place = originals.block("Eyeglasses").place
    share = class_shares(originals.classes[:, place], 2)[1]
    for dose in (0.0, 0.5, 1.0):
        model = Idle(originals, dose)
        scene = model.scene(codes)
        worn = (model.unasked(scene, np.arange(600))[:, place] == 1).mean()
        expected = 1 - dose * (1 - share)
        assert worn == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 600) + 1e-12)


def test_correlated_columns_are_normal_correlate_as_told_and_show_the_same(faces):
    ids = faces.split("test")[:2000]
    bench = PerturbationContext(faces, ids, NAMES)
    images = faces.batch(ids[:64]).images
    model = bench.correlated(0.6)
    codes = model.encode(images).loc
    assert torch.equal(model.decode(codes), images)
    codes = model.encode(faces.batch(ids).images).loc.double().numpy()
    a, b = (bench.originals.block(name).shown[0] for name in ("Eyeglasses", "Smiling"))
    assert np.corrcoef(codes[:, a], codes[:, b])[0, 1] == pytest.approx(0.6, abs=4 * 0.64 / np.sqrt(len(ids)))
    for column in (a, b):
        assert np.quantile(codes[:, column], [0.1, 0.5, 0.9]) == pytest.approx([-1.2816, 0, 1.2816], abs=0.13)
    labels = torch.from_numpy(faces.labels_of(ids))
    prior = model.conditional_prior(labels)
    place = model.layout.characteristic_columns.index(b)
    for smiling in (0, 1):
        rows = labels[:, faces.schema.index("Smiling")] == smiling
        assert codes[rows.numpy(), b].mean() == pytest.approx(float(prior.loc[rows, place].mean()), abs=0.13)


def test_a_part_of_a_turn_keeps_lengths_and_goes_all_the_way():
    turns = [part_of_a_turn(6, share, numpy_stream(0, "t")) for share in (0.0, 0.5, 1.0)]
    for turn in turns:
        assert np.allclose(turn @ turn.T, np.eye(6))
    assert np.allclose(turns[1] @ turns[1], turns[2])


def test_a_stage_shows_one_column_of_each_label_and_a_density(bench, images):
    model = VIEWS["disentanglement"](bench.base)
    assert all(len(columns) == 1 for columns in model.layout.characteristics.values())
    posterior = model.encode(images)
    assert torch.equal(posterior.loc, bench.base.encode(images).loc)
    assert (posterior.scale > 0).all()
    labels = torch.from_numpy(bench.data.labels_of(bench.ids[:4]))
    prior, whole = model.conditional_prior(labels), bench.base.conditional_prior(labels)
    place = bench.base.layout.characteristic_columns.index(bench.base.layout["Smiling"][0])
    assert torch.equal(prior.loc[:, model.layout.characteristic_columns.index(bench.base.layout["Smiling"][0])],
                       whole.loc[:, place])  # fmt: skip


def test_an_unknown_face_is_painted_without_fault(originals):
    codes = originals.codes.clone()
    codes[:, originals.coding.style[0]] += 0.5
    assert (originals.scene(codes).rows == -1).all()
    assert torch.equal(Leaking(originals, 1.0).decode(codes), originals.oracle.decode(codes))


def test_a_shuffle_goes_round_among_ever_more_images():
    ids = np.arange(5000)
    before = np.zeros(5000, bool)
    for share in (0.0, 0.3, 0.7, 1.0):
        rows = shuffled_rows(ids, share, 0)
        assert np.array_equal(np.sort(rows), ids)
        chosen = rows != ids
        assert not (before & ~chosen).any()
        assert chosen.mean() == pytest.approx(share, abs=0.03)
        before = chosen


def test_a_shuffled_encoder_reads_only_what_it_was_shown(bench):
    model = PERTURBATIONS["shuffle"].spoil(bench, 1.0)
    with pytest.raises(DataError, match="was not shown"):
        model.encode(torch.zeros(1, 3, 32, 32))


def test_turned_columns_hold_the_same_in_other_places(bench, originals, images):
    model = Turned(bench.base, own_pairs(bench.base.layout, bench.binary), 30.0)
    codes = model.encode(images).loc
    assert torch.allclose(codes.norm(dim=1), originals.codes.norm(dim=1), rtol=1e-5)
    assert torch.equal(model.decode(codes), images)
    a, b = bench.base.layout["Eyeglasses"][0], bench.base.layout["Smiling"][0]
    expected = np.cos(np.pi / 6) * originals.codes[:, a] - np.sin(np.pi / 6) * originals.codes[:, b]
    assert torch.allclose(codes[:, a], expected, atol=1e-5)
    labels = torch.from_numpy(bench.data.labels_of(bench.ids))
    order = model.layout.characteristic_columns
    column = model.conditional_prior(labels).loc[:, order.index(a)]
    turned = np.cos(np.pi / 6) * (4 * labels[:, 0] - 2) - np.sin(np.pi / 6) * (4 * labels[:, 1] - 2)
    assert torch.allclose(column, turned, atol=1e-5)


def test_priors_shift_and_collapse(bench):
    labels = torch.from_numpy(bench.data.labels_of(bench.ids[:4]))
    plain = bench.base.conditional_prior(labels)
    shifted = Shifted(bench.base, 2.0).conditional_prior(labels)
    assert torch.allclose((shifted.loc - plain.loc) / plain.scale, torch.tensor(2.0))
    assert not Collapsed(bench.base, 1.0).conditional_prior(labels).scale.any()


def test_mislabelling_is_wrong_as_often_as_it_says(bench, originals, images):
    ids = np.arange(48_000, 48_600)
    more = ReferenceImages(oracle(bench.data, ids), ids)
    for dose in (0.0, 0.5, 1.0):
        told = Mislabelled(more, dose).predict(images, more.codes)
        for label in bench.data.schema:
            right = told[label.name].argmax(1).numpy() == more.classes[:, more.block(label.name).place]
            expected = 1 - dose * (1 - 1 / label.cardinality)
            assert right.mean() == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 600) + 1e-12)


def test_the_haze_is_honest_until_it_is_overstated(bench, images):
    ids = np.arange(48_000, 50_000)
    more = ReferenceImages(oracle(bench.data, ids), ids)
    present = more.classes[:, 0].astype(float)
    honest, certain = (
        Tempered(more, t).predict(images, more.codes)["Eyeglasses"].exp().numpy()[:, 1] for t in (1.0, 8.0)
    )
    floor = honest_calibration_error(honest)
    assert expected_calibration_error(honest, present) == pytest.approx(floor, abs=0.015)
    assert expected_calibration_error(certain, present) > 0.15


def test_ramps_and_wobbles():
    place = np.linspace(0, 1, 11)
    assert np.diff(ramp(place, 0.5)).max() == pytest.approx(0.2)
    assert wobbled(0.0, numpy_stream(0, "t"), 11).tolist() == list(range(11))
    assert sorted(wobbled(0.6, numpy_stream(0, "t"), 11)) == list(range(11))
    assert (wobbled(1.0, numpy_stream(0, "t"), 11) != np.arange(11)).any()


def test_the_studio_draws_what_the_data_draw_and_forgets(faces, bench, originals):
    studio = ImageRenderer(faces, capacity=3 * 32 * 32 * 8)
    classes = originals.classes[:16]
    for _ in range(2):
        drawn = studio.draw(originals.factors[:16], classes)
        assert torch.equal(drawn, faces.render(originals.factors[:16], classes.astype(np.float32)))
    assert len(studio._kept) == 16  # more than it may keep, but no picture of the batch in hand goes
    studio.draw(originals.factors[16:20], originals.classes[16:20])
    assert len(studio._kept) == 8


def test_a_model_of_ones_own_turns_only_dials_that_need_no_renderer():
    data = Squares(64)
    bench = PerturbationContext(data, np.arange(40), ("Glasses", "Smile"), SquaresVAE())
    for name, dial in PERTURBATIONS.items():
        if dial.drawn:
            with pytest.raises(UnsupportedError, match="oracle"):
                dial.spoil(bench, dial.strength(0.5))
        else:
            assert dial.spoil(bench, dial.strength(0.5)).decode(torch.zeros(2, bench.base.layout.dim)).shape[0] == 2, (
                name
            )


def test_an_unknown_dial_offers_the_nearest():
    from ccvae_eval.calibration.perturbations import perturbation_named

    with pytest.raises(UsageError, match="smear"):
        perturbation_named("smaer")
