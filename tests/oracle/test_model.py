"""The oracle: exact reconstructions, interventions equal to the renderer's, codes distributed as the prior."""

import numpy as np
import pytest
import torch
from scipy import stats

from ccvae_eval.core.errors import DataError, UnsupportedError, UsageError
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.model.interface import (
    HasConditionalPrior,
    Label,
    LabelledVAE,
    LabelSchema,
    Predicts,
    binary_schema,
    supports,
)
from ccvae_eval.model.latents import replaced
from ccvae_eval.oracle.model import DEVIATION, MEAN, REACH, SPREAD, oracle
from tests.support.fakes import Squares

pytestmark = pytest.mark.oracle

MODULE = "ccvae_eval.oracle.model"
LEAST_P = 1e-3


@pytest.fixture(scope="module")
def faces():
    return Faces(size=32)


@pytest.fixture(scope="module")
def ids(faces):
    return faces.split("test")[:200]


@pytest.fixture(scope="module")
def model(faces, ids):
    return oracle(faces, ids)


@pytest.fixture(scope="module")
def images(faces, ids):
    return faces.batch(ids).images


@pytest.fixture(scope="module")
def codes(model, images):
    return model.encode(images).loc


@pytest.fixture(scope="module")
def many(faces):
    """Codes and labels of 3,000 images."""
    ids = faces.split("test")[:3000]
    return oracle(faces, ids).encode(faces.batch(ids).images).loc.double().numpy(), faces.labels_of(ids)


def test_the_oracle_predicts_and_has_a_conditional_prior(model, faces):
    assert supports(model, LabelledVAE)
    assert supports(model, Predicts)
    assert supports(model, HasConditionalPrior)
    assert model.labels == faces.schema
    assert tuple(model.layout.characteristics) == faces.schema.names
    assert model.layout.dim == sum(
        (1 if label.kind == "binary" else label.cardinality) + len(faces.variety_names(label.name))
        for label in faces.schema
    ) + sum("." not in name for name in faces.factor_names)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_decoding_the_code_of_an_image_gives_the_same_pixels(size):
    faces = Faces(size=size, seed=9)
    ids = faces.split("test")[:64]
    images = faces.batch(ids).images
    model = oracle(faces, ids)
    posterior = model.encode(images)
    assert torch.equal(model.decode(posterior.loc), images)
    assert posterior.loc.dtype == torch.float32
    assert bool((posterior.scale == 0).all())


def test_changing_the_sign_of_u_gives_the_counterfactual_of_the_data(model, faces, ids, codes):
    labels = faces.labels_of(ids)
    for name in faces.schema.names[:-1]:
        column = model.layout[name][:1]
        flipped = model.decode(replaced(codes, column, -codes[:, list(column)]))
        expected = faces.with_attribute(ids, name, 1 - labels[:, faces.schema.index(name)])
        assert torch.equal(flipped, expected), name


def test_another_greatest_u_changes_the_class_only(model, faces, ids, codes):
    columns = model.layout["Hair_Color"][:5]
    for k in range(5):
        u = torch.full((len(ids), 5), -1.0)
        u[:, k] = 0.5
        expected = faces.with_attribute(ids, "Hair_Color", np.full(len(ids), k, np.float32))
        assert torch.equal(model.decode(replaced(codes, columns, u)), expected)


def test_the_dimensions_v_change_the_variety_only(model, faces, ids, codes):
    redrawn = faces.variety(ids[::-1].copy(), "Eyeglasses")
    columns = model.layout["Eyeglasses"][1:]
    moved = replaced(codes, columns, codes.flip(0)[:, list(columns)])
    assert torch.equal(model.decode(moved), faces.with_variety(ids, {}, {"Eyeglasses": redrawn}))
    assert stats.norm.cdf(codes[:, list(columns)].double()) == pytest.approx(faces.variety(ids, "Eyeglasses"), abs=1e-6)


def test_the_noise_of_u_is_a_truncated_normal(many, model, faces):
    codes, labels = many
    law = stats.truncnorm(-REACH, REACH)
    assert pytest.approx(float(law.std()), rel=1e-12) == DEVIATION / SPREAD
    for name in faces.schema.names[:-1]:
        u = codes[:, model.layout[name][0]]
        y = 2 * labels[:, faces.schema.index(name)] - 1
        assert np.array_equal(np.sign(u), y)
        assert stats.kstest((u - MEAN * y) / SPREAD, law.cdf).pvalue > LEAST_P
    hair = labels[:, faces.schema.index("Hair_Color")]
    u = codes[:, list(model.layout["Hair_Color"][:5])]
    assert np.array_equal(u.argmax(1), hair)
    for k in range(5):
        e = (u[:, k] - np.where(hair == k, MEAN, -MEAN)) / SPREAD
        assert stats.kstest(e, law.cdf).pvalue > LEAST_P


def test_codes_of_a_class_follow_the_conditional_prior(many, model, faces):
    codes, labels = many
    order = list(model.layout.characteristic_columns)
    prior = model.conditional_prior(torch.from_numpy(labels))
    standard = (codes[:, order] - prior.loc.numpy()) / prior.scale.numpy()
    for column in standard.T:
        assert stats.kstest(column, "norm").pvalue > LEAST_P
    correlation = np.corrcoef(standard.T) - np.eye(len(order))
    assert np.abs(correlation).max() < stats.norm.isf(1e-3 / len(order) ** 2) / np.sqrt(len(codes))


def test_style_is_normal_and_independent_of_the_labels(many, model, faces):
    codes, labels = many
    for column in model.layout.style:
        assert stats.kstest(codes[:, column], "norm").pvalue > LEAST_P
        for y in labels.T[:-1]:
            assert stats.mannwhitneyu(codes[y == 1, column], codes[y == 0, column]).pvalue > LEAST_P / 100


def test_the_prior_of_u_is_nan_for_a_missing_label(model, faces):
    labels = torch.zeros(1, len(faces.schema))
    labels[0, faces.schema.index("Smiling")] = torch.nan
    prior = model.conditional_prior(labels)
    missing = [model.layout.characteristic_columns[k] for k in torch.nonzero(prior.loc[0].isnan())[:, 0]]
    assert missing == [model.layout["Smiling"][0]]


def test_predictions_follow_bayes_rule_on_u(model, faces, ids, images, codes):
    labels = faces.labels_of(ids)
    points = codes + 2 * torch.randn(codes.shape, generator=torch_stream(0, "test"))
    for z in (codes, points):
        predicted = model.predict(images, z)
        for label in faces.schema:
            k = label.cardinality
            means = np.array([[-MEAN], [MEAN]]) if k == 2 else MEAN * (2 * np.eye(k) - 1)
            u = z[:, list(model.layout[label.name][: means.shape[1]])].double().numpy()
            joint = np.stack([stats.norm.logpdf(u, mean, SPREAD).sum(1) for mean in means], 1)
            expected = joint - np.logaddexp.reduce(joint, 1, keepdims=True)
            assert predicted[label.name].double().numpy() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    for label in faces.schema:
        assert np.array_equal(
            model.predict(images, codes)[label.name].argmax(1), labels[:, faces.schema.index(label.name)]
        )


def test_the_path_between_two_classes_passes_through_no_third_class(model):
    columns = list(model.layout["Hair_Color"])
    labels = torch.zeros(5, len(model.labels))
    labels[:, model.labels.index("Hair_Color")] = torch.arange(5)
    order = model.layout.characteristic_columns
    means = model.conditional_prior(labels).loc[:, [order.index(column) for column in columns]]
    for a in range(5):
        for b in range(5):
            path = torch.stack([means[a] + t * (means[b] - means[a]) for t in torch.linspace(0, 1, 21)])
            codes = replaced(torch.zeros(21, model.layout.dim), columns, path)
            predicted = model.predict(torch.empty(0), codes)["Hair_Color"].argmax(1)
            assert set(predicted.tolist()) <= {a, b}


def test_rendered_pictures_can_be_encoded(model, codes):
    rendered = model.decode(codes + torch.randn(codes.shape, generator=torch_stream(1, "test")))
    again = model.encode(rendered)
    assert torch.equal(model.decode(again.loc), rendered)
    assert torch.equal(model.encode(rendered).loc, again.loc)


def test_an_edit_changes_no_other_latent_dimension(model, codes):
    columns = model.layout["Eyeglasses"]
    edited = replaced(codes, columns[:1], -codes[:, list(columns[:1])])
    again = model.encode(model.decode(edited)).loc
    v = [*columns[1:], *model.layout.style]
    assert torch.equal(again[:, v], codes[:, v])
    for name, others in model.layout.characteristics.items():
        sign = codes if name != "Eyeglasses" else -codes
        assert torch.equal(again[:, others[0]].sign(), sign[:, others[0]].sign())


def test_glasses_removed_and_added_again_are_the_same_glasses(model, images, codes):
    """Also after the face without glasses was rendered from a code with other glasses."""
    (u, *v) = model.layout["Eyeglasses"]
    off = codes.clone()
    off[:, u] = -2.0
    rendered = model.decode(off)
    off[:, v] = 1.3
    assert torch.equal(model.decode(off), rendered)
    back = model.encode(rendered).loc
    back[:, u] = codes[:, u]
    assert torch.equal(model.decode(back), images)


def test_encoding_does_not_depend_on_earlier_renderings(faces, ids, codes):
    """Many codes give the same picture: without glasses, the shape of the glasses does not matter."""
    (u, *v) = oracle(faces, ids[:4]).layout["Eyeglasses"]
    edits = []
    for shape in (-0.5, 0.9):
        edited = codes[:40].clone()
        edited[:, u], edited[:, v] = -1.5, shape
        edited[20:, -1] = 0.25  # a style that it was not given
        edits.append(edited)
    encoded = []
    for order in (edits, edits[::-1]):
        model = oracle(faces, ids[:40])
        rendered = [model.decode(edited) for edited in order]
        assert torch.equal(rendered[0], rendered[1])
        encoded.append(model.encode(rendered[0]).loc)
    assert torch.equal(encoded[0], encoded[1])


def test_codes_do_not_depend_on_the_batch(model, images, codes):
    parts = [model.encode(part).loc for part in torch.split(images, 7)]
    assert torch.equal(torch.cat(parts), codes)


def test_extreme_codes_can_be_decoded(model):
    rendered = model.decode(torch.full((2, model.layout.dim), 40.0) * torch.tensor([[1.0], [-1.0]]))
    assert torch.equal(model.decode(model.encode(rendered).loc), rendered)


def test_an_unknown_picture_is_an_error(model, images):
    with pytest.raises(DataError, match="unknown picture"):
        model.encode(1 - images[:1])


def test_old_renderings_are_dropped_but_given_images_are_kept(monkeypatch, faces, ids, images, codes):
    monkeypatch.setattr(f"{MODULE}.MAX_RENDERED", 8)
    model = oracle(faces, ids[:20])
    first = model.decode(codes[:1] + 1)
    model.encode(first)
    model.decode(codes[:8] + 0.5)
    with pytest.raises(DataError):
        model.encode(first)
    assert torch.equal(model.encode(images[:20]).loc, codes[:20])


def test_unselected_labels_belong_to_style(faces, ids, images, codes, model):
    some = faces.schema.select(["Hair_Color", "Smiling"])
    narrow = oracle(faces, ids, some)
    assert tuple(narrow.layout.characteristics) == ("Hair_Color", "Smiling")
    assert narrow.layout.dim == model.layout.dim
    assert set(model.layout["Eyeglasses"]) <= set(narrow.layout.style)
    assert torch.equal(narrow.encode(images).loc, codes)
    labels = torch.tensor([[3.0, 1.0]])
    assert narrow.conditional_prior(labels).loc[0].tolist() == [-2, -2, -2, 2, -2, 0, 0, 0, 2, 0, 0, 0]
    assert list(narrow.predict(images, codes)) == ["Hair_Color", "Smiling"]


def test_the_default_images_are_the_test_split():
    faces = Faces(size=32, n=50)
    oracle(faces).encode(faces.batch(faces.split("test")).images)


def test_data_that_are_not_synthetic_or_have_continuous_labels_are_unsupported(faces, ids):
    class Aged(Faces):
        schema = LabelSchema((*binary_schema("Smiling"), Label("Age", "continuous")))

    with pytest.raises(UnsupportedError, match="synthetic"):
        oracle(Squares())
    with pytest.raises(UnsupportedError, match="continuous"):
        oracle(Aged(size=32, n=50))
    with pytest.raises(UsageError, match="Smile"):
        oracle(faces, ids, binary_schema("Smile"))
