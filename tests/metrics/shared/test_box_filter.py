"""Box sums and dilated masks against pooling."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.metrics.shared.region_masks import box_sums, dilated


@pytest.mark.parametrize("size", [1, 2, 3, 9, 12])
def test_box_sums_equal_average_pooling(size: int) -> None:
    maps = torch.rand(3, 12, 17, generator=torch_stream(0, "maps"))
    flat = box_sums(maps, size)
    found = flat.as_strided((3, 13 - size, 18 - size), (12 * 17, 17, 1))
    expected = functional.avg_pool2d(maps.double(), size, 1) * size**2
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("reach", [0, 1, 3, 7, 20])
def test_dilated_masks_equal_max_pooling(reach: int) -> None:
    mask = torch.rand(4, 12, 17, generator=torch_stream(0, "mask")) < 0.02
    framed = functional.pad(mask[:, None].float(), (reach, reach, reach, reach))
    expected = functional.max_pool2d(framed, 2 * reach + 1, 1)[:, 0] > 0
    assert torch.equal(dilated(mask, reach), expected)
