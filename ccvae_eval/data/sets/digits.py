"""``digits``: the 1,797 handwritten digits that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
from sklearn.datasets import load_digits

from ccvae_eval.data.images.decode import bilinear
from ccvae_eval.data.memory import InMemory, checked_arrays
from ccvae_eval.data.sets.mnist import SCHEMA
from ccvae_eval.data.spec import Options, refuse_path

EDGE = 8
BRIGHTEST = 16


class Digits(InMemory):
    """``digits[,size=32]``: real handwriting without a download, 8 x 8 pixels of 17 greys (Alpaydin and Kaynak 1998).

    The only label is ``digit``. ``size=8`` keeps the original pixels, divided by 16; another size is resized bilinearly
    from bytes. The default of 32 suits the convolutional networks. Splits follow from a hash of the position.
    """

    needs_no_path: ClassVar[bool] = True

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        refuse_path("digits", path)
        read = Options("digits", options)
        size = read.integer("size", 32, low=EDGE, high=512)
        read.finish()
        found = load_digits()
        grey = np.asarray(found.images, np.float32) / BRIGHTEST
        images = grey if size == EDGE else bilinear(np.rint(grey * 255).astype(np.uint8), size)
        arrays = checked_arrays(images, np.asarray(found.target), SCHEMA, None, "digits")
        return cls(*arrays, f"digits,size={size}")
