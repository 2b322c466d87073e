"""Networks: shapes, parameter counts and initialisation."""

from __future__ import annotations

import math

import pytest
import torch
from ccvae_models.ccvae import CCVAE
from ccvae_models.networks import STAGES, Decoder, Encoder, NetworkSpec, initialise
from ccvae_models.vae import VAE
from torch import nn

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.model.interface import LabelSchema, ModelContext, binary_schema, uniform_prior

EIGHTEEN = binary_schema(*(f"label {i}" for i in range(18)))


def celeba(seed: int = 0, **options: bool) -> CCVAE:
    return CCVAE.from_settings(options, ModelContext(EIGHTEEN, (3, 64, 64), uniform_prior(EIGHTEEN)), seed)


def test_the_64_pixel_ccvae_has_the_size_of_the_paper() -> None:
    """1,447,881 parameters with 18 labels and 45 latent dimensions, as in the published checkpoints."""
    model = celeba()
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_447_881
    assert model.layout.dim == 45
    assert len(model.layout.style) == 27


@pytest.mark.parametrize("size", STAGES)
@pytest.mark.parametrize("channels", [1, 3])
def test_encoder_and_decoder_support_all_image_sizes(size: int, channels: int) -> None:
    context = ModelContext(LabelSchema(()), (channels, size, size), ())
    model = VAE.from_settings({"latent": 5}, context)
    images = torch.rand(2, channels, size, size)
    posterior = model.encode(images)
    assert posterior.loc.shape == posterior.scale.shape == (2, 5)
    assert bool((posterior.scale >= 1e-3).all())
    decoded = model.decode(posterior.loc)
    assert decoded.shape == images.shape
    assert 0 < decoded.min().item() < decoded.max().item() < 1


def test_points_have_a_perceptron_and_an_unconstrained_mean() -> None:
    model = VAE.from_settings({"latent": 2, "hidden": 7}, ModelContext(LabelSchema(()), (3,), ()))
    assert model.encode(torch.randn(4, 3)).loc.shape == (4, 2)
    assert model.decode(1e4 * torch.ones(4, 2)).abs().max().item() > 1


@pytest.mark.parametrize("shape", [(3, 64, 32), (3, 48, 48), (64, 64), (3, 0, 0)])
def test_unsupported_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError):
        VAE.from_settings({}, ModelContext(LabelSchema(()), shape, ()))


def test_weights_depend_on_the_seed_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = celeba(), celeba(), celeba(1)
    assert torch.equal(torch.get_rng_state(), before), "the global random state is unchanged"
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert not torch.equal(first.encoder.loc.weight, other.encoder.loc.weight)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_weights_are_initialised_like_torchs_own_layers(part: str) -> None:
    """Uniform in +-1/sqrt(fan in), with torch's fan in of transposed convolutions."""
    network = getattr(celeba(blank=False), part)
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    assert len(layers) == {"encoder": 7, "decoder": 6}[part]
    for layer in layers:
        fan_in, _ = nn.init._calculate_fan_in_and_fan_out(layer.weight)
        bound = 1 / math.sqrt(fan_in)
        for parameter in (layer.weight, layer.bias):
            assert parameter is not None
            assert parameter.abs().max().item() <= bound
        if layer.weight.numel() > 1000:
            assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_the_initial_posterior_of_z_c_is_the_same_for_every_image() -> None:
    posterior = celeba().encode(torch.rand(3, 3, 64, 64))
    assert torch.equal(posterior.loc[:, :18], torch.zeros(3, 18))
    torch.testing.assert_close(posterior.scale[:, :18], torch.full((3, 18), 2.0))
    assert bool((posterior.loc[:, 18:].std(0) > 0).all())


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 28, 28), (5,)])
def test_models_can_be_built_on_the_meta_device(shape: tuple[int, ...]) -> None:
    schema = binary_schema("a", "b")
    context = ModelContext(schema, shape, uniform_prior(schema))
    for kind in (VAE, CCVAE):
        with torch.device("meta"):
            empty = kind.from_settings({}, context)
        real = kind.from_settings({}, context, seed=4)
        assert all(tensor.is_meta for tensor in empty.state_dict().values())
        assert {n: t.shape for n, t in empty.state_dict().items()} == {n: t.shape for n, t in real.state_dict().items()}
        empty.load_state_dict(real.state_dict(), assign=True)
        codes = torch.randn(3, real.layout.dim)
        assert torch.equal(empty.decode(codes), real.decode(codes))


def test_convolution_weights_are_channels_last() -> None:
    for network in (Encoder((3, 64, 64), 4, NetworkSpec()), Decoder((3, 64, 64), 4, NetworkSpec())):
        initialise(network, torch_stream(0, "weights"))
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                assert layer.weight.is_contiguous(memory_format=torch.channels_last)
