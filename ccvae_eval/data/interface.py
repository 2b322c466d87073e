"""Interface of a data set, its optional capabilities, and the quantisation of rendered factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol, Self, runtime_checkable

from ccvae_eval.core.types import Bools, Floats, Ids, Images
from ccvae_eval.model.interface import Batch, LabelSchema

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Split = Literal["train", "judge", "test"]
SPLITS: tuple[Split, ...] = ("train", "judge", "test")


@runtime_checkable
class DataSet(Protocol):
    """Labelled images (or points), with the ids 0 .. len - 1."""

    @property
    def spec(self) -> str:
        """The text from which ``open_data`` opens the data set again: ``name[:path][,key=value]``."""
        ...

    @property
    def schema(self) -> LabelSchema: ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W) or (D,)."""
        ...

    @property
    def digest(self) -> str:
        """Hexadecimal digest of the content: equal digests mean equal images and labels."""
        ...

    def __len__(self) -> int: ...

    def batch(self, ids: Ids) -> Batch: ...

    def labels_of(self, ids: Ids) -> NDArray[np.float32]:
        """The labels of some images, shape (N, L), without reading the images."""
        ...

    def split(self, name: Split) -> Ids:
        """The ids of one split, ascending; may be empty."""
        ...

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        """Open the data set from the parts of a spec; an unknown option raises a ``UsageError``."""
        ...


@runtime_checkable
class HasRegions(Protocol):
    """Capability: the region of each label in each image (docs/metrics.md, section 0)."""

    @property
    def region_source(self) -> str:
        """Origin of the regions, for reports: "renderer", "masks of ...", "boxes of ..."."""
        ...

    def region(self, ids: Ids, label: str) -> Bools | None:
        """Mask of the label in each image, shape (N, H, W); None for a label without a region."""
        ...


@runtime_checkable
class HasCounterfactuals(Protocol):
    """Capability: render an image with one attribute changed and all else fixed."""

    def with_attribute(self, ids: Ids, label: str, value: NDArray[np.float32]) -> Images:
        """The images with ``label`` set to ``value``: for each image a class, or the value of a continuous label."""
        ...


@runtime_checkable
class HasRedraws(Protocol):
    """Capability: resample the variety of one attribute (another pair of glasses on the same face)."""

    def redraw(self, ids: Ids, label: str, value: NDArray[np.float32], draw: int) -> Images:
        """The images with ``label`` set to ``value`` and its variety resampled; ``draw`` numbers the sample."""
        ...


@runtime_checkable
class HasVariety(Protocol):
    """Capability: the variety parameters of each attribute (shape, size, colour of the glasses)."""

    def variety_names(self, label: str) -> tuple[str, ...]: ...

    def variety(self, ids: Ids, label: str) -> Floats:
        """The parameters, shape (N, V), columns as in ``variety_names``; defined even if the attribute is absent."""
        ...

    def with_variety(
        self, ids: Ids, values: Mapping[str, NDArray[np.float32]], variety: Mapping[str, Floats]
    ) -> Images:
        """The images with the labels ``values`` and the variety parameters ``variety``, all else unchanged."""
        ...


@runtime_checkable
class HasFactors(Protocol):
    """Capability: the generative factors behind each image (sprites: shape, scale, position)."""

    @property
    def factor_names(self) -> tuple[str, ...]: ...

    def factors(self, ids: Ids) -> Floats: ...


@runtime_checkable
class Renders(HasFactors, HasVariety, Protocol):
    """Capability: render an image from any factors and labels.

    Every factor is uniform over the images and takes the values of :func:`ccvae_eval.data.interface.quantize`. The
    variety parameter ``v`` of label ``c`` is the factor ``c.v``; every other factor is style.
    """

    @property
    def renderer(self) -> str:
        """Name, version and size of the renderer: equal names give equal images for equal factors and labels."""
        ...

    def render(self, factors: Floats, labels: NDArray[np.float32]) -> Images:
        """Render one image for each row.

        ``render(factors(ids), labels_of(ids))`` equals ``batch(ids).images`` in every bit.

        Args:
            factors: shape (N, F); they are quantised.
            labels: shape (N, L), without missing values.
        """
        ...


@runtime_checkable
class NeedsNoPath(Protocol):
    """Capability: the data set is built in or generated, so the spec in a checkpoint suffices to open it."""

    needs_no_path: bool


@runtime_checkable
class BringsData(Protocol):
    """Capability of a model: it contains its own data, such as a table of codes, and needs no ``--data``."""

    @property
    def own_data(self) -> DataSet: ...


QUANTIZATION_LEVELS = 2**20
"""Levels of a factor in [0, 1]: finer than any visible change, coarser than float32 rounding."""


def quantize(values: Floats) -> Floats:
    """Move each factor in [0, 1] to the middle of its level, so that float32 codes restore it exactly.

    Values outside go to the nearest level.

    >>> import numpy as np
    >>> (quantize(np.array([0.0, 0.25, 1.0])) * QUANTIZATION_LEVELS).tolist()
    [0.5, 262144.5, 1048575.5]
    """
    import numpy as np

    levels = np.clip(np.floor(values * QUANTIZATION_LEVELS), 0, QUANTIZATION_LEVELS - 1)
    return (levels + 0.5) / QUANTIZATION_LEVELS
