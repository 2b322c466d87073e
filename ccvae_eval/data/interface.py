"""What a data set must be, and what more it may offer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.types import Bools, Floats, Ids, Images
from ccvae_eval.model.interface import Batch, LabelSchema

Split = Literal["train", "judge", "test"]
SPLITS: tuple[Split, ...] = ("train", "judge", "test")


@runtime_checkable
class DataSet(Protocol):
    """Labelled images (or points), each with an id 0 .. len - 1."""

    @property
    def spec(self) -> str:
        """What ``open_data`` would need to open it again: ``name[:path][,key=value]``."""
        ...

    @property
    def schema(self) -> LabelSchema: ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W) or (D,)."""
        ...

    @property
    def digest(self) -> str:
        """A hexadecimal digest of the content: same digest, same images and labels."""
        ...

    def __len__(self) -> int: ...

    def batch(self, ids: Ids) -> Batch: ...

    def labels_of(self, ids: Ids) -> NDArray[np.float32]:
        """The labels of some images, (N, L), without reading the images."""
        ...

    def split(self, name: Split) -> Ids:
        """The ids of one split, ascending; may be empty."""
        ...

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        """Opens what ``name[:path][,key=value]`` names; unknown options are a ``UsageError``."""
        ...


@runtime_checkable
class HasRegions(Protocol):
    """The data set knows where a characteristic lives in each image (docs/metrics.md, section 0)."""

    @property
    def region_source(self) -> str:
        """For reports: "renderer", "masks of ...", "boxes of ..."."""
        ...

    def region(self, ids: Ids, label: str) -> Bools | None:
        """Where the label lives, shape (N, H, W); None if this label has no region at all."""
        ...


@runtime_checkable
class HasCounterfactuals(Protocol):
    """The data set can render an image with one attribute changed and all else fixed."""

    def with_attribute(self, ids: Ids, label: str, value: NDArray[np.float32]) -> Images:
        """The same images with ``label`` set to ``value`` (one for each image)."""
        ...


@runtime_checkable
class HasRedraws(Protocol):
    """The data set can re-draw one attribute's variety (another pair of glasses on the same face)."""

    def redraw(self, ids: Ids, label: str, value: NDArray[np.float32], draw: int) -> Images:
        """The images with ``label`` set to ``value`` and its variety drawn anew, draw number ``draw``."""
        ...


@runtime_checkable
class HasVariety(Protocol):
    """The data set knows the variety parameters behind each attribute (shape, size, colour of the glasses)."""

    def variety_names(self, label: str) -> tuple[str, ...]: ...

    def variety(self, ids: Ids, label: str) -> Floats:
        """The parameters, shape (N, V), columns as in ``variety_names``; drawn whether or not the attribute shows."""
        ...

    def with_variety(
        self, ids: Ids, values: Mapping[str, NDArray[np.float32]], variety: Mapping[str, Floats]
    ) -> Images:
        """The images with the labels in ``values`` and the variety parameters in ``variety``, all else theirs."""
        ...


@runtime_checkable
class HasFactors(Protocol):
    """The data set has generative factors beyond its labels (sprites: shape, scale, position)."""

    @property
    def factor_names(self) -> tuple[str, ...]: ...

    def factors(self, ids: Ids) -> Floats: ...


@runtime_checkable
class Renders(HasFactors, HasVariety, Protocol):
    """The data set is drawn from its factors and labels, and draws any others.

    Every factor is uniform over the images and lies on the points of
    :func:`ccvae_eval.data.quantize.on_lattice`; the variety ``v`` of label ``c`` is the factor ``c.v``;
    every other factor is style.
    """

    @property
    def renderer(self) -> str:
        """Names the drawing, its version and size: same name, same picture of the same factors and labels."""
        ...

    def render(self, factors: Floats, labels: NDArray[np.float32]) -> Images:
        """The picture of each row; factors, shape (N, F), are put on the lattice, labels (N, L) are complete.
        ``render(factors(ids), labels_of(ids))`` is ``batch(ids).images`` in every bit."""
        ...


@runtime_checkable
class NeedsNoPath(Protocol):
    """The data set is part of the package or made on the spot: a checkpoint's own spec can open it."""

    needs_no_path: bool


@runtime_checkable
class BringsData(Protocol):
    """A model that comes with the data it is of, such as a table of codes: it needs no ``--data``."""

    @property
    def own_data(self) -> DataSet: ...
