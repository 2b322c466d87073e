"""The networks that the adapters build. They have the tensor names of the files that they are loaded from.

Adapters import this module when they build a model, so that recognising a file needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from ccvae_eval.core.errors import UnsupportedError, UsageError
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels
from ccvae_eval.data.interface import SPLITS
from ccvae_eval.data.memory import InMemory
from ccvae_eval.data.splits import split_by_column
from ccvae_eval.model.interface import LabelSchema, LatentLayout

if TYPE_CHECKING:
    from ccvae_plugins.ccvae_reference import ReferenceSettings
    from ccvae_plugins.codes import CodesSettings
    from ccvae_plugins.disent import DisentSettings
    from ccvae_plugins.disvae import DisvaeSettings
    from ccvae_plugins.pythae import PythaeSettings

CHANNELS, KERNEL, HIDDEN = 32, 4, 256
SIZES = (32, 64)
MIN_SCALE = 1e-3


class Burgess(nn.Module):
    """The networks of Burgess et al. (2018), with the tensor names of disentangling-vae."""

    def __init__(self, settings: DisvaeSettings) -> None:
        super().__init__()
        if settings.size not in SIZES:
            raise UsageError(f"must be 32 or 64, got {settings.size}", where="disvae: size")
        self.layout, self.labels = LatentLayout(settings.latent), LabelSchema(())
        self.input_shape = (settings.channels, settings.size, settings.size)
        self.encoder, self.decoder = DisvaeEncoder(settings), DisvaeDecoder(settings)

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        """q(z|x); the last layer interleaves mean and log variance of each latent dimension."""
        del labels
        parameters = self.encoder(images).reshape(len(images), -1, 2)
        return Gaussian(parameters[..., 0], (parameters[..., 1] / 2).exp())

    def decode(self, codes: Codes) -> Images:
        images: Images = self.decoder(codes)
        return images


class DisvaeEncoder(nn.Module):
    """Convolutions of stride 2 down to 4 x 4, two linear layers, then mean and log variance of each dimension."""

    def __init__(self, settings: DisvaeSettings) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(settings.channels, CHANNELS, KERNEL, 2, 1)
        self.conv2, self.conv3 = (nn.Conv2d(CHANNELS, CHANNELS, KERNEL, 2, 1) for _ in range(2))
        self.conv_64 = nn.Conv2d(CHANNELS, CHANNELS, KERNEL, 2, 1) if settings.size == 64 else None
        self.lin1 = nn.Linear(CHANNELS * KERNEL**2, HIDDEN)
        self.lin2 = nn.Linear(HIDDEN, HIDDEN)
        self.mu_logvar_gen = nn.Linear(HIDDEN, 2 * settings.latent)

    def forward(self, images: Images) -> torch.Tensor:
        x = images
        for layer in (self.conv1, self.conv2, self.conv3, self.conv_64):
            x = x if layer is None else layer(x).relu()
        x = self.lin2(self.lin1(x.flatten(1)).relu()).relu()
        parameters: torch.Tensor = self.mu_logvar_gen(x)
        return parameters


class DisvaeDecoder(nn.Module):
    """Mirror of the encoder, with one more linear layer."""

    def __init__(self, settings: DisvaeSettings) -> None:
        super().__init__()
        self.lin1 = nn.Linear(settings.latent, HIDDEN)
        self.lin2 = nn.Linear(HIDDEN, HIDDEN)
        self.lin3 = nn.Linear(HIDDEN, CHANNELS * KERNEL**2)
        self.convT_64 = nn.ConvTranspose2d(CHANNELS, CHANNELS, KERNEL, 2, 1) if settings.size == 64 else None
        self.convT1 = nn.ConvTranspose2d(CHANNELS, CHANNELS, KERNEL, 2, 1)
        self.convT2 = nn.ConvTranspose2d(CHANNELS, CHANNELS, KERNEL, 2, 1)
        self.convT3 = nn.ConvTranspose2d(CHANNELS, settings.channels, KERNEL, 2, 1)

    def forward(self, codes: Codes) -> Images:
        x = self.lin3(self.lin2(self.lin1(codes).relu()).relu()).relu()
        x = x.reshape(-1, CHANNELS, KERNEL, KERNEL)
        for layer in (self.convT_64, self.convT1, self.convT2):
            x = x if layer is None else layer(x).relu()
        images: Images = self.convT3(x).sigmoid()
        return images


class DisentAutoencoder(nn.Module):
    """The convolutional autoencoder of disent for images of 64 x 64 pixels, with its tensor names.

    The networks are those of Higgins et al. (2017). ``encode`` and ``decode`` convert from and to images in [0, 1].
    """

    def __init__(self, settings: DisentSettings) -> None:
        super().__init__()
        s = self._settings = settings
        self.layout, self.labels, self.input_shape = LatentLayout(s.latent), LabelSchema(()), (s.channels, 64, 64)
        layers: list[nn.Module] = []
        for inside, outside, kernel in ((s.channels, 32, 4), (32, 32, 4), (32, 64, s.kernel), (64, 64, s.kernel)):
            layers += [nn.Conv2d(inside, outside, kernel, 2, kernel // 2), nn.ReLU()]
        parameters = s.latent * (1 if s.deterministic else 2)
        layers += [nn.Flatten(), nn.Linear(64 * 5 * 5, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, parameters)]
        self._encoder = nn.ModuleDict({"model": nn.Sequential(*layers)})
        layers = [
            nn.Linear(s.latent, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, 1024),
            nn.ReLU(),
            nn.Unflatten(1, (64, 4, 4)),
        ]
        for inside, outside in ((64, 64), (64, 32), (32, 32)):
            layers += [nn.ConvTranspose2d(inside, outside, 4, 2, 1), nn.ReLU()]
        self._decoder = nn.ModuleDict({"model": nn.Sequential(*layers, nn.ConvTranspose2d(32, s.channels, 4, 2, 1))})
        for name, given, default in (("mean", s.mean, 0.0), ("std", s.std, 1.0)):
            values = torch.tensor(given or [default] * s.channels).reshape(-1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        """q(z|x) from its mean and log variance; a point mass for an autoencoder."""
        del labels
        found = self._encoder["model"]((images - self.get_buffer("mean")) / self.get_buffer("std"))
        if self._settings.deterministic:
            return Gaussian(found, torch.zeros_like(found))
        mean, log_variance = found.chunk(2, 1)
        return Gaussian(mean, (log_variance / 2).exp())

    def decode(self, codes: Codes) -> Images:
        """Images (N, C, 64, 64) in [0, 1] of codes (N, D)."""
        shown: Tensor = self._decoder["model"](codes)
        if self._settings.activation == "sigmoid":
            shown = shown.sigmoid()
        elif self._settings.activation == "halved":
            shown = (shown + 1) / 2
        return (shown * self.get_buffer("std") + self.get_buffer("mean")).clamp(0, 1)


def _positive(raw: Tensor) -> Tensor:
    return functional.softplus(raw).clamp_min(MIN_SCALE)


class ReferenceEncoder(nn.Module):
    """Five convolutions to 256 features; mean and raw scale from two heads, or from one layer (Pyro code)."""

    def __init__(self, latent: int, joined: bool) -> None:
        super().__init__()
        plan = ((3, 32, 2, 1), (32, 32, 2, 1), (32, 64, 2, 1), (64, 128, 2, 1), (128, HIDDEN, 1, 0))
        layers: list[nn.Module] = []
        for inside, outside, stride, padding in plan:
            layers += [nn.Conv2d(inside, outside, 4, stride, padding), nn.ReLU()]
        layers.append(nn.Flatten())
        if joined:
            layers.append(nn.Linear(HIDDEN, 2 * latent))
        self.encoder = nn.Sequential(*layers)
        self.locs, self.scales = nn.Linear(HIDDEN, latent), nn.Linear(HIDDEN, latent)
        self.joined = joined

    def forward(self, images: Images) -> Gaussian:
        features = self.encoder(images)
        loc, raw = features.chunk(2, 1) if self.joined else (self.locs(features), self.scales(features))
        return Gaussian(loc, _positive(raw))


class ReferenceDecoder(nn.Module):
    """Mirror of the encoder. The first ReLU follows the reshape, as the public code's layer numbers require."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        plan = ((HIDDEN, 128, 1, 0), (128, 64, 2, 1), (64, 32, 2, 1), (32, 32, 2, 1), (32, 3, 2, 1))
        layers: list[nn.Module] = [nn.Linear(latent, HIDDEN), nn.Unflatten(1, (HIDDEN, 1, 1))]
        for inside, outside, stride, padding in plan:
            layers += [nn.ReLU(), nn.ConvTranspose2d(inside, outside, 4, stride, padding)]
        self.decoder = nn.Sequential(*layers, nn.Sigmoid())

    def forward(self, codes: Codes) -> Images:
        images: Images = self.decoder(codes)
        return images


class DiagonalClassifier(nn.Module):
    """q(y|z_c) of binary labels: each logit is affine in the label's own latent dimension."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.diag = nn.ParameterDict({"weight": torch.ones(count), "bias": torch.zeros(count)})

    def forward(self, codes: Codes) -> Tensor:
        return torch.addcmul(self.diag["bias"], codes, self.diag["weight"])


class BinaryPrior(nn.Module):
    """p(z_c|y) of binary labels."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.diag_loc_true, self.diag_loc_false = (nn.Parameter(torch.zeros(count)) for _ in range(2))
        self.diag_scale_true, self.diag_scale_false = (nn.Parameter(torch.ones(count)) for _ in range(2))

    def forward(self, y: Tensor) -> Gaussian:
        # the public code mixes the raw scales before the softplus; for y in {0, 1} the order is irrelevant
        raw = y * self.diag_scale_true + (1 - y) * self.diag_scale_false
        return Gaussian(y * self.diag_loc_true + (1 - y) * self.diag_loc_false, _positive(raw))


class ClassPrior(nn.Module):
    """p(z_c|y) of the multi-class label."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.diag_loc = nn.ParameterList([torch.zeros(1) for _ in range(classes)])
        self.diag_scale = nn.ParameterList([torch.ones(1) for _ in range(classes)])

    def by_class(self) -> Gaussian:
        return Gaussian(torch.cat(list(self.diag_loc)), _positive(torch.cat(list(self.diag_scale))))


class FixedClassPrior(nn.Module):
    """The same prior where the module stores it in a list: constants, with 1 added to the raw scale."""

    loc: Tensor
    raw: Tensor

    def __init__(self, loc: Iterable[float], scale: Iterable[float]) -> None:
        super().__init__()
        self.register_buffer("loc", torch.tensor(list(loc)), persistent=False)
        self.register_buffer("raw", 1 + torch.tensor(list(scale)), persistent=False)

    def by_class(self) -> Gaussian:
        return Gaussian(self.loc, _positive(self.raw))


class ReferenceCCVAE(nn.Module):
    """The public CCVAE, with the names of its files."""

    def __init__(self, settings: ReferenceSettings) -> None:
        super().__init__()
        self._settings, self.labels = settings, settings.schema()
        names = self.labels.names
        if len(names) > settings.latent or settings.binary < 0:
            raise UsageError(
                f"must be at least {len(names)} (one latent dimension per label), got {settings.latent}",
                where="ccvae-reference: latent",
            )
        self.layout = LatentLayout(settings.latent, {name: (i,) for i, name in enumerate(names)})
        self.label_prior = _label_prior(settings.prior, settings.binary)
        self.encoder = ReferenceEncoder(settings.latent, settings.joined)
        self.decoder = ReferenceDecoder(settings.latent)
        self.add_module(f"classifier{settings.suffix}", DiagonalClassifier(settings.binary))
        self.add_module(f"cond_prior{settings.suffix}", BinaryPrior(settings.binary))
        if settings.classes:
            self.classifier_mc = nn.ModuleDict({"categorical_params": nn.Linear(1, settings.classes)})
            fixed = FixedClassPrior(settings.class_loc, settings.class_scale)
            self.cond_prior_mc = fixed if len(settings.class_loc) else ClassPrior(settings.classes)

    def _binary(self, part: str) -> nn.Module:
        return self.get_submodule(f"{part}{self._settings.suffix}")

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        del labels
        posterior: Gaussian = self.encoder(images)
        return posterior

    def decode(self, codes: Codes) -> Images:
        images: Images = self.decoder(codes)
        return images

    likelihood_name = "laplace, scale 1"

    def log_likelihood(self, images: Images, codes: Codes) -> Tensor:
        """log p(x|z) of a Laplace with scale 1, summed over pixels and channels, shape (N,)."""
        return -((images - self.decode(codes)).abs() + math.log(2)).flatten(1).sum(1)

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        """log q(y|z_c) of each label, shape (N, K) each."""
        del images
        count = self._settings.binary
        logits = self._binary("classifier")(codes[:, :count])
        both = torch.stack([functional.logsigmoid(-logits), functional.logsigmoid(logits)], -1)
        log_q: dict[str, Tensor | Gaussian] = {name: both[:, i] for i, name in enumerate(self.labels.names[:count])}
        if self._settings.classes:
            own = self.classifier_mc["categorical_params"](codes[:, count : count + 1])
            log_q[self._settings.class_label] = own.log_softmax(1)
        return log_q

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """p(z_c|y); NaN where the label is missing."""
        count = self._settings.binary
        prior = self._binary("cond_prior")(labels[:, :count])
        if not self._settings.classes:
            return Gaussian(prior.loc, prior.scale)
        y = labels[:, count]
        chosen = self.cond_prior_mc.by_class().rows(y.nan_to_num(0).long())
        missing = y.isnan()
        own = Gaussian(chosen.loc.masked_fill(missing, math.nan), chosen.scale.masked_fill(missing, math.nan))
        return Gaussian(torch.cat([prior.loc, own.loc[:, None]], 1), torch.cat([prior.scale, own.scale[:, None]], 1))


def _label_prior(given: Any, count: int) -> tuple[float, ...]:
    """p(y = 1) of each binary label; empty if unknown."""
    prior = tuple(given) if isinstance(given, list | tuple) else (given,)
    if not prior:
        return ()
    if len(prior) != count or not all(isinstance(p, int | float) and 0 <= p <= 1 for p in prior):
        raise UsageError(
            f"must be a list of {count} probabilities, got {given!r}",
            where="ccvae-reference: prior",
            hint="Give p(y = 1) of each binary label, for example --set 'prior=[0.5, 0.4]' for two labels.",
        )
    return tuple(map(float, prior))


class Perceptron(nn.Module):
    """pythae's default encoder and decoder, with its tensor names."""

    def __init__(self, settings: PythaeSettings) -> None:
        super().__init__()
        shape = tuple(settings.input_shape)
        if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
            raise UsageError(
                f"must be (C, H, W), got {shape}",
                where="pythae: input_shape",
                hint="Example: --set input_shape=[1,28,28]",
            )
        self.layout, self.labels, self.input_shape = LatentLayout(settings.latent), LabelSchema(()), shape
        pixels = math.prod(shape)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList([nn.Sequential(nn.Linear(pixels, settings.hidden), nn.ReLU())])
        self.encoder.embedding = nn.Linear(settings.hidden, settings.latent)
        if not settings.deterministic:
            self.encoder.log_var = nn.Linear(settings.hidden, settings.latent)
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(settings.latent, settings.hidden), nn.ReLU()),
                nn.Sequential(nn.Linear(settings.hidden, pixels), nn.Sigmoid()),
            ]
        )
        for name, sides in settings.unused.items():
            _register(self, name, nn.Parameter(torch.empty(*sides)))

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        """q(z|x); a point mass for an autoencoder."""
        del labels
        hidden = self.encoder.get_submodule("layers.0")(images.flatten(1))
        loc = self.encoder.get_submodule("embedding")(hidden)
        variance = dict(self.encoder.named_children()).get("log_var")
        return Gaussian(loc, torch.zeros_like(loc) if variance is None else (variance(hidden) / 2).exp())

    def decode(self, codes: Codes) -> Images:
        for name in ("layers.0", "layers.1"):
            codes = self.decoder.get_submodule(name)(codes)
        return codes.reshape(-1, *self.input_shape)


def _register(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Register a parameter under a dotted name, creating the modules on its path."""
    *parents, last = name.split(".")
    for parent in parents:
        if parent not in dict(module.named_children()):
            module.add_module(parent, nn.Module())
        module = module.get_submodule(parent)
    module.register_parameter(last, parameter)


class CodesData(InMemory):
    """The codes as a data set: each row holds the mean and the standard deviation of one posterior."""

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        raise UsageError(
            "codes cannot be opened as data",
            where=str(path),
            why=str(dict(options)),
            hint="Give the file in place of a checkpoint: ccvae-eval density FILE.npz",
        )


class CodesModel(nn.Module):
    """A model that returns precomputed codes; it brings their labels as its own data."""

    codes: Tensor
    scale: Tensor
    observed: Tensor
    split: Tensor

    def __init__(self, settings: CodesSettings) -> None:
        super().__init__()
        self._settings = settings
        self.labels = LabelSchema.from_plain(settings.labels, settings.name)
        owners: list[str] = settings.columns
        names = dict.fromkeys(filter(None, owners))
        blocks = {self.labels[n].name: tuple(i for i, owner in enumerate(owners) if owner == n) for n in names}
        self.layout = LatentLayout(settings.latent, blocks)
        for name, width in (("codes", settings.latent), ("scale", settings.latent), ("observed", len(self.labels))):
            self.register_buffer(name, torch.zeros(settings.rows, width))
        self.register_buffer("split", torch.zeros(settings.rows, dtype=torch.uint8))

    @property
    def own_data(self) -> CodesData:
        """The codes with their labels and splits."""
        points = torch.cat([self.codes, self.scale], 1).cpu().numpy()
        names = [str(row) for row in range(len(points))]
        splits = split_by_column([SPLITS[part] for part in self.split.tolist()], names, self._settings.name)
        labels = self.observed.cpu().numpy()
        return CodesData(points, self.labels, labels, splits, f"codes:{self._settings.name}")

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        del labels
        loc, scale = images.chunk(2, 1)
        return Gaussian(loc, scale)

    def decode(self, codes: Codes) -> Images:
        del codes
        raise UnsupportedError("the file contains codes only, no decoder", where=self._settings.name)
