"""Image features, and the spread of samples measured in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ccvae_eval.core.errors import PluginError, UnsupportedError, UsageError
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.diversity.metric import Diversity, FeatureSpread
from ccvae_eval.metrics.generation.metric import Generation
from ccvae_eval.metrics.shared.features import HogFeatures, variety_features
from ccvae_eval.plugins.registry import add_plugin_file
from tests.support.fakes import SCHEMA, Squares, SquaresVAE, Table

pytestmark = pytest.mark.oracle

COUNT = 64


def striped(angle: float, size: int = 64) -> torch.Tensor:
    """Return a sine wave along a direction, in degrees from the x axis."""
    down, across = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    along = across * np.cos(np.radians(angle)) + down * np.sin(np.radians(angle))
    return (0.5 + 0.4 * torch.sin(along * 0.4)).float().expand(1, 3, -1, -1)


@pytest.mark.parametrize("direction", [0, 2, 4, 6])
def test_an_edge_falls_into_the_bin_of_its_direction(direction):
    found = HogFeatures().features(striped(direction * 180 / 8)).reshape(11, 8, 8)[3:, 2:-2, 2:-2].square().sum((1, 2))
    assert int(found.argmax()) == direction
    assert float(found[direction] / found.sum()) > 0.9


def test_a_shift_changes_edges_less_than_pixels():
    image, turned = striped(0.0), striped(90.0)
    shifted = image.roll(4, 3)
    by_edges, by_pixels = (
        [float((features(x) - features(image)).square().mean()) for x in (shifted, turned)]
        for features in (HogFeatures().features, torch.clone)
    )
    # a shift by a quarter of a wave changes pixels as much as another direction does, and edges a third as much
    assert by_pixels[0] == pytest.approx(by_pixels[1], rel=0.05)
    assert by_edges[0] < 0.4 * by_edges[1]


PLUGIN = """
class Means:
    def features(self, images):
        return images.mean((2, 3))

class Unflattened:
    def features(self, images):
        return images

CCVAE_EVAL = {"features": {"means": Means, "unflattened": Unflattened}}
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    file = Path(tmp_path_factory.mktemp("plugin")) / "means.py"
    file.write_text(PLUGIN)
    add_plugin_file(file)


def rows(metric):
    subject = prepare(SquaresVAE(scale=0.2), Squares(COUNT), np.arange(COUNT))
    found = measure(subject, [metric]).measurements[0]
    assert found.status == "ok", found.reason
    return found


@pytest.mark.usefixtures("plugin")
def test_feature_spread_is_the_rms_over_all_pairs_in_standard_deviations_of_real_images():
    subject = prepare(SquaresVAE(), Squares(COUNT), np.arange(COUNT))
    draws = [torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(s)) for s in range(5)]
    real = Squares(COUNT).batch(np.arange(COUNT)).images.mean((2, 3)).double()
    unit = real.std(0, correction=0)
    features = [x.mean((2, 3)).double() / unit for x in draws]
    pairs = [((a - b) ** 2).mean(1) for i, a in enumerate(features) for b in features[:i]]
    expected = torch.stack(pairs).mean(0).sqrt().numpy()
    assert FeatureSpread("means", subject).of(draws) == pytest.approx(expected, rel=1e-6)
    region = np.zeros((4, 32 * 32), bool)
    region[1:, :16] = True
    inside = FeatureSpread("means", subject).of(draws, draws[0], region)
    assert np.isnan(inside[0])
    masked = [draws[0].clone() for _ in draws]
    for one, x in zip(masked, draws, strict=True):
        one[1:, :, 0, :16] = x[1:, :, 0, :16]
    assert inside[1:] == pytest.approx(FeatureSpread("means", subject).of(masked)[1:], rel=1e-9)


@pytest.mark.usefixtures("plugin")
def test_feature_spread_has_rows_and_the_redraws_as_reference():
    found = rows(Diversity(features="edges", redrawn=32))
    spread = [v for v in found.values if v.name == "feature_spread" and v.characteristic == "Glasses"]
    at = [dict(v.at) for v in spread]
    assert at == [{"features": "edges"}, {"features": "edges", "where": "image"}]
    assert all(v.estimate.value > 0 and v.chance == 0.0 for v in spread)
    assert spread[0].reference > 0
    assert not [v for v in rows(Diversity(redrawn=0)).values if v.name == "feature_spread"]
    mine = [v for v in rows(Diversity(features="means", redrawn=0)).values if v.name == "feature_spread"]
    assert {v.at["features"] for v in mine} == {"means"}


def test_variety_features_predict_the_variety_parameters():
    data = Squares(3000)
    found = variety_features(data)
    assert list(found.r2) == [f"{label.name}.{label.name} shade" for label in data.schema]
    ids = data.split("test")
    predicted = found.features(data.batch(ids).images).numpy()
    for index, label in enumerate(data.schema):
        # images show a sigmoid of the parameter: a linear regression predicts most of it
        shows = data.labels_of(ids)[:, index] == 1
        parameter = data.variety(ids, label.name)[shows, 0]
        assert np.corrcoef(predicted[shows, index], parameter)[0, 1] > 0.95
        assert found.r2[f"{label.name}.{label.name} shade"] > 0.9
    alone = torch.cat([found.features(data.batch(ids[k : k + 1]).images) for k in range(3)])
    assert torch.equal(alone, found.features(data.batch(ids[:3]).images))


class HiddenVariety(Squares):
    """The variety parameter of Glasses does not appear in the images; Hair has none."""

    digest = "hidden variety"

    def variety_names(self, label):
        return () if label == "Hair" else super().variety_names(label)

    def variety(self, ids, label):
        found = super().variety(ids, label)
        return super().variety(np.roll(ids, 1), label) if label == "Glasses" else found


def test_an_unpredictable_parameter_does_not_become_a_feature():
    assert list(variety_features(HiddenVariety(3000)).r2) == ["Smile.Smile shade"]


def test_variety_features_need_data_with_variety_parameters():
    with pytest.raises(UnsupportedError, match="needs drawn images with variety parameters"):
        variety_features(Table(SCHEMA, torch.zeros(8, len(SCHEMA))))


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("name", ["edges", "means"])
def test_generation_accepts_built_in_and_registered_features(name):
    found = rows(Generation(features=name))
    frechet = next(v for v in found.values if v.name == "frechet")
    assert frechet.at["features"] == name
    assert frechet.estimate.defined


@pytest.mark.usefixtures("plugin")
def test_an_extractor_that_does_not_return_vectors_is_named_in_the_error():
    subject = prepare(SquaresVAE(), Squares(COUNT), np.arange(COUNT))
    with pytest.raises(PluginError, match=r"unflattened.* must have shape \(N, F\)"):
        FeatureSpread("unflattened", subject)
    with pytest.raises(UsageError, match="not a registered feature extractor"):
        FeatureSpread("nothing", subject)
