"""The program of a decoder computes what torch computes, for every model and every supported operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ccvae_plugins.ccvae_reference import ReferenceSettings
from ccvae_plugins.disvae import DisvaeSettings
from ccvae_plugins.networks import Burgess, Perceptron, ReferenceCCVAE
from ccvae_plugins.pythae import PythaeSettings
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import ccvae_eval
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.model.interface import ModelContext
from ccvae_eval.model.pixel_range import PixelRange
from ccvae_eval.model.wrap import PixelRangeModel
from ccvae_eval.plugins.registry import models
from ccvae_eval.report.live.program import Node, Program, program_of
from tests.support.decoders import LATENT, Decoded, redraw, upsampling_decoder
from tests.support.fakes import SCHEMA
from tests.testing.test_models import SETTINGS

CONTEXT = ModelContext(SCHEMA, (3, 32, 32), ((0.5, 0.5), (0.4, 0.6), (0.2, 0.3, 0.5)))
HALF = 2 / 255
"""Largest difference of a pixel that rounding the weights to 16 bits may make."""
SINGLE = 1e-5
CODES = 4


def evaluated(program: Program, code: Tensor) -> NDArray[np.float64]:
    """The picture of one code, shape (C, H, W), by an interpreter in NumPy."""
    values: list[Any] = []
    for node in program.nodes:
        values.append(_value(node, [values[i] for i in node.inputs], code))
        assert values[-1].shape == node.shape, node.op
    return np.asarray(values[-1][0])


def _value(node: Node, given: list[Any], code: Tensor) -> Any:
    binary = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
    settings, numbers = node.settings, node.constant
    match node.op:
        case "input":
            return code.numpy()[None].astype(np.float64)
        case "constant":
            assert numbers is not None
            return numbers.reshape(node.shape).astype(np.float64) * settings["scale"]
        case "linear":
            return given[0] @ given[1].T
        case "convolution":
            return _convolution(node, *given)
        case "reshape":
            return given[0].reshape(node.shape)
        case "gather":
            return given[0].ravel()[numbers].reshape(node.shape)
        case "resize":
            height, width = given[0].shape[2:]
            return _matrix(settings["rows"], height) @ given[0] @ _matrix(settings["columns"], width).T
        case "cat":
            return np.concatenate(given, settings["axis"])
        case "clamp":
            return np.clip(given[0], settings["low"], settings["high"])
        case "leaky_relu":
            return np.where(given[0] > 0, given[0], settings["slope"] * given[0])
        case "sigmoid":
            return 1 / (1 + np.exp(-given[0]))
        case "silu":
            return given[0] / (1 + np.exp(-given[0]))
        case "tanh":
            return np.tanh(given[0])
        case op:
            return binary[op](*given)


def _convolution(node: Node, x: Any, weight: Any) -> Any:
    """A convolution, or the transposed one, tap by tap, on arrays padded on all sides."""
    s = node.settings
    pads = [(0, 0), (0, 0), *((side, side) for side in s["padding"])]
    small = x if s["transposed"] else np.zeros(node.shape)
    large = np.pad(np.zeros(node.shape) if s["transposed"] else x, pads)
    channels, inside = small.shape[1] // s["groups"], weight.shape[1]
    for group, i, j in np.ndindex(s["groups"], *weight.shape[2:]):
        own, others = slice(group * channels, (group + 1) * channels), slice(group * inside, (group + 1) * inside)
        starts = [tap * dilation for tap, dilation in zip((i, j), s["dilation"], strict=True)]
        rows, columns = (
            slice(start, start + (sides - 1) * stride + 1, stride)
            for start, sides, stride in zip(starts, small.shape[2:], s["stride"], strict=True)
        )
        tap = weight[own, :, i, j]
        if s["transposed"]:
            large[:, others, rows, columns] += np.einsum("co,nchw->nohw", tap, small[:, own])
        else:
            small[:, own] += np.einsum("co,nohw->nchw", tap, large[:, others, rows, columns])
    if not s["transposed"]:
        return small
    top, left = s["padding"]
    return large[:, :, top : top + node.shape[2], left : left + node.shape[3]]


def _matrix(taps: list[list[list[float]]], inside: int) -> NDArray[np.float64]:
    matrix = np.zeros((len(taps), inside))
    for row, own in enumerate(taps):
        for column, weight in own:
            matrix[row, int(column)] = weight
    return matrix


def require_equal(model: Any, tolerance: float = HALF, seed: int = 0) -> Program:
    codes = 2 * torch.randn(CODES, model.layout.dim, generator=torch_stream(seed, "codes"))
    program = program_of(model, codes)
    with torch.no_grad():
        expected = model.decode(codes).numpy()
    for code, picture in zip(codes, expected, strict=True):
        np.testing.assert_allclose(evaluated(program, code), picture, atol=tolerance, rtol=0)
    assert program.deviation <= tolerance
    assert float(np.abs(expected[0] - expected[1]).max()) > tolerance  # the codes differ, and so do the pictures
    return program


@pytest.mark.parametrize("network", ["convolutions", "perceptron"])
@pytest.mark.parametrize("name", list(SETTINGS))
def test_every_built_in_model(name: str, network: str) -> None:
    for seed in range(2):
        model = models[name].from_settings({**SETTINGS[name], "network": network}, CONTEXT, seed)
        redraw(model.decoder, seed)
        require_equal(model.eval(), seed=seed)


@pytest.mark.parametrize(
    "model",
    [
        Burgess(DisvaeSettings(size=32)),
        Burgess(DisvaeSettings(channels=3, size=64)),
        Perceptron(PythaeSettings(latent=5, input_shape=[1, 12, 12], hidden=40)),
        ReferenceCCVAE(ReferenceSettings()),
    ],
    ids=["disvae", "disvae-64", "pythae", "ccvae-reference"],
)
def test_every_adapter(model: Any) -> None:
    redraw(model.decoder, 0)
    require_equal(model.eval())


def test_large_weights_have_16_bits_and_small_ones_32() -> None:
    model = models["ccvae"].from_settings(SETTINGS["ccvae"], CONTEXT)
    redraw(model.decoder, 0)
    program = require_equal(model)
    types = {
        node.constant.dtype.name for node in program.nodes if node.constant is not None and node.constant.size > 1023
    }
    assert types == {"float16"}
    assert program.deviation > 0


def test_upsampling_batch_normalization_and_activations() -> None:
    require_equal(Decoded(upsampling_decoder()))


def test_a_wrapped_function_with_its_pixel_range() -> None:
    weight = torch.randn(LATENT, 48, generator=torch_stream(0, "weight"))
    model = ccvae_eval.wrap(
        encode=lambda x: x.flatten(1)[:, :LATENT], decode=lambda z: (z @ weight).view(-1, 3, 4, 4), dim=LATENT,
        image_range=(-3, 3),
    )  # fmt: skip
    require_equal(model, SINGLE)
    logits = ccvae_eval.wrap(
        encode=lambda x: x, decode=lambda z: (z @ weight).view(-1, 3, 4, 4), dim=LATENT, logits=True
    )
    require_equal(logits, SINGLE)
    require_equal(PixelRangeModel(Decoded(upsampling_decoder()), PixelRange(-1, 1)))


class Branches(nn.Module):
    """Slices, joins with constants, residual sums, and arithmetic with numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 48), nn.Linear(LATENT, 48)
        self.register_buffer("grid", torch.linspace(-1, 1, 16).view(1, 1, 4, 4))

    def forward(self, codes: Tensor) -> Tensor:
        one, other = codes.split([2, LATENT - 2], 1)
        h = torch.cat([other, one.flip(1), codes[:, [5, 0]]], 1)[:, : LATENT - 2]
        h = (
            (1 - self.first(h)).clamp(max=2)
            + 0.5 * self.second(codes) / 2
            - torch.add(codes[:, :1], codes[:, 1:2], alpha=3)
        )
        h = torch.cat([h.view(-1, 3, 4, 4), self.grid.expand(len(codes), -1, -1, -1)], 1)
        h = -h.permute(0, 1, 3, 2).repeat(1, 1, 1, 1) * self.grid
        h *= 2
        h = h.double().float()
        h[:, 0]  # unused
        return functional.relu6(functional.hardtanh(h[:, :3]) + h.narrow(1, 1, 3)) / 6


class Copies(nn.Module):
    """Operations that copy numbers, and a linear layer of a code in two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(LATENT // 2, 24, bias=False)

    def forward(self, codes: Tensor) -> Tensor:
        h = self.linear(codes.view(-1, 2, LATENT // 2)).clone().view(-1, 3, 4, 4)
        return h.index_select(1, torch.tensor([2, 0, 1])).clamp_min(-0.5).sigmoid()


SMALL: dict[str, Callable[[], nn.Module]] = {
    "branches": Branches,
    "copies": Copies,
    "pixel shuffle": lambda: nn.Sequential(
        nn.Linear(LATENT, 48), nn.Unflatten(1, (12, 2, 2)), nn.PixelShuffle(2), nn.Sigmoid()
    ),
    "groups and dilation": lambda: nn.Sequential(
        nn.Linear(LATENT, 6 * 25), nn.Unflatten(1, (6, 5, 5)), nn.Conv2d(6, 6, (3, 2), (2, 1), (1, 2), groups=3),
        nn.ConvTranspose2d(6, 3, (3, 4), (2, 3), 1, output_padding=(1, 2), groups=3, dilation=(2, 1)), nn.Sigmoid(),
    ),
    "spatial broadcast": lambda: nn.Sequential(
        nn.Unflatten(1, (LATENT, 1, 1)), nn.Upsample((5, 3)), nn.Conv2d(LATENT, 3, 3, bias=False, padding=1),
        nn.BatchNorm2d(3, affine=False), nn.Upsample((7, 9), mode="bilinear", align_corners=True), nn.Sigmoid(),
    ),
    "normalised weights": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(LATENT, 48)), nn.Unflatten(1, (3, 4, 4)), nn.Sigmoid()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(SMALL))
def test_operations(name: str) -> None:
    require_equal(Decoded(SMALL[name]()), SINGLE)


def _unsupported(last: Callable[[Tensor], Tensor]) -> Decoded:
    linear = nn.Linear(LATENT, 48)
    redraw(linear, 0)
    return Decoded(lambda codes: last(linear(codes).view(-1, 3, 4, 4)))


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (lambda h: functional.group_norm(h, 1).sigmoid(), "does not support the operation native_group_norm"),
        (lambda h: functional.softplus(h).clamp(0, 1), "does not support the operation softplus"),
        (lambda h: (h + torch.randn(3, 1, 1)).sigmoid(), "does not support the operation randn"),
        (lambda h: torch.bmm(h[0], h[0])[None].sigmoid(), "does not support the operation bmm"),
        (lambda h: h.sigmoid().mul(255).long().float() / 255, "does not support the operation _to_copy"),
        (lambda h: torch.div(h, 2, rounding_mode="floor").sigmoid(), "does not support the operation div"),
        (lambda h: h.clamp(h.mean(), h.max()).sigmoid(), "does not support the operation mean"),
        (lambda h: functional.conv2d(h, h[:, :, :1, :1]).sigmoid(), "does not support the operation convolution"),
        (lambda h: h.sigmoid() if h.sum().item() > 0 else h.tanh().abs(), "cannot be traced"),
        (lambda h: h.sigmoid()[:, :2], "must return one grey or colour picture"),
        (lambda h: torch.zeros(len(h), 3, 4, 4), "must return a picture"),
    ],
)
def test_what_the_page_cannot_run_is_refused_by_name(last: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        program_of(_unsupported(last), torch.zeros(1, LATENT))
    assert message in str(caught.value)
    assert "The live page supports linear" in caught.value.hint
    assert caught.value.exit_code == 2
