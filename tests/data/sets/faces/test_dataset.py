from __future__ import annotations

import numpy as np
import pytest
import torch

from ccvae_eval.core.errors import DataError, LabelMismatchError, UsageError
from ccvae_eval.data.interface import (
    HasCounterfactuals,
    HasFactors,
    HasRedraws,
    HasRegions,
    HasVariety,
    NeedsNoPath,
    Renders,
)
from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.data.sets.faces import dataset as faces_module
from ccvae_eval.data.spec import open_data
from ccvae_eval.model.interface import supports
from ccvae_eval.testing.data import check_data_set

IDS = np.array([5, 2, 90])


@pytest.fixture(scope="module")
def data() -> Faces:
    return Faces(n=100, size=32)


@pytest.mark.parametrize("spec", ["faces,n=100,size=32", "faces,n=100,size=128,correlation=0.5,region=strict,seed=4"])
def test_faces_are_a_valid_data_set_with_all_capabilities(spec: str) -> None:
    data = open_data(spec)
    check_data_set(data)
    for capability in (HasRegions, HasCounterfactuals, HasRedraws, HasVariety, HasFactors, NeedsNoPath, Renders):
        assert supports(data, capability)
    again = open_data(data.spec)
    assert (again.spec, again.digest) == (data.spec, data.digest)


def test_an_image_does_not_depend_on_the_number_of_images(data: Faces) -> None:
    assert torch.equal(Faces(n=91, size=32).batch(IDS).images, data.batch(IDS).images)


def test_images_have_byte_precision(data: Faces) -> None:
    images = data.batch(IDS).images
    assert torch.equal((images * 255).round() / 255, images)
    assert np.array_equal((images * 255).round().permute(0, 2, 3, 1).byte().numpy(), data.pixels(IDS))


def test_splits_are_consecutive_ranges(data: Faces) -> None:
    assert [len(data.split(name)) for name in ("train", "judge", "test")] == [60, 20, 20]
    assert np.array_equal(
        np.concatenate([data.split("train"), data.split("judge"), data.split("test")]), np.arange(100)
    )
    assert np.array_equal(Faces(n=1).split("test"), [0])


def test_the_counterfactual_of_the_own_label_equals_the_image(data: Faces) -> None:
    images, labels = data.batch(IDS).images, data.labels_of(IDS)
    for column, label in enumerate(data.schema):
        assert torch.equal(data.with_attribute(IDS, label.name, labels[:, column]), images)
    missing = np.full(3, np.nan, np.float32)
    assert torch.equal(data.with_attribute(IDS, "Smiling", missing), images)


def test_counterfactuals_change_their_region_only() -> None:
    """Exact for the strict region, up to the threshold."""
    data = Faces(n=100, size=64, strict=True)
    flipped = 1 - data.labels_of(IDS)[:, data.schema.index("Eyeglasses")]
    change = (data.with_attribute(IDS, "Eyeglasses", flipped) - data.batch(IDS).images).abs().amax(1).numpy()
    outside = ~data.region(IDS, "Eyeglasses")
    assert change[outside].max() <= 8 / 255 + 1e-6
    assert change[~outside].min() > 8 / 255


def test_redraws_differ_only_if_the_attribute_is_present(data: Faces) -> None:
    ones = np.ones(3, np.float32)
    first, second = (data.redraw(IDS, "Eyeglasses", ones, draw) for draw in (0, 1))
    assert not torch.equal(first, second)
    zeros = np.zeros(3, np.float32)
    assert torch.equal(data.redraw(IDS, "Eyeglasses", zeros, 0), data.redraw(IDS, "Eyeglasses", zeros, 1))


def test_variety_can_be_taken_from_another_face(data: Faces) -> None:
    donor = data.variety(IDS[::-1], "Wearing_Hat")
    ones = {"Wearing_Hat": np.ones(3, np.float32)}
    swapped = data.with_variety(IDS, ones, {"Wearing_Hat": donor})
    assert not torch.equal(swapped[0], data.with_variety(IDS, ones, {})[0])
    assert torch.equal(swapped[1], data.with_variety(IDS, ones, {})[1])  # the middle one is its own donor
    assert donor.shape == (3, len(data.variety_names("Wearing_Hat")))
    beyond = data.with_variety(IDS, ones, {"Wearing_Hat": donor * 0 + 7.0})
    assert torch.equal(beyond, data.with_variety(IDS, ones, {"Wearing_Hat": donor * 0 + 1.0}))


def test_rendering_the_factors_gives_the_image(data: Faces) -> None:
    assert torch.equal(data.render(data.factors(IDS), data.labels_of(IDS)), data.batch(IDS).images)
    for label in data.schema.names:
        names = [f"{label}.{v}" for v in data.variety_names(label)]
        columns = [data.factor_names.index(name) for name in names]
        assert np.array_equal(data.factors(IDS)[:, columns], data.variety(IDS, label))


def test_the_digest_depends_on_every_option() -> None:
    options = [{}, {"size": 64}, {"seed": 1}, {"n": 101}, {"correlation": 0.3}]
    digests = {Faces(**{"n": 100, "size": 32} | option).digest for option in options}
    assert len(digests) == len(options)
    assert Faces(n=100, size=32, strict=True).digest == Faces(n=100, size=32).digest  # same images and labels


@pytest.mark.parametrize(
    "spec",
    [
        "faces:here",
        "faces,size=65",
        "faces,size=many",
        "faces,n=0",
        "faces,n=99999999999",
        "faces,correlation=1",
        "faces,correlation=nan",
        "faces,sise=64",
        "faces,region=wide",
        "faces,n=5,n=6",
    ],
)
def test_invalid_options_are_rejected(spec: str) -> None:
    with pytest.raises(UsageError):
        open_data(spec)


def test_the_constructor_rejects_invalid_arguments() -> None:
    for wrong in ({"size": 16}, {"n": 0}, {"correlation": 1.0}):
        with pytest.raises(UsageError):
            Faces(**wrong)


def test_unknown_ids_labels_and_classes_are_rejected(data: Faces) -> None:
    for ids in ([-1], [100]):
        with pytest.raises(DataError, match="image ids must be from 0 to 99"):
            data.batch(np.array(ids))
    with pytest.raises(UsageError, match="unknown"):
        data.region(IDS, "Beard")
    with pytest.raises(UsageError, match="unknown"):
        data.variety(IDS, "Beard")
    with pytest.raises(LabelMismatchError):
        data.with_attribute(IDS, "Smiling", np.full(3, 2, np.float32))


def test_the_cache_of_regions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Faces(n=100, size=32)
    expected = data.region(np.arange(12), "Bangs")
    monkeypatch.setattr(faces_module, "MAX_CACHED_REGIONS", 5)
    small = Faces(n=100, size=32)
    assert np.array_equal(small.region(np.arange(12), "Bangs"), expected)
    assert len(small._regions) == 5
