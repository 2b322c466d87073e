"""Checkpoints of the public CCVAE implementations (Joy et al., ICLR 2021: Pyro, PyTorch, and a multi-class fork).

These save whole modules: a folder with encoder.pt, decoder.pt, classifier.pt and cond_prior.pt, each a pickled instance
of one of their classes. The classes are never imported: the tensors are read and loaded into networks of our own. Sizes
follow from the tensors. The files contain neither the names of the labels nor p(y), so ``--set`` provides them::

    ccvae-eval run FOLDER --data folder:celeba --set 'labels=Smiling|Male' --set 'prior=[0.5, 0.4]'

The 18 labels of the paper and the 13 labels of the fork are built in. Each binary label has one latent dimension, then
comes one for the multi-class label if there is one, then the style.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ccvae_eval.checkpoint import Bundle, Record, network_tensors
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.typed import read
from ccvae_eval.core.types import Plain
from ccvae_eval.model.interface import Label, LabelSchema

if TYPE_CHECKING:
    from torch import nn

ANCHOR = "decoder.decoder.11.weight"
"""A tensor of these networks; what precedes this name in a file precedes all their names."""
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


class CcvaeReference:
    """Adapter for folders of the public CCVAE implementations."""

    def matches(self, bundle: Bundle) -> float:
        """Share of six tensors of encoder, decoder, classifier and prior that are present; 0 below one half."""
        tensors = network_tensors(bundle.tensor_table, ANCHOR)
        suffix = _suffix(tensors)
        expected = [
            "encoder.encoder.8.weight", "encoder.locs.weight", "encoder.scales.weight", "decoder.decoder.0.weight",
            f"classifier{suffix}.diag.weight", f"cond_prior{suffix}.diag_loc_true",
        ]  # fmt: skip
        share = sum(name in tensors for name in expected) / len(expected)
        return share if share >= 0.5 else 0.0

    def settings(self, bundle: Bundle) -> Mapping[str, Plain]:
        tensors = network_tensors(bundle.tensor_table, ANCHOR)
        suffix = _suffix(tensors)
        weight, classes = tensors.get(f"classifier{suffix}.diag.weight"), "classifier_mc.categorical_params.weight"
        loc, scale = _listed_parameters(bundle.records, "diag_loc"), _listed_parameters(bundle.records, "diag_scale")
        return asdict(
            ReferenceSettings(
                latent=tensors["decoder.decoder.0.weight"].shape[1],
                binary=0 if weight is None else weight.shape[0],
                classes=tensors[classes].shape[0] if classes in tensors else 0,
                joined="encoder.encoder.11.weight" in tensors,
                suffix=suffix,
                class_loc=loc,
                class_scale=scale,
            )
        )

    def build(self, settings: Mapping[str, Plain]) -> nn.Module:
        from ccvae_plugins.networks import ReferenceCCVAE

        return ReferenceCCVAE(read(ReferenceSettings, settings, error=UsageError, words=True))

    def advice(self, bundle: Bundle) -> Iterable[str]:
        settings = self.settings(bundle)
        if settings["binary"] in LABELS_BY_COUNT:
            source = "paper" if settings["binary"] == len(PAPER_LABELS) else "multi-class fork"
            yield (
                f"assumed the {settings['binary']} labels of the {source}, in the order of its code; "
                "other labels: --set 'labels=A|B|...'"
            )
        yield (
            "the public code squeezes whole aligned images of 178 x 218 pixels to 64 x 64: evaluate with "
            "celeba:PATH,crop=whole or folder:PATH,size=64,crop=whole"
        )
        if settings["class_loc"]:
            yield "p(z|y) of the multi-class label is untrained: it was saved in a Python list, not as a parameter"


def _suffix(tensors: Mapping[str, object]) -> str:
    return "_binary" if "classifier_binary.diag.weight" in tensors else ""


def _listed_parameters(records: Any, name: str) -> list[float]:
    """Values of a Python list of parameters in the pickled prior of the multi-class label; [] if there is no list."""
    from torch import Tensor

    module = records.get("cond_prior_mc") if isinstance(records, dict) else None
    state = module.state if isinstance(module, Record) and isinstance(module.state, dict) else {}
    values = state.get(name)
    if not isinstance(values, list) or not all(isinstance(v, Tensor) and v.numel() == 1 for v in values):
        return []
    return [float(value) for value in values]
