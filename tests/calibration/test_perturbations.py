"""Each perturbation has its stated effect in proportion to its strength, and none at its first strength."""

import numpy as np
import pytest
import torch

from ccvae_eval.calibration.code_faults import (
    Collapsed,
    Mislabelled,
    RotatedPairs,
    Shifted,
    Tempered,
    characteristic_pairs,
    partial_rotation,
    shuffled_rows,
)
from ccvae_eval.calibration.decoder_faults import (
    Biased,
    Dimmed,
    Faded,
    Idle,
    Leaking,
    Smeared,
    Strayed,
    Warped,
    permuted_points,
    ramp,
)
from ccvae_eval.calibration.perturbations import (
    MODEL_ITSELF,
    PERTURBATIONS,
    PerturbationContext,
    perturbation_named,
)
from ccvae_eval.calibration.reference_images import ImageRenderer, ReferenceImages
from ccvae_eval.calibration.study_cells import VIEWS, RememberedRenderings
from ccvae_eval.core.errors import DataError, UnsupportedError, UsageError
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.model.latents import replaced
from ccvae_eval.oracle.model import oracle
from ccvae_eval.statistics.calibration_error import calibration_error_floor
from ccvae_eval.statistics.ratios import class_frequencies
from tests.support.fakes import Squares, SquaresVAE
from tests.support.statistics import calibration_error

NAMES = ("Eyeglasses", "Smiling", "Wearing_Hat", "Wearing_Necktie", "Hair_Color")


@pytest.fixture(scope="module")
def faces():
    return Faces(size=32)


@pytest.fixture(scope="module")
def context(faces):
    return PerturbationContext(faces, faces.split("test")[:96], NAMES)


@pytest.fixture(scope="module")
def references(context):
    return context.references


@pytest.fixture(scope="module")
def images(faces, context):
    return faces.batch(context.ids).images


def without_glasses(references):
    """Codes with the other class of glasses."""
    (u,) = references.block("Eyeglasses").shown
    return replaced(references.codes, (u,), -references.codes[:, [u]])


def edits(references):
    """Codes after some interventions: other glasses, another variety, another hair colour."""
    yield references.codes
    yield without_glasses(references)
    yield replaced(references.codes, references.block("Wearing_Hat").variety, torch.tensor(0.7))
    hair = references.block("Hair_Color").shown
    yield replaced(references.codes, hair, references.codes[:, list(hair)].roll(1, 1))


FROM_ORACLE = [name for name, perturbation in PERTURBATIONS.items() if perturbation.base == MODEL_ITSELF]


@pytest.mark.parametrize("name", FROM_ORACLE)
def test_the_first_strength_leaves_the_oracle_unchanged(name, context, references, images):
    model = PERTURBATIONS[name].perturb(context, PERTURBATIONS[name].strengths[0])
    plain = oracle(context.data, context.ids)
    assert torch.equal(model.encode(images).loc, references.codes)
    for codes in edits(references):
        assert (model.decode(codes) - plain.decode(codes)).abs().max() < 1e-6
    labels = torch.from_numpy(context.data.labels_of(context.ids))
    assert torch.allclose(model.conditional_prior(labels).scale, plain.conditional_prior(labels).scale, atol=1e-6)
    for label, prediction in model.predict(images, references.codes).items():
        assert torch.equal(prediction.argmax(1), plain.predict(images, references.codes)[label].argmax(1))


@pytest.mark.parametrize("name", list(PERTURBATIONS))
def test_the_last_strength_changes_codes_images_prior_or_predictions(name, context, references, images):
    perturbation = PERTURBATIONS[name]
    first, last = (perturbation.perturb(context, strength) for strength in perturbation.strengths)
    labels = torch.from_numpy(context.data.labels_of(context.ids))
    (u,) = references.block("Eyeglasses").shown
    halfway = replaced(without_glasses(references), (u,), torch.tensor(0.5))
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


def test_smear_keeps_the_mass_of_the_change_and_ends_evenly(references):
    codes = without_glasses(references)
    rows = references.scene(codes).classes[:, 0] == 1  # for the others the edit is the base itself
    base = Smeared(references, 0.0).decode(replaced(codes, (0,), torch.tensor(-2.0)))
    whole = (Smeared(references, 0.0).decode(codes) - base)[rows].abs()
    even = (Smeared(references, 1.0).decode(codes) - base)[rows].abs()
    half = (Smeared(references, 0.5).decode(codes) - base)[rows].abs()
    mass = whole.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(even, mass.expand_as(even), atol=1e-6)
    # opposite signs of a weak change and the even change cancel
    assert half.mean((1, 2, 3)).numpy() == pytest.approx(mass.flatten().numpy(), rel=0.02)


def test_perturbed_images_stay_in_range(references):
    for make in (Smeared, Strayed, Warped, Faded, Dimmed, Leaking, Idle):
        for strength in (0.3, 1.0):
            images = make(references, strength).decode(without_glasses(references))
            assert images.min() >= 0
            assert images.max() <= 1


def test_stray_keeps_the_sizes_of_changes_but_not_their_positions(references):
    codes = without_glasses(references)
    rows = references.scene(codes).classes[:, 0] == 1
    base = Strayed(references, 0.0).decode(replaced(codes, (0,), torch.tensor(-2.0)))
    before, after = ((Strayed(references, d).decode(codes) - base)[rows].abs().flatten(2) for d in (0.0, 1.0))
    assert torch.allclose(before.sort(2).values / 2, after.sort(2).values, atol=1e-6)
    assert not torch.allclose(before / 2, after, atol=1e-2)


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_a_rendered_counterfactual_can_be_encoded(faces, context, strength):
    """Also for a warp of strength 0, which replaces the inside of the region."""
    references = PerturbationContext(faces, context.ids, NAMES).references  # without cached images
    warped = Warped(references, strength)
    u = references.block("Eyeglasses").shown[0]
    without = replaced(references.codes, (u,), -references.codes[:, [u]].abs())
    with_glasses = np.flatnonzero((references.codes[:, u] > 0).numpy())
    truth = faces.with_attribute(context.ids[with_glasses], "Eyeglasses", np.zeros(len(with_glasses), np.float32))
    with pytest.raises(DataError, match="cannot encode"):
        warped.encode(truth)
    warped.decode(without)
    read = warped.encode(truth).loc
    assert bool((read[:, u] < 0).all())


def test_warp_leaves_unedited_images_unchanged(references, images):
    assert torch.equal(Warped(references, 1.0).decode(references.codes), images)
    codes = without_glasses(references)
    region = torch.from_numpy(references.data.region(references.ids, "Eyeglasses"))[:, None]
    still, moved = (Warped(references, strength).decode(codes) for strength in (0.0, 1.0))
    plain = ReferenceImages(references.oracle, references.ids).oracle.decode(codes)
    assert torch.equal(torch.where(region, 0.0, still), torch.where(region, 0.0, plain))
    assert torch.equal(torch.where(region, still, 0.0), torch.where(region, moved, 0.0))
    assert (torch.where(region, 0.0, moved) - torch.where(region, 0.0, plain)).abs().mean() > 0.01


def test_leak_changes_all_other_labels_at_strength_one(references):
    scene = references.scene(without_glasses(references))
    for strength in (0.0, 0.5, 1.0):
        leaked_classes = Leaking(references, strength).leaked_classes(scene)
        assert np.array_equal(leaked_classes[:, 0], scene.classes[:, 0])
        share = (leaked_classes[:, 1:] != scene.classes[:, 1:]).mean()
        assert share == pytest.approx(strength, abs=4 * np.sqrt(strength * (1 - strength) / scene.classes[:, 1:].size))
    assert np.array_equal(
        Leaking(references, 1.0).leaked_classes(references.scene(references.codes)), references.classes
    )


def test_bias_sets_all_other_labels_to_the_class_of_the_edited_one_at_strength_one(references):
    edited = references.scene(references.codes).classes.copy()
    edited[:, 0] = 1 - edited[:, 0]
    scene = references.scene(references.coding.codes(references.factors, edited, np.full((len(edited), 13), 0.5)))
    wanted = np.repeat(edited[:, :1], edited.shape[1], 1)
    assert np.array_equal(Biased(references, 0.0).leaked_classes(scene), edited)
    assert np.array_equal(Biased(references, 1.0).leaked_classes(scene), wanted)
    half = Biased(references, 0.5).leaked_classes(scene)
    here = edited != wanted
    assert np.array_equal(half[~here], edited[~here])
    assert (half == wanted)[here].mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(here.sum()))


def test_the_oracle_can_encode_what_remembered_data_render(faces, context):
    references = PerturbationContext(faces, context.ids, NAMES).references
    data = RememberedRenderings(faces, references.oracle)
    factors, labels = faces.factors(context.ids[:8]), faces.labels_of(context.ids[8:16])
    images = faces.render(factors, labels)
    with pytest.raises(DataError, match="cannot encode an unknown picture"):
        references.oracle.encode(images)
    assert torch.equal(data.render(factors, labels), images)
    codes = references.oracle.encode(images).loc
    assert np.array_equal(references.coding.classes(codes), labels)
    assert len(data) == len(faces)


def test_an_idle_intervention_returns_the_original(references, images):
    for codes in edits(references):
        assert torch.equal(Idle(references, 1.0).decode(codes), images)
    same = (Idle(references, 0.5).decode(without_glasses(references)) == images).flatten(1).all(1)
    assert float(same.float().mean()) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(len(images)))


def test_a_perturbed_decoder_can_encode_its_images(references):
    model = Smeared(references, 0.5)
    codes = without_glasses(references)
    again = references.scene(model.encode(model.decode(codes)).loc)
    assert np.array_equal(again.classes, references.scene(codes).classes)


def test_idle_leaves_the_reconstruction_of_a_rendered_counterfactual_unchanged(references, images):
    """Edited images keep their glasses, while a face rendered without glasses is reconstructed without."""
    model = Idle(references, 1.0)
    glasses = references.classes[:, 0] == 1
    edited = model.decode(without_glasses(references))[glasses]
    assert torch.equal(edited, images[glasses])
    absent = references.classes.copy()
    absent[:, 0] = 0
    truth = references.draw(references.factors, absent)[glasses]
    assert torch.equal(model.decode(model.encode(truth).loc), truth)


def test_idle_requests_are_resampled_from_the_class_frequencies(references):
    """Faces sampled from the prior with a request for glasses."""
    generator = np.random.default_rng(0)
    codes = torch.from_numpy(generator.standard_normal((600, references.coding.dim)).astype(np.float32))
    (u,) = references.block("Eyeglasses").shown
    codes[:, u] = 2.0
    place = references.block("Eyeglasses").place
    share = class_frequencies(references.classes[:, place], 2)[1]
    for strength in (0.0, 0.5, 1.0):
        model = Idle(references, strength)
        scene = model.scene(codes)
        with_glasses = (model.resampled_classes(scene, np.arange(600))[:, place] == 1).mean()
        expected = 1 - strength * (1 - share)
        assert with_glasses == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 600) + 1e-12)


def test_correlated_dimensions_are_normal_with_the_stated_correlation_and_the_same_images(faces):
    ids = faces.split("test")[:2000]
    context = PerturbationContext(faces, ids, NAMES)
    images = faces.batch(ids[:64]).images
    model = context.correlated(0.6)
    codes = model.encode(images).loc
    assert torch.equal(model.decode(codes), images)
    codes = model.encode(faces.batch(ids).images).loc.double().numpy()
    a, b = (context.references.block(name).shown[0] for name in ("Eyeglasses", "Smiling"))
    assert np.corrcoef(codes[:, a], codes[:, b])[0, 1] == pytest.approx(0.6, abs=4 * 0.64 / np.sqrt(len(ids)))
    for column in (a, b):
        assert np.quantile(codes[:, column], [0.1, 0.5, 0.9]) == pytest.approx([-1.2816, 0, 1.2816], abs=0.13)
    labels = torch.from_numpy(faces.labels_of(ids))
    prior = model.conditional_prior(labels)
    place = model.layout.characteristic_columns.index(b)
    for smiling in (0, 1):
        rows = labels[:, faces.schema.index("Smiling")] == smiling
        assert codes[rows.numpy(), b].mean() == pytest.approx(float(prior.loc[rows, place].mean()), abs=0.13)


def test_two_half_rotations_are_the_whole_rotation():
    rotations = [partial_rotation(6, share, numpy_stream(0, "t")) for share in (0.0, 0.5, 1.0)]
    for rotation in rotations:
        assert np.allclose(rotation @ rotation.T, np.eye(6))
    assert np.allclose(rotations[1] @ rotations[1], rotations[2])


def test_the_view_of_disentanglement_has_one_dimension_per_label_and_a_density(context, images):
    model = VIEWS["disentanglement"](context.base_model)
    assert all(len(columns) == 1 for columns in model.layout.characteristics.values())
    posterior = model.encode(images)
    assert torch.equal(posterior.loc, context.base_model.encode(images).loc)
    assert (posterior.scale > 0).all()
    labels = torch.from_numpy(context.data.labels_of(context.ids[:4]))
    prior, whole = model.conditional_prior(labels), context.base_model.conditional_prior(labels)
    place = context.base_model.layout.characteristic_columns.index(context.base_model.layout["Smiling"][0])
    assert torch.equal(prior.loc[:, model.layout.characteristic_columns.index(context.base_model.layout["Smiling"][0])],
                       whole.loc[:, place])  # fmt: skip


def test_a_face_without_original_is_decoded_without_fault(references):
    codes = references.codes.clone()
    codes[:, references.coding.style[0]] += 0.5
    assert (references.scene(codes).rows == -1).all()
    assert torch.equal(Leaking(references, 1.0).decode(codes), references.oracle.decode(codes))


def test_shuffle_permutes_a_growing_set_of_images():
    ids = np.arange(5000)
    before = np.zeros(5000, bool)
    for share in (0.0, 0.3, 0.7, 1.0):
        rows = shuffled_rows(ids, share, 0)
        assert np.array_equal(np.sort(rows), ids)
        chosen = rows != ids
        assert not (before & ~chosen).any()
        assert chosen.mean() == pytest.approx(share, abs=0.03)
        before = chosen


def test_a_shuffled_encoder_refuses_other_images(context):
    model = PERTURBATIONS["shuffle"].perturb(context, 1.0)
    with pytest.raises(DataError, match="not among the images of the calibration"):
        model.encode(torch.zeros(1, 3, 32, 32))


def test_rotated_dimensions_keep_length_images_and_prior(context, references, images):
    model = RotatedPairs(context.base_model, characteristic_pairs(context.base_model.layout, context.binary), 30.0)
    codes = model.encode(images).loc
    assert torch.allclose(codes.norm(dim=1), references.codes.norm(dim=1), rtol=1e-5)
    assert torch.equal(model.decode(codes), images)
    a, b = context.base_model.layout["Eyeglasses"][0], context.base_model.layout["Smiling"][0]
    expected = np.cos(np.pi / 6) * references.codes[:, a] - np.sin(np.pi / 6) * references.codes[:, b]
    assert torch.allclose(codes[:, a], expected, atol=1e-5)
    labels = torch.from_numpy(context.data.labels_of(context.ids))
    order = model.layout.characteristic_columns
    column = model.conditional_prior(labels).loc[:, order.index(a)]
    turned = np.cos(np.pi / 6) * (4 * labels[:, 0] - 2) - np.sin(np.pi / 6) * (4 * labels[:, 1] - 2)
    assert torch.allclose(column, turned, atol=1e-5)


def test_shift_and_collapse_change_the_prior_as_stated(context):
    labels = torch.from_numpy(context.data.labels_of(context.ids[:4]))
    plain = context.base_model.conditional_prior(labels)
    shifted = Shifted(context.base_model, 2.0).conditional_prior(labels)
    assert torch.allclose((shifted.loc - plain.loc) / plain.scale, torch.tensor(2.0))
    assert not Collapsed(context.base_model, 1.0).conditional_prior(labels).scale.any()


def test_mislabel_has_the_stated_error_rate(context, references, images):
    ids = np.arange(48_000, 48_600)
    more = ReferenceImages(oracle(context.data, ids), ids)
    for strength in (0.0, 0.5, 1.0):
        prediction = Mislabelled(more, strength).predict(images, more.codes)
        for label in context.data.schema:
            right = prediction[label.name].argmax(1).numpy() == more.classes[:, more.block(label.name).place]
            expected = 1 - strength * (1 - 1 / label.cardinality)
            assert right.mean() == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 600) + 1e-12)


def test_temper_starts_calibrated_and_becomes_overconfident(context, images):
    ids = np.arange(48_000, 50_000)
    more = ReferenceImages(oracle(context.data, ids), ids)
    present = more.classes[:, 0].astype(float)
    calibrated, overconfident = (
        Tempered(more, t).predict(images, more.codes)["Eyeglasses"].exp().numpy()[:, 1] for t in (1.0, 8.0)
    )
    floor = calibration_error_floor(calibrated)
    assert calibration_error(calibrated, present) == pytest.approx(floor, abs=0.015)
    assert calibration_error(overconfident, present) > 0.15


def test_ramp_and_permuted_points():
    place = np.linspace(0, 1, 11)
    assert np.diff(ramp(place, 0.5)).max() == pytest.approx(0.2)
    assert permuted_points(0.0, numpy_stream(0, "t"), 11).tolist() == list(range(11))
    assert sorted(permuted_points(0.6, numpy_stream(0, "t"), 11)) == list(range(11))
    assert (permuted_points(1.0, numpy_stream(0, "t"), 11) != np.arange(11)).any()


def test_the_renderer_returns_the_images_of_the_data_and_drops_old_ones(faces, context, references):
    renderer = ImageRenderer(faces, capacity=3 * 32 * 32 * 8)
    classes = references.classes[:16]
    for _ in range(2):
        drawn = renderer.draw(references.factors[:16], classes)
        assert torch.equal(drawn, faces.render(references.factors[:16], classes.astype(np.float32)))
    assert len(renderer._kept) == 16  # above capacity, because the current batch is never dropped
    renderer.draw(references.factors[16:20], references.classes[16:20])
    assert len(renderer._kept) == 8


def test_a_given_model_supports_only_perturbations_without_renderer():
    data = Squares(64)
    context = PerturbationContext(data, np.arange(40), ("Glasses", "Smile"), SquaresVAE())
    for name, perturbation in PERTURBATIONS.items():
        if perturbation.needs_oracle:
            with pytest.raises(UnsupportedError, match="oracle"):
                perturbation.perturb(context, perturbation.strength(0.5))
        else:
            assert (
                perturbation.perturb(context, perturbation.strength(0.5))
                .decode(torch.zeros(2, context.base_model.layout.dim))
                .shape[0]
                == 2
            ), name


def test_an_unknown_perturbation_suggests_the_nearest():
    with pytest.raises(UsageError, match="smear"):
        perturbation_named("smaer")
