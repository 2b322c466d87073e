"""Grids render by looking images up: exact counterfactuals, regions and factors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ccvae_eval.core.errors import DataError, LabelMismatchError, UsageError
from ccvae_eval.data.interface import (
    SPLITS,
    HasCounterfactuals,
    HasFactors,
    HasRedraws,
    HasRegions,
    HasVariety,
    Renders,
    quantize,
)
from ccvae_eval.data.sets.grid.grid import Contents, Factor, Grid, grid_of
from ccvae_eval.data.sets.grid.rows import ArrayRows
from ccvae_eval.data.spec import open_data
from ccvae_eval.data.splits import split_by_id
from ccvae_eval.metrics.disentanglement import PanelSettings
from ccvae_eval.metrics.disentanglement.context import PanelContext
from ccvae_eval.metrics.disentanglement.group_scores import beta_vae, factor_vae, z_max_var
from ccvae_eval.metrics.disentanglement.table import table_of
from ccvae_eval.model.interface import supports
from ccvae_eval.oracle.model import oracle
from ccvae_eval.statistics.resampling import ResampleWeights
from ccvae_eval.testing.data import check_data_set
from tests.support import grid_files

SIZES = (2, 3, 4)
FACTORS = tuple(Factor.of(name, np.linspace(0, 1, n)) for name, n in zip("abc", SIZES, strict=True))
IMAGES = grid_files.noise(24, 8, 8, 3)


class Small(Grid):
    name = "small"
    expected = "nothing"

    @classmethod
    def read(cls, place, sizes):
        raise DataError("nothing is read")


def small(labels=(), order=None, images=IMAGES, **options) -> Small:
    return Small(Contents(FACTORS, ArrayRows(images, "here"), order), "small:x", labels, **options)


def test_a_grid_conforms_and_has_every_capability_of_a_renderer():
    data = small()
    check_data_set(data)
    for capability in (HasFactors, HasCounterfactuals, HasRedraws, HasVariety, HasRegions, Renders):
        assert supports(data, capability)


@pytest.mark.parametrize(
    "sizes",
    [
        (3, 6, 40, 32, 32), (10, 10, 10, 8, 4, 15), (6, 6, 2, 3, 3, 40, 40), (4, 4, 2, 3, 3, 40, 40), (4, 24, 183),
        (5, 6, 6, 6, 6, 6, 6), (3, 8, 5, 4, 4, 4, 6, 4, 4),
    ],
)  # fmt: skip
def test_each_split_of_a_released_grid_contains_all_values(sizes: tuple[int, ...]) -> None:
    splits = split_by_id(int(np.prod(sizes)))
    for name in SPLITS:
        levels = np.unravel_index(splits.ids(name), sizes)
        assert tuple(len(np.unique(level)) for level in levels) == sizes


def test_ids_enumerate_the_combinations_last_factor_fastest():
    data, ids = small(), np.arange(24)
    assert data.levels(ids).tolist() == [list(level) for level in np.ndindex(*SIZES)]
    assert np.array_equal(data.ids(data.levels(ids)), ids)
    assert np.array_equal(data.labels_of(ids), data.levels(ids))
    assert data.factor_names == ()
    assert data.factors(ids).shape == (24, 0)


def test_an_order_of_the_file_is_undone():
    order = np.random.default_rng(0).permutation(24)
    scattered = np.empty_like(IMAGES)
    scattered[order] = IMAGES
    assert np.array_equal(small(order=order, images=scattered).pixels(np.arange(24)), IMAGES)


def test_every_counterfactual_is_the_image_at_its_place():
    data = small()
    for place, label in enumerate("abc"):
        for value in range(SIZES[place]):
            changed = data.with_attribute(np.arange(24), label, np.full(24, value, np.float32))
            for i, level in enumerate(np.ndindex(*SIZES)):
                wanted = np.ravel_multi_index([value if k == place else v for k, v in enumerate(level)], SIZES)
                assert torch.equal(changed[i], data.batch(np.array([wanted])).images[0])
            assert torch.equal(changed, data.redraw(np.arange(24), label, np.full(24, value, np.float32), 3))
    kept = data.with_attribute(np.arange(24), "b", np.full(24, np.nan, np.float32))
    assert torch.equal(kept, data.batch(np.arange(24)).images)


@pytest.mark.parametrize("labels", [(), ("b",), ("c", "a"), ("c:continuous",)])
def test_images_are_rendered_from_factors_and_labels(labels):
    data, ids = small(labels), np.arange(24)
    factors, values = data.factors(ids), data.labels_of(ids)
    assert {*data.factor_names, *data.schema.names} == {"a", "b", "c"}
    assert np.array_equal(factors, quantize(factors))
    assert torch.equal(data.render(factors, values), data.batch(ids).images)
    assert torch.equal(data.render(factors.astype(np.float32).astype(float), values), data.batch(ids).images)
    for place, name in enumerate(data.factor_names):
        count = SIZES["abc".index(name)]
        assert sorted(set(factors[:, place].tolist())) == quantize((np.arange(count) + 0.5) / count).tolist()
    assert data.renderer == small(labels).renderer != small(labels, size=4).renderer


def test_a_continuous_label_is_set_to_the_nearest_value():
    data, ids = small(["c:continuous", "a"]), np.arange(0, 24, 4)
    assert data.schema.names == ("c", "a")
    assert [label.kind for label in data.schema] == ["continuous", "categorical"]
    for asked, level in ((-5, 0), (0.16, 0), (0.17, 1), (0.5001, 2), (1, 3), (9, 3)):
        changed = data.with_attribute(ids, "c", np.full(len(ids), asked, np.float32))
        assert torch.equal(changed, data.batch(ids + level).images)
    assert np.array_equal(data.region(ids, "c"), small().region(ids, "c"))
    assert data.factor_names == ("b",)


def test_the_region_holds_the_pixels_that_the_factor_changes():
    images = np.full((24, 6, 6, 1), 100, np.uint8)
    for i, (a, b, c) in enumerate(np.ndindex(*SIZES)):
        images[i, 0, 0] += 9 * a
        images[i, 1, b] += 50
        images[i, 5, 5] += 2 * c  # too little
    data = small(images=images)
    ids = np.arange(24)
    wanted = np.zeros((3, 6, 6), np.bool_)
    wanted[0, 0, 0] = wanted[1, 1, :3] = True
    for label, mask in zip("abc", wanted, strict=True):
        found = data.region(ids, label)
        assert found is not None
        for i in ids:
            assert np.array_equal(found[i], mask)
        assert np.array_equal(data.region(ids[::-1], label), found[::-1])
    assert data.region(ids[:0], "a").shape == (0, 6, 6)


def test_splits_and_sizes():
    data = small(size=4)
    check_data_set(data)
    assert data.input_shape == (3, 4, 4)
    assert data.digest != small().digest != small(["a"]).digest
    assert sorted(np.concatenate([data.split(name) for name in ("train", "judge", "test")])) == list(range(24))


@pytest.mark.parametrize("labels", [["d"], ["a", "a"], ["a", "a:continuous"], ["a:binary"]])
def test_wrong_labels_are_refused(labels):
    with pytest.raises(UsageError):
        small(labels)


def test_wrong_values_are_refused():
    with pytest.raises(LabelMismatchError):
        small().with_attribute(np.arange(2), "a", np.full(2, 2, np.float32))
    with pytest.raises(DataError, match="23 images, the factors have 24 combinations"):
        small(images=IMAGES[:23])
    with pytest.raises(DataError, match="has 1025 values"):
        Factor.counted("a", 1025)


def test_a_table_gives_factors_and_order():
    table = np.array(list(np.ndindex(2, 3)))[:, ::-1] * 10.0
    factors, order = grid_of(table, ("x", "y"), "table", {"y": ("no", "yes")})
    assert [factor.values for factor in factors] == [(0, 10, 20), (0, 10)]
    assert [factor.classes for factor in factors] == [("0", "10", "20"), ("no", "yes")]
    assert order is not None
    assert table[order].tolist() == sorted(table.tolist())
    assert grid_of(table[order], ("x", "y"), "table")[1] is None
    for wrong in (table[:-1], table[[0, 0, 1, 2, 3, 4]], np.vstack([table, table])):
        with pytest.raises(DataError, match="not one for each combination"):
            grid_of(wrong, ("x", "y"), "table")
    with pytest.raises(DataError, match="NaN"):
        grid_of(np.where(table == 20, np.nan, table), ("x", "y"), "table")
    with pytest.raises(DataError, match="2 columns, expected x, y, z"):
        grid_of(table, ("x", "y", "z"), "table")


def test_a_spec_opens_the_same_data_again(tmp_path: Path):
    data = open_data(f"dsprites:{grid_files.dsprites(tmp_path)},labels=shape|posX:continuous,size=32")
    assert open_data(data.spec).digest == data.digest


class Searched:
    """A grid that renders by comparing the labels and factors of every image."""

    from_spec, with_variety, variety, variety_names, region = [Small.from_spec] * 5

    def __init__(self, data: Small) -> None:
        self.data, every = data, np.arange(len(data))
        self.table = np.column_stack([data.factors(every), data.labels_of(every)]).tolist()
        self.spec, self.schema, self.input_shape, self.digest = data.spec, data.schema, data.input_shape, data.digest
        self.factor_names, self.renderer, self.batch, self.split = data.factor_names, "search", data.batch, data.split
        self.labels_of, self.factors = data.labels_of, data.factors

    def __len__(self):
        return len(self.data)

    def render(self, factors, labels):
        wanted = np.column_stack([factors, labels]).tolist()
        return self.batch(np.array([self.table.index(row) for row in wanted])).images


@pytest.mark.oracle
@pytest.mark.parametrize("labels", [(), ("b",)])
@pytest.mark.parametrize("profile", ["robust", "reference"])
def test_interventional_scores_equal_those_of_brute_force(profile, labels):
    every, random = np.arange(24), np.random.default_rng(0)
    mixing = random.normal(size=(3 * 8 * 8, 4))
    images = small().levels(every)[:, None, None] * 60 + random.normal(size=(24, 8, 8, 3)) * 10
    data = small(labels, images=np.clip(images, 0, 255).astype(np.uint8))

    def encode(images):
        return images.flatten(1).double().numpy() @ mixing

    def scores(source):
        settings, weights = PanelSettings(profile=profile), ResampleWeights(0, 24, 100)
        columns = np.column_stack([data.labels_of(every), data.factors(every)])
        names = [*data.schema.names, *data.factor_names]
        table = table_of(encode(data.batch(every).images), columns, names=names)
        context = PanelContext(table, settings, 0, weights, data=source, encode=encode)
        found = [result for score in (factor_vae, beta_vae, z_max_var) for result in score(context)]
        assert not context.notes
        return found

    found = repr(scores(data))
    assert found == repr(scores(Searched(data)))
    assert "images drawn" in found


@pytest.mark.parametrize("labels", [(), ("b",)])
def test_a_grid_has_a_reference_model(labels):
    data, ids = small(labels), np.arange(24)
    model, images = oracle(data, ids), data.batch(ids).images
    codes = model.encode(images).loc
    assert torch.equal(model.decode(codes), images)
    for name, predicted in model.predict(images, codes).items():
        assert np.array_equal(predicted.argmax(1), data.labels_of(ids)[:, data.schema.index(name)])
