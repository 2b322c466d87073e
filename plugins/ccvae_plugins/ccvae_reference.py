"""Checkpoints of the public CCVAE codes (Joy et al., ICLR 2021, in Pyro and in PyTorch, and a multi-class fork of it).

They save whole modules: a folder with encoder.pt, decoder.pt, classifier.pt and cond_prior.pt, each a pickle of a class
of theirs. No class of theirs is ever looked up: the tensors inside are read, and put into the networks below. The sizes
follow from the tensors; what no file holds are the labels' names and p(y), which ``--set`` gives::

    ccvae-eval run FOLDER --data folder:celeba --set 'labels=Smiling|Male' --set 'prior=[0.5, 0.4]'

The 18 labels of the paper and the 13 of the fork are known. The latent columns are: one for each binary label, one for
the multi-class label if there is one, and the style.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ccvae_eval.checkpoint import Bundle, Record, below
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Plain
from ccvae_eval.model.interface import Label, LabelSchema, LatentLayout

MARK = "decoder.decoder.11.weight"
LEAST_SCALE = 1e-3
HIDDEN = 256
PAPER = (
    "Arched_Eyebrows", "Bags_Under_Eyes", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Bushy_Eyebrows", "Chubby",
    "Eyeglasses", "Heavy_Makeup", "Male", "No_Beard", "Pale_Skin", "Receding_Hairline", "Smiling", "Wavy_Hair",
    "Wearing_Necktie", "Young",
)  # fmt: skip
FORK = (
    "Arched_Eyebrows", "Bags_Under_Eyes", "Bushy_Eyebrows", "Chubby", "Eyeglasses", "Heavy_Makeup", "Male", "No_Beard",
    "Pale_Skin", "Smiling", "Wavy_Hair", "Wearing_Necktie", "Young",
)  # fmt: skip
KNOWN = {len(names): names for names in (PAPER, FORK)}
HAIR = ("Bald", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")


@dataclass(frozen=True, slots=True)
class ReferenceSettings:
    """What is free in these networks.

    Args:
        latent: columns of z.
        binary: how many binary labels.
        classes: how many classes the multi-class label has; 0 = there is none.
        labels: names of the binary labels, "A|B|C" or a list; "" = the known ones of that number.
        class_label, class_names: name of the multi-class label and of its classes.
        prior: p(y = 1) of each binary label; [] = not known.
        joined: whether mean and scale come from one layer (the Pyro code).
        suffix: "_binary" where the files of the binary labels are called so.
        class_loc, class_scale: p(z|y) of the multi-class label where it is no parameter of the module (the fork's first
            version keeps it in a list, which training does not see).
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
            UsageError: names are needed, or are of another number than the tensors say.
        """
        names = _names(self.labels, KNOWN.get(self.binary, ()), self.binary, "labels")
        found = [Label(name) for name in names]
        if self.classes:
            known = HAIR if self.classes == len(HAIR) else ()
            classes = _names(self.class_names, known, self.classes, "class_names")
            found.append(Label(self.class_label, "categorical", classes))
        return LabelSchema(tuple(found))


def _names(given: Any, known: tuple[str, ...], count: int, option: str) -> tuple[str, ...]:
    names = tuple(given.split("|")) if isinstance(given, str) and given else tuple(given or known)
    if len(names) != count:
        found = f"{len(names)} given" if names else "the files do not hold them"
        raise UsageError(
            f"the names of {count} {'labels' if option == 'labels' else 'classes'} are needed",
            where="ccvae-reference",
            why=found,
            hint=f"In the order of the training: --set '{option}=A|B|...'",
        )
    return names


def _positive(raw: Tensor) -> Tensor:
    return functional.softplus(raw).clamp_min(LEAST_SCALE)


class ReferenceEncoder(nn.Module):
    """Five convolutions to 256 numbers; mean and raw scale from two heads, or from one layer (the Pyro code)."""

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
        told = self.encoder(images)
        loc, raw = told.chunk(2, 1) if self.joined else (self.locs(told), self.scales(told))
        return Gaussian(loc, _positive(raw))


class ReferenceDecoder(nn.Module):
    """The encoder turned around; the ReLU stands after the reshaping, hence the numbers of the layers."""

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


class Diagonal(nn.Module):
    """q(y|z_c) of binary labels: a logit affine in the label's own column."""

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
        # they mix the raw scales before the softplus; for y = 0 and 1 that is the same
        raw = y * self.diag_scale_true + (1 - y) * self.diag_scale_false
        return Gaussian(y * self.diag_loc_true + (1 - y) * self.diag_loc_false, _positive(raw))


class ClassPrior(nn.Module):
    """p(z_c|y) of the multi-class label."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.diag_loc = nn.ParameterList([torch.zeros(1) for _ in range(classes)])
        self.diag_scale = nn.ParameterList([torch.ones(1) for _ in range(classes)])

    def of_classes(self) -> Gaussian:
        return Gaussian(torch.cat(list(self.diag_loc)), _positive(torch.cat(list(self.diag_scale))))


class KeptPrior(nn.Module):
    """The same where the module keeps it in a list: fixed numbers, and a raw scale that begins at 1."""

    loc: Tensor
    raw: Tensor

    def __init__(self, loc: Iterable[float], scale: Iterable[float]) -> None:
        super().__init__()
        self.register_buffer("loc", torch.tensor(list(loc)), persistent=False)
        self.register_buffer("raw", 1 + torch.tensor(list(scale)), persistent=False)

    def of_classes(self) -> Gaussian:
        return Gaussian(self.loc, _positive(self.raw))


class ReferenceCCVAE(nn.Module):
    """The public CCVAE under the names that its files have."""

    def __init__(self, settings: ReferenceSettings) -> None:
        super().__init__()
        self._settings, self.labels = settings, settings.schema()
        owners = self.labels.names
        if len(owners) > settings.latent or settings.binary < 0:
            raise UsageError(f"{len(owners)} labels do not fit into {settings.latent} columns", where="ccvae-reference")
        self.layout = LatentLayout(settings.latent, {name: (column,) for column, name in enumerate(owners)})
        self.label_prior = _shares(settings.prior, settings.binary)
        self.encoder, self.decoder = (
            ReferenceEncoder(settings.latent, settings.joined),
            ReferenceDecoder(settings.latent),
        )
        self.add_module(f"classifier{settings.suffix}", Diagonal(settings.binary))
        self.add_module(f"cond_prior{settings.suffix}", BinaryPrior(settings.binary))
        if settings.classes:
            self.classifier_mc = nn.ModuleDict({"categorical_params": nn.Linear(1, settings.classes)})
            kept = KeptPrior(settings.class_loc, settings.class_scale)
            self.cond_prior_mc = kept if len(settings.class_loc) else ClassPrior(settings.classes)

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
        """log p(x|z), the Laplace density of scale 1 summed over pixels and channels, shape (N,)."""
        return -((images - self.decode(codes)).abs() + math.log(2)).flatten(1).sum(1)

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        """log q(y|z_c) of each label."""
        del images
        count = self._settings.binary
        logits = self._binary("classifier")(codes[:, :count])
        both = torch.stack([functional.logsigmoid(-logits), functional.logsigmoid(logits)], -1)
        told: dict[str, Tensor | Gaussian] = {name: both[:, i] for i, name in enumerate(self.labels.names[:count])}
        if self._settings.classes:
            own = self.classifier_mc["categorical_params"](codes[:, count : count + 1])
            told[self._settings.class_label] = own.log_softmax(1)
        return told

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """p(z_c|y); NaN where the label is missing."""
        count = self._settings.binary
        prior = self._binary("cond_prior")(labels[:, :count])
        if not self._settings.classes:
            return Gaussian(prior.loc, prior.scale)
        y = labels[:, count]
        each = self.cond_prior_mc.of_classes()
        chosen = each.rows(y.nan_to_num(0).long())
        missing = y.isnan()
        own = Gaussian(chosen.loc.masked_fill(missing, math.nan), chosen.scale.masked_fill(missing, math.nan))
        return Gaussian(torch.cat([prior.loc, own.loc[:, None]], 1), torch.cat([prior.scale, own.scale[:, None]], 1))


def _shares(given: Any, count: int) -> tuple[float, ...]:
    """p(y = 1) of each label, if it is known."""
    shares = tuple(given) if isinstance(given, list | tuple) else (given,)
    if not shares:
        return ()
    if len(shares) != count or not all(isinstance(p, int | float) and 0 <= p <= 1 for p in shares):
        raise UsageError(
            f"prior={given} is not possible", where="ccvae-reference", hint=f"A list of {count} shares from 0 to 1."
        )
    return tuple(map(float, shares))


class CcvaeReference:
    """The adapter."""

    def matches(self, bundle: Bundle) -> float:
        """The share of the telling names that are there: those of encoder, decoder, classifier and prior."""
        tensors = below(bundle.tensors, MARK)
        suffix = _suffix(tensors)
        own = [
            "encoder.encoder.8.weight", "encoder.locs.weight", "encoder.scales.weight", "decoder.decoder.0.weight",
            f"classifier{suffix}.diag.weight", f"cond_prior{suffix}.diag_loc_true",
        ]  # fmt: skip
        share = sum(name in tensors for name in own) / len(own)
        return share if share >= 0.5 else 0.0

    def settings(self, bundle: Bundle) -> Mapping[str, Plain]:
        tensors = below(bundle.tensors, MARK)
        suffix = _suffix(tensors)
        weight, classes = tensors.get(f"classifier{suffix}.diag.weight"), "classifier_mc.categorical_params.weight"
        loc, scale = _kept(bundle.records, "diag_loc"), _kept(bundle.records, "diag_scale")
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
        found = self.settings(bundle)
        if found["binary"] in KNOWN:
            yield f"its {found['binary']} labels are taken for those of the public code, in that order: --set labels="
        if found["class_loc"]:
            yield "p(z|y) of its multi-class label was kept where training does not see it: it is as it began"


def _suffix(tensors: Mapping[str, Tensor]) -> str:
    return "_binary" if "classifier_binary.diag.weight" in tensors else ""


def _kept(records: Any, name: str) -> list[float]:
    """The numbers of a Python list of parameters in the pickled prior of the multi-class label; [] if there is none."""
    module = records.get("cond_prior_mc") if isinstance(records, dict) else None
    state = module.state if isinstance(module, Record) and isinstance(module.state, dict) else {}
    values = state.get(name)
    if not isinstance(values, list) or not all(isinstance(v, Tensor) and v.numel() == 1 for v in values):
        return []
    return [float(value) for value in values]
