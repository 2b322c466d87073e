"""Consistency and restrictiveness (Shu et al. 2020) against closed forms, on scenes that are their own factors."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ccvae_eval.data.sets.sprites import Sprites
from ccvae_eval.metrics.disentanglement import PanelSettings, panel, table_of
from ccvae_eval.metrics.disentanglement.context import PanelContext, ScoreResult
from ccvae_eval.metrics.disentanglement.group_scores import consistency, restrictiveness
from ccvae_eval.metrics.disentanglement.scores import DEFAULT, SCORES, family_of, score_of
from ccvae_eval.model.interface import binary_schema
from ccvae_eval.statistics.resampling import ResampleWeights
from study.expected.positions import centres

pytestmark = pytest.mark.oracle

ROWS = 4000
NAMES = ("a", "b", "c")
Encode = Callable[[Any], Any]


class Scenes:
    """Images that consist of three independent factors with ten levels each, from -1 to 1."""

    spec, digest, input_shape, renderer, needs_no_path = "scenes", "0" * 8, (3,), "scenes", True
    schema, factor_names = binary_schema(), NAMES

    def __init__(self, seed: int = 0) -> None:
        self.table = np.random.default_rng(seed).integers(0, 10, (ROWS, 3)) / 4.5 - 1

    def __len__(self) -> int:
        return ROWS

    def factors(self, ids: Any) -> Any:
        return self.table[ids]

    def labels_of(self, ids: Any) -> Any:
        return np.zeros((len(ids), 0), np.float32)

    def render(self, factors: Any, labels: Any) -> Any:
        del labels
        return torch.from_numpy(factors)

    def batch(self, ids: Any) -> Any: ...

    def split(self, name: str) -> Any: ...

    def from_spec(self, path: Any, options: Any) -> Any: ...

    def variety_names(self, label: str) -> Any: ...

    def variety(self, ids: Any, label: str) -> Any: ...

    def with_variety(self, ids: Any, values: Any, variety: Any) -> Any: ...


def scores_of(encode: Encode, profile: Any = "robust", seed: int = 0) -> dict[str, ScoreResult]:
    """Both scores of codes that a function computes from the factors of images."""
    data = Scenes(seed)
    table = table_of(encode(data.table), data.table, names=NAMES)
    weights = ResampleWeights(seed, ROWS, 50)

    def of_images(images: Any) -> Any:
        return encode(images.numpy())

    context = PanelContext(table, PanelSettings(profile=profile), seed, weights, data=data, encode=of_images)
    return {"consistency": consistency(context)[0], "restrictiveness": restrictiveness(context)[0]}


def rotated(factors: Any) -> Any:
    """The first two factors turned by 45 degrees."""
    a, b, c = factors.T
    return np.column_stack([(a + b) / np.sqrt(2), (a - b) / np.sqrt(2), c])


def noisy(share: float, seed: int = 0) -> Encode:
    """Codes of which noise makes up a share of the variance."""
    rng, variance = np.random.default_rng(seed), np.var(np.arange(10) / 4.5)

    def encode(factors: Any) -> Any:
        noise = rng.standard_normal(factors.shape) * np.sqrt(variance)
        return np.sqrt(1 - share) * factors + np.sqrt(share) * noise

    return encode


@pytest.mark.parametrize("profile", ["robust", "reference"])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_factors_as_codes_have_both(profile: str, order: list[int]) -> None:
    for found in scores_of(lambda factors: factors[:, order] * [1.0, 5.0, -2.0], profile).values():
        assert found.point.total == pytest.approx(1, abs=1e-9)
        assert found.point.factors == pytest.approx([1, 1, 1], abs=1e-9)


@pytest.mark.parametrize("profile", ["robust", "reference"])
def test_independent_noise_has_neither(profile: str) -> None:
    rng = np.random.default_rng(3)
    for found in scores_of(lambda factors: rng.standard_normal(factors.shape), profile).values():
        assert found.interval is not None
        low, high = (float(end.total) for end in found.interval)
        assert low - 0.02 <= 0 <= high + 0.02
        assert float(found.chance.total) == 0


@pytest.mark.parametrize("profile", ["robust", "reference"])
def test_rotated_codes_lose_half_of_what_the_two_factors_mix(profile: str) -> None:
    """Half of each turned dimension's variance is that of the other factor; the third factor is not mixed.

    Among the two other dimensions of a turned factor, one has half of its variance from that factor.
    """
    found = scores_of(rotated, profile)
    expected = {"consistency": [0.5, 0.5, 1], "restrictiveness": [0.75, 0.75, 1]}
    for name, values in expected.items():
        assert found[name].point.factors == pytest.approx(values, abs=0.06)
        ends = found[name].interval
        assert ends is not None
        assert ends[0].total - 0.01 <= np.mean(values) <= ends[1].total + 0.01


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_noise_takes_its_share_of_the_variance(share: float) -> None:
    for found in scores_of(noisy(share)).values():
        assert found.point.total == pytest.approx(1 - share, abs=0.05)


@pytest.mark.slow
def test_intervals_cover_the_closed_form() -> None:
    """Codes with 30% noise, in new data and new groups each time."""
    inside = {"consistency": 0, "restrictiveness": 0}
    factors = dict.fromkeys(inside, 0.0)
    for seed in range(60):
        for name, found in scores_of(noisy(0.3, seed), seed=seed).items():
            assert found.interval is not None
            low, high = found.interval
            inside[name] += low.total <= 0.7 <= high.total
            assert low.factors is not None
            assert high.factors is not None
            factors[name] += float(((low.factors <= 0.7) & (high.factors >= 0.7)).mean())
    assert all(51 <= count <= 60 for count in (*inside.values(), *factors.values())), (inside, factors)


def test_each_factor_has_an_interval_of_its_own() -> None:
    """The third factor is not turned, so the interval of the mean does not contain its score."""
    data = Scenes()
    table = table_of(rotated(data.table), data.table, names=NAMES)
    weights, settings = ResampleWeights(0, ROWS, 50), PanelSettings(score=("consistency",))
    context = PanelContext(table, settings, 0, weights, data=data, encode=lambda images: rotated(images.numpy()))
    rows: dict[str | None, Any] = {}
    recorder: Any = SimpleNamespace(
        weights=weights, add=lambda _, factor, found, *__, **___: rows.update({factor: found.estimate})
    )
    (found,) = consistency(context)
    found.add_to(recorder, NAMES, (), None)
    assert list(rows) == [None, *NAMES]
    assert all((row.low + row.high) / 2 == pytest.approx(row.value) for row in rows.values())
    assert rows[None].high < rows["c"].low


def test_a_constant_aligned_dimension_is_not_consistent() -> None:
    """It is the dimension left for the third factor."""
    found = scores_of(lambda factors: factors * [1.0, 1.0, 0.0], "reference")["consistency"]
    assert found.point.factors == pytest.approx([1, 1, 0], abs=1e-9)


def test_one_dimension_has_no_restrictiveness() -> None:
    found = scores_of(lambda factors: factors[:, :1], "reference")
    assert np.isnan(found["restrictiveness"].point.total)
    assert found["restrictiveness"].reason == "needs two latent dimensions"
    assert found["consistency"].point.factors[0] == pytest.approx(1, abs=1e-9)


def test_arrays_cannot_be_rendered() -> None:
    values = panel(Scenes().table, Scenes().table, PanelSettings(score=("consistency", "restrictiveness"))).values
    assert {v.note for v in values} >= {"needs images rendered with given factors"}
    assert not any(v.estimate.defined for v in values if v.name in ("consistency", "restrictiveness"))


def test_both_are_scores_of_their_own_outside_the_default_set() -> None:
    for name in ("consistency", "restrictiveness"):
        assert score_of(name) == name
        assert family_of(name) == "modularity"
        assert name in SCORES
        assert name not in DEFAULT


def test_groups_of_sprites_are_rendered_and_encoded() -> None:
    """The centre of the figure encodes both positions, and nothing else."""
    data = Sprites(size=32)
    ids = np.random.default_rng(0).choice(len(data), 600, replace=False)
    names = ("position_x", "position_y")

    labels = data.labels_of(ids)[:, [data.schema.index(name) for name in names]]
    table, weights = table_of(centres(data.batch(ids).images), labels, names=names), ResampleWeights(0, 600, 50)
    context = PanelContext(table, PanelSettings(profile="reference"), 0, weights, data=data, encode=centres)
    for found in (consistency(context)[0], restrictiveness(context)[0]):
        assert found.point.factors == pytest.approx([1, 1], abs=0.03)
        assert found.note.startswith("768 images drawn")
