"""Groups of images that share a factor, drawn for the purpose where the data can be rendered, and encoded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.data.contract import DataSet, HasCounterfactuals, Renders
from ccvae_eval.errors import DataError
from ccvae_eval.metrics.disentanglement.bench import Bench
from ccvae_eval.model import LabelSchema
from ccvae_eval.statistics.information import Classes
from ccvae_eval.streams import numpy_stream
from ccvae_eval.types import Floats, Images

Floats32 = NDArray[np.float32]

GROUPS, SIZE = 24, 16
"""Groups drawn for each factor, and images in each."""


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """For each factor the codes of drawn images and the group that each is in.

    Args:
        groups: of each factor codes (M, D) and groups (M,).
        size: images in a group.
        note: how many were drawn.
    """

    groups: list[tuple[Floats, Classes]]
    size: int
    note: str


@dataclass(frozen=True, slots=True)
class Scenes:
    """What a drawn image is made of: labels and factors, by name."""

    schema: LabelSchema
    factor_names: tuple[str, ...]


def rendered_pools(bench: Bench, columns: list[int], *, all_but_one: bool) -> Rendered | None:
    """Draws groups of images that share one factor (or all but one); None where the data cannot be drawn so.

    A factor is a label, or one of the data's own factors by name; what is not held fixed is drawn anew for each image
    from the data set's own images. Data that can only be drawn with another label serve as long as every factor is one.
    """
    data, names = bench.data, bench.table.factor_names
    if bench.encode is None or data is None:
        return None
    if isinstance(data, Renders):
        draw = partial(_of_scenes, bench)
    elif isinstance(data, HasCounterfactuals) and all(name in data.schema for name in names):
        draw = partial(_of_counterfactuals, bench)
    else:
        return None
    try:
        found = [bench.once(f"rendered/{name}/{all_but_one}", partial(draw, name, all_but_one)) for name in names]
    except DataError as error:
        # a label that no image has; and the oracle reads no picture that it has not drawn itself
        bench.notes.append(f"groups were not drawn: {error.what}")
        bench.encode = None
        return None
    count = sum(len(groups) for _, groups in found)
    return Rendered([(codes[:, columns], groups) for codes, groups in found], SIZE, f"{count} images drawn")


def _encoded(bench: Bench, images: Images) -> tuple[Floats, Classes]:
    assert bench.encode is not None
    return bench.encode(images), np.repeat(np.arange(GROUPS), SIZE)


def _of_counterfactuals(bench: Bench, name: str, all_but_one: bool) -> tuple[Floats, Classes]:
    """Images of the data set with one label set: one value for a group, or many values for one image."""
    data = bench.data
    assert isinstance(data, HasCounterfactuals)
    assert isinstance(data, DataSet)
    generator = numpy_stream(bench.seed, f"counterfactuals/{all_but_one}", name)
    shown = generator.integers(0, len(data), (GROUPS, SIZE))
    values = data.labels_of(shown.ravel())[:, data.schema.index(name)].reshape(GROUPS, SIZE)
    missing = np.isnan(values)
    if missing.all():
        raise DataError("every label is missing", where=name)
    if missing.any():
        values[missing] = generator.choice(values[~missing], int(missing.sum()))
    if all_but_one:
        shown = shown[:, :1].repeat(SIZE, 1)
    else:
        values = values[:, :1].repeat(SIZE, 1)
    return _encoded(bench, data.with_attribute(shown.ravel(), name, values.ravel()))


def _of_scenes(bench: Bench, name: str, all_but_one: bool) -> tuple[Floats, Classes]:
    """Images drawn from factors and labels of the data set's own images, mixed."""
    data = bench.data
    assert isinstance(data, Renders)
    assert isinstance(data, DataSet)
    generator = numpy_stream(bench.seed, f"rendered/{all_but_one}", name)
    shown = generator.integers(0, len(data), (GROUPS, SIZE))
    factors = data.factors(shown.ravel()).reshape(GROUPS, SIZE, -1)
    labels = data.labels_of(shown.ravel()).reshape(GROUPS, SIZE, -1)
    scenes = Scenes(data.schema, data.factor_names)
    if all_but_one:
        free, held = (factors.copy(), labels.copy()), (factors, labels)
        factors[:], labels[:] = factors[:, :1], labels[:, :1]
        _copy(scenes, name, free, held)
    else:
        fixed = (factors[:, :1].repeat(SIZE, 1), labels[:, :1].repeat(SIZE, 1))
        _copy(scenes, name, fixed, (factors, labels))
    return _encoded(bench, data.render(factors.reshape(GROUPS * SIZE, -1), labels.reshape(GROUPS * SIZE, -1)))


def _copy(scenes: Scenes, name: str, source: tuple[Floats, Floats32], target: tuple[Floats, Floats32]) -> None:
    """Takes one factor over from other scenes."""
    if name in scenes.schema:
        column = scenes.schema.index(name)
        target[1][..., column] = source[1][..., column]
    else:
        column = scenes.factor_names.index(name)
        target[0][..., column] = source[0][..., column]
