"""SSIM against kornia's."""

from __future__ import annotations

import pytest
import torch
from kornia.metrics import ssim

from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.metrics.shared.image_change import NEGLIGIBLE, dissimilarity, moments

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("size", [(64, 64), (28, 28), (30, 50)])
@pytest.mark.parametrize("window", [7, 11])
def test_dissimilarity_is_one_minus_kornias_ssim(size, window):
    one, other = torch.rand(2, 3, *size, generator=torch_stream(0, "pair"))
    expected = 1 - ssim(one[:, None], other[:, None], window, eps=0.0)[:, 0]

    found = dissimilarity(moments(one, window), moments(other, window))

    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_dissimilarity_of_equal_parts_is_exactly_zero():
    one = torch.rand(2, 32, 32, generator=torch_stream(1, "pair"))
    other = one.clone()
    other[:, :, 20:] = 1 - other[:, :, 20:]

    found = dissimilarity(moments(one), moments(other))

    assert bool((found[:, :, :17] == 0).all())
    assert bool((found[:, :, 20:] > 0.01).any())


def test_dissimilarity_of_equal_flat_images_is_exactly_zero():
    flat = moments(torch.full((1, 16, 16), 0.3))
    assert bool((dissimilarity(flat, flat) == 0).all())


def test_images_smaller_than_the_window_have_finite_values():
    tiny = torch.rand(2, 2, 3, generator=torch_stream(2, "pair"))
    assert bool(torch.isfinite(dissimilarity(moments(tiny), moments(1 - tiny))).all())


def test_rounding_errors_of_flat_images_are_nonnegative_and_negligible():
    generator = torch.Generator().manual_seed(0)
    grey = torch.linspace(0, 1, 8)[:, None, None].expand(8, 64, 64).contiguous()
    nearly = moments((grey + 1e-6 * torch.randn(8, 64, 64, generator=generator)).clamp(0, 1))
    found = dissimilarity(moments(grey), nearly)
    assert float(found.min()) >= 0
    assert float(found.mean((1, 2)).max()) < NEGLIGIBLE
    level = moments((grey + torch.randn(8, 64, 64, generator=generator) / 255).clamp(0, 1))
    assert float(dissimilarity(moments(grey), level).mean((1, 2)).min()) > NEGLIGIBLE
