"""Checkpoints of the public CCVAE implementations (Joy et al., ICLR 2021: Pyro, PyTorch, and a multi-class fork).

These save whole modules: a folder with encoder.pt, decoder.pt, classifier.pt and cond_prior.pt, each a pickled instance
of one of their classes. The classes are never imported: the tensors are read and loaded into the networks below. Sizes
follow from the tensors. The files contain neither the names of the labels nor p(y), so ``--set`` provides them::

    ccvae-eval run FOLDER --data folder:celeba --set 'labels=Smiling|Male' --set 'prior=[0.5, 0.4]'

The 18 labels of the paper and the 13 labels of the fork are built in. Each binary label has one latent dimension, then
comes one for the multi-class label if there is one, then the style.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ccvae_eval.checkpoint import Bundle, Record, network_tensors
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Plain
from ccvae_eval.model.interface import Label, LabelSchema, LatentLayout

ANCHOR = "decoder.decoder.11.weight"
"""A tensor of these networks; what precedes this name in a file precedes all their names."""
MIN_SCALE = 1e-3
HIDDEN = 256
PAPER_LABELS = (
    "Arched_Eyebrows", "Bags_Under_Eyes", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Bushy_Eyebrows", "Chubby",
    "Eyeglasses", "Heavy_Makeup", "Male", "No_Beard", "Pale_Skin", "Receding_Hairline", "Smiling", "Wavy_Hair",
    "Wearing_Necktie", "Young",
)  # fmt: skip
FORK_LABELS = (
    "Arched_Eyebrows", "Bags_Under_Eyes", "Bushy_Eyebrows", "Chubby", "Eyeglasses", "Heavy_Makeup", "Male", "No_Beard",
    "Pale_Skin", "Smiling", "Wavy_Hair", "Wearing_Necktie", "Young",
)  # fmt: skip
LABELS_BY_COUNT = {len(names): names for names in (PAPER_LABELS, FORK_LABELS)}
HAIR_CLASSES = ("Bald", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")


@dataclass(frozen=True, slots=True)
class ReferenceSettings:
    """Settings of the public CCVAE networks.

    Args:
        latent: number of latent dimensions.
        binary: number of binary labels.
        classes: number of classes of the multi-class label; 0 = no such label.
        labels: names of the binary labels, "A|B|C" or a list; "" = the built-in names for that number.
        class_label, class_names: name of the multi-class label and of its classes.
        prior: p(y = 1) of each binary label; [] = unknown.
        joined: True if one layer gives both mean and scale (Pyro code).
        suffix: "_binary" if the files of the binary labels have this suffix.
        class_loc, class_scale: p(z|y) of the multi-class label if it is not a parameter of the module (the fork's first
            version stores it in a list, which the optimiser does not see).
    """

    latent: int = 45
    binary: int = 18
    classes: int = 0
    labels: Any = ""
    class_label: str = "Hair"
    class_names: Any = ""
    prior: Any = ()
    joined: bool = False
    suffix: str = ""
    class_loc: Any = ()
    class_scale: Any = ()

    def schema(self) -> LabelSchema:
        """The labels, binary ones first.

        Raises:
            UsageError: the number of names does not match the tensors.
        """
        names = _names(self.labels, LABELS_BY_COUNT.get(self.binary, ()), self.binary, "labels")
        labels = [Label(name) for name in names]
        if self.classes:
            default = HAIR_CLASSES if self.classes == len(HAIR_CLASSES) else ()
            classes = _names(self.class_names, default, self.classes, "class_names")
            labels.append(Label(self.class_label, "categorical", classes))
        return LabelSchema(tuple(labels))


def _names(given: Any, default: tuple[str, ...], count: int, option: str) -> tuple[str, ...]:
    names = tuple(given.split("|")) if isinstance(given, str) and given else tuple(given or default)
    if len(names) != count:
        kind = "labels" if option == "labels" else "classes"
        missing = f"the names of its {count} {kind} are missing"
        raise UsageError(
            f"{count} names of {kind} are needed, got {len(names)}" if names else missing,
            where="ccvae-reference",
            why="" if names else "the public code does not save them",
            hint=f"Give them in the order used in training: --set '{option}=A|B|...'",
        )
    return names


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


class CcvaeReference:
    """Adapter for folders of the public CCVAE implementations."""

    def matches(self, bundle: Bundle) -> float:
        """Share of six tensors of encoder, decoder, classifier and prior that are present; 0 below one half."""
        tensors = network_tensors(bundle.tensors, ANCHOR)
        suffix = _suffix(tensors)
        expected = [
            "encoder.encoder.8.weight", "encoder.locs.weight", "encoder.scales.weight", "decoder.decoder.0.weight",
            f"classifier{suffix}.diag.weight", f"cond_prior{suffix}.diag_loc_true",
        ]  # fmt: skip
        share = sum(name in tensors for name in expected) / len(expected)
        return share if share >= 0.5 else 0.0

    def settings(self, bundle: Bundle) -> Mapping[str, Plain]:
        tensors = network_tensors(bundle.tensors, ANCHOR)
        suffix = _suffix(tensors)
        weight, classes = tensors.get(f"classifier{suffix}.diag.weight"), "classifier_mc.categorical_params.weight"
        loc, scale = _listed_parameters(bundle.records, "diag_loc"), _listed_parameters(bundle.records, "diag_scale")
        return asdict(
            ReferenceSettings(
                latent=tensors["decoder.decoder.0.weight"].shape[1],
                binary=0 if weight is None else len(weight),
                classes=len(tensors[classes]) if classes in tensors else 0,
                joined="encoder.encoder.11.weight" in tensors,
                suffix=suffix,
                class_loc=loc,
                class_scale=scale,
            )
        )

    def build(self, settings: Mapping[str, Plain]) -> nn.Module:
        return ReferenceCCVAE(ReferenceSettings(**settings))

    def advice(self, bundle: Bundle) -> Iterable[str]:
        settings = self.settings(bundle)
        if settings["binary"] in LABELS_BY_COUNT:
            source = "paper" if settings["binary"] == len(PAPER_LABELS) else "multi-class fork"
            yield (
                f"assumed the {settings['binary']} labels of the {source}, in the order of its code; "
                "other labels: --set 'labels=A|B|...'"
            )
        if settings["class_loc"]:
            yield "p(z|y) of the multi-class label is untrained: it was saved in a Python list, not as a parameter"


def _suffix(tensors: Mapping[str, Tensor]) -> str:
    return "_binary" if "classifier_binary.diag.weight" in tensors else ""


def _listed_parameters(records: Any, name: str) -> list[float]:
    """Values of a Python list of parameters in the pickled prior of the multi-class label; [] if there is no list."""
    module = records.get("cond_prior_mc") if isinstance(records, dict) else None
    state = module.state if isinstance(module, Record) and isinstance(module.state, dict) else {}
    values = state.get(name)
    if not isinstance(values, list) or not all(isinstance(v, Tensor) and v.numel() == 1 for v in values):
        return []
    return [float(value) for value in values]
