"""A VAE whose edit of its label is an arbitrary function of the image, for metrics of image changes.

The images are textures, which the encoder of ``EditingVAE`` identifies by their id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.core.types import Bools, Codes, Gaussian, Ids, Images, Labels
from ccvae_eval.model.interface import Batch, LabelSchema, LatentLayout, binary_schema

Edit = Callable[[Images, Tensor], Images]
"""Images and ids -> the images with the other class of the label."""

NAME = "Glasses"


def textures(count: int, size: int = 64, blur: int = 3, seed: int = 0) -> Images:
    """Blurred colour noise, about as rough as a face, shape (count, 3, size, size)."""
    noise = torch.rand(count, 3, size + 2 * blur, size + 2 * blur, generator=torch_stream(seed, "textures"))
    smooth = functional.avg_pool2d(noise, blur, 1)[..., :size, :size]
    return (0.5 + 1.5 * (smooth - smooth.mean())).clamp(0.05, 0.95)


def square(size: int = 64) -> Tensor:
    """The region of the label: a central square with 3/8 of the side."""
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[size * 5 // 16 : size * 11 // 16, size * 5 // 16 : size * 11 // 16] = True
    return mask


class Textures:
    """Textured images with one binary label, ids 0 .. count - 1.

    Args:
        images: the images.
        region: region of the label; None = the label has no region.
    """

    needs_no_path = True
    region_source = "square"

    def __init__(self, images: Images, region: Tensor | None) -> None:
        self.images, self.mask = images, region

    @property
    def spec(self) -> str:
        return "textures"

    @property
    def schema(self) -> LabelSchema:
        return binary_schema(NAME)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[1:])

    @property
    def digest(self) -> str:
        return "0" * 8

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, ids: Ids) -> Batch:
        return Batch(self.images[torch.from_numpy(ids)], torch.from_numpy(self.labels_of(ids)), ids)

    def labels_of(self, ids: Ids) -> NDArray[np.float32]:
        return (np.asarray(ids) % 2).astype(np.float32)[:, None]

    def split(self, name: str) -> Ids:
        del name
        return np.arange(len(self))

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Textures:
        raise NotImplementedError

    def region(self, ids: Ids, label: str) -> Bools | None:
        del label
        return None if self.mask is None else np.broadcast_to(self.mask.numpy(), (len(ids), *self.mask.shape)).copy()


class EditingVAE(torch.nn.Module):
    """Latent dimension 0 encodes the label as +-2, dimension 1 the id of the image; the other class applies the edit.

    Args:
        data: the images.
        edit: the edit.
        scale: standard deviation of the posterior in dimension 0; samples change the label if it is 2 or more.
    """

    def __init__(self, data: Textures, edit: Edit, scale: float = 0.1) -> None:
        super().__init__()
        self.data, self.edit, self.scale = data, edit, scale
        self.layout = LatentLayout(2, {NAME: (0,)})
        self.labels = data.schema

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        del labels
        known = self.data.images.flatten(1)
        ids = torch.cdist(images.flatten(1), known, p=1).argmin(1)
        loc = torch.stack([4.0 * (ids % 2) - 2, ids.float()], 1)
        return Gaussian(loc, torch.tensor([self.scale, 0.0]).expand_as(loc).clone())

    def decode(self, codes: Codes) -> Images:
        ids = codes[:, 1].round().long()
        base = self.data.images[ids]
        edited = (codes[:, 0] > 0) != (ids % 2 > 0)
        return torch.where(edited[:, None, None, None], self.edit(base, ids), base)

    def conditional_prior(self, labels: Labels) -> Gaussian:
        return Gaussian(4 * labels - 2, torch.full_like(labels, 0.1))
