"""Writes a plugin for a state_dict: a class whose layers have the names and shapes of its tensors.

A state_dict says which layers exist, in which order and of which size. It does not say what stands between them, nor
stride and padding. These are filled in with what most VAEs have, and each line that holds a guess says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import pairwise
from keyword import iskeyword
from math import isqrt

from ccvae_eval.checkpoint.bundle import Bundle
from ccvae_eval.core.errors import CheckpointError

WRAPPERS = ("module", "model", "net", "network", "vae", "state_dict", "model_state_dict", "_orig_mod")
"""First parts of names that training scripts add to all names."""
MOST_LAYERS = 1000
MEAN = re.compile(r"(?:^|[._]|fc|to|z)(?:mu|mean|loc)s?(?:$|[._0-9])", re.IGNORECASE)
VARIANCE = re.compile(r"(?:var|std|sigma|scale)(?:iance)?s?(?:$|[._0-9])", re.IGNORECASE)
DECODER = re.compile(r"^(?:de|gen|up|p_?x)", re.IGNORECASE)
UNUSUAL = re.compile(r"[^\w.+-]")
"""Characters of the checkpoint's file name that are replaced, because they could end the docstring."""
GUESS = "  # guess"
USUAL_SIDE = 64
"""Side of the images in pixels, if no linear layer tells the size of the feature map before it."""

Shape = tuple[int, ...]


@dataclass
class Node:
    """A module of the state_dict: its own tensors by name, and its submodules."""

    tensors: dict[str, Shape] = field(default_factory=dict)
    children: dict[str, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """A layer that holds tensors.

    Args:
        name: its name in the model.
        kind: "convolution", "transposed", "linear", "norm" or "other".
        code: the expression that builds it.
        inputs, outputs: numbers of channels or features.
        strided: True for a convolution that is guessed to halve (or, transposed, double) the sides of an image.
    """

    name: str
    kind: str
    code: str
    inputs: int = 0
    outputs: int = 0
    strided: bool = False

    @property
    def access(self) -> str:
        """The expression that names the layer within the class."""
        first, *rest = self.name.split(".")
        return f"self.{first}" + "".join(f"[{part!r}]" for part in rest)


def plugin_source(bundle: Bundle, name: str, class_name: str, file: str) -> str:
    """The source of a plugin whose class has exactly the tensors of a checkpoint.

    Args:
        bundle: the checkpoint.
        name: the plugin's name on the command line.
        class_name: name of the class.
        file: name of the plugin's file.

    Raises:
        CheckpointError: the file has no tensors, too many layers, or names that no module can have.
    """
    where = str(bundle.path)
    root = _tree(_unwrapped({key: info.shape for key, info in bundle.tensor_table.items()}), where)
    layers = list(_layers(root))
    if not 1 <= len(layers) <= MOST_LAYERS:
        raise CheckpointError(f"must have 1 to {MOST_LAYERS:,} layers, got {len(layers):,}", where=where)
    network = _Network.of(layers)
    text = (files("ccvae_eval") / "assets" / "new_model_from.txt").read_text(encoding="utf-8")
    code = {layer.name: layer.code for layer in layers}
    filled = {
        "CLASS": class_name, "NAME": name, "FILE": file, "WEIGHTS": UNUSUAL.sub("_", bundle.path.name),
        "SHAPE": repr(network.shape), "LATENT": str(network.latent), "ATTRIBUTES": _lines(_attributes(root, code)),
        "ENCODE": _lines(network.encoding()), "DECODE": _lines(network.decoding()),
    }  # fmt: skip
    return re.sub(rf"\b({'|'.join(filled)})\b", lambda found: filled[found[0]], text)


def _lines(lines: Iterator[str]) -> str:
    """Lines of the body of a method."""
    return "\n        ".join(lines)


def _unwrapped(table: Mapping[str, Shape]) -> dict[str, Shape]:
    """The table without first parts that all names share and that only a wrapper adds."""
    found = dict(table)
    while found:
        first = next(iter(found)).partition(".")[0]
        if first not in WRAPPERS or any(not key.startswith(f"{first}.") for key in found):
            break
        found = {key.removeprefix(f"{first}."): shape for key, shape in found.items()}
    return found


def _tree(table: Mapping[str, Shape], where: str) -> Node:
    root = Node()
    for key, shape in table.items():
        first, *rest = key.split(".")
        if not first.isidentifier() or iskeyword(first):
            raise CheckpointError("has tensors that are not those of a module", where=where, why=f"for example {key!r}")
        node = root
        for part in (first, *rest)[:-1]:
            node = node.children.setdefault(part, Node())
        node.tensors[(first, *rest)[-1]] = shape
    return root


def _layers(node: Node, name: str = "", flat: bool = False) -> Iterator[Layer]:
    """The layers below a module, in the order of the file; ``flat``: the layer before it is linear."""
    if node.tensors:
        yield _layer(node.tensors, name, flat) if name else Layer("", "other", "")
    for key, child in node.children.items():
        for layer in _layers(child, f"{name}.{key}".lstrip("."), flat):
            flat = layer.kind == "linear" or (flat and layer.kind == "norm")
            yield layer


def _layer(tensors: Mapping[str, Shape], name: str, flat: bool) -> Layer:
    """The layer that has these tensors."""
    weight, bias = tensors.get("weight", ()), tensors.get("bias")
    without_bias = "" if bias else ", bias=False"
    if len(tensors.get("running_mean", ())) == 1:
        (count,) = tensors["running_mean"]
        code = f"nn.BatchNorm{1 if flat else 2}d({count}{'' if weight else ', affine=False'})"
        return Layer(name, "norm", code, count, count)
    if set(tensors) <= {"weight", "bias"}:
        if len(weight) == 4:
            return _convolution(weight, bias, name, without_bias)
        if len(weight) == 2:
            outputs, inputs = weight
            return Layer(name, "linear", f"nn.Linear({inputs}, {outputs}{without_bias})", inputs, outputs)
        if len(weight) == 1 and bias == weight:
            return Layer(name, "norm", f"nn.GroupNorm(1, {weight[0]})", weight[0], weight[0])
    parts = (f"{key!r}: nn.Parameter(torch.zeros({shape}))" for key, shape in tensors.items())
    return Layer(name, "other", f"Part({{{', '.join(parts)}}})")


def _convolution(weight: Shape, bias: Shape | None, name: str, without_bias: str) -> Layer:
    first, second, *kernel = weight
    side = max(kernel)
    transposed = bool(DECODER.search(name)) if not bias or first == second else bias[0] == second
    stride = 2 if side > 1 else 1
    more = ", output_padding=1" if transposed and side % 2 and side > 1 else ""
    padding = 0 if side == 1 else side // 2 - 1 if side % 2 == 0 else side // 2
    size = str(side) if len(set(kernel)) == 1 else repr(tuple(kernel))
    options = f"{size}, stride={stride}, padding={padding}{more}{without_bias}"
    if transposed:
        code = f"nn.ConvTranspose2d({first}, {second}, {options})"
        return Layer(name, "transposed", code, first, second, strided=stride == 2)
    return Layer(name, "convolution", f"nn.Conv2d({second}, {first}, {options})", second, first, strided=stride == 2)


def _attributes(root: Node, code: Mapping[str, str]) -> Iterator[str]:
    """The lines of the constructor."""
    for key, shape in root.tensors.items():
        yield f"self.{key} = nn.Parameter(torch.zeros({shape}))"
    for key, child in root.children.items():
        first, *rest = _expression(child, key, code)
        yield from (f"self.{key} = {first}", *rest)


def _expression(node: Node, name: str, code: Mapping[str, str]) -> list[str]:
    """The lines of the expression that builds a module."""
    if not node.children:
        return [code[name] + (GUESS if "stride=2" in code[name] else "")]
    lines = ["Part({"]
    for key, shape in node.tensors.items():
        lines.append(f"    {key!r}: nn.Parameter(torch.zeros({shape})),")
    for key, child in node.children.items():
        first, *rest = _expression(child, f"{name}.{key}", code)
        *body, last = (f"{key!r}: {first}", *rest)
        call, mark, guess = last.partition(GUESS)
        lines += [f"    {line}" for line in (*body, f"{call},{mark}{guess}")]
    return [*lines, "})"]


@dataclass(frozen=True)
class _Network:
    """Encoder, heads and decoder of a VAE, guessed from the names, the order and the sizes of its layers.

    Args:
        encoder, decoder: layers in the order of the file.
        mean: the last layer of the encoder.
        variance: its neighbour for the variance; None if ``mean`` gives both.
        latent: number of latent dimensions.
        side: side of the feature map between convolutions and linear layers.
        shape: (C, H, W) of an image.
    """

    encoder: Sequence[Layer]
    mean: Layer
    variance: Layer | None
    decoder: Sequence[Layer]
    latent: int
    side: int
    shape: Shape

    @classmethod
    def of(cls, layers: Sequence[Layer]) -> _Network:
        decoder = [layer for layer in layers if DECODER.search(layer.name)]
        rest = [layer for layer in layers if layer not in decoder]
        weighted = [layer for layer in rest if layer.inputs and layer.kind != "norm"] or list(layers)
        variance = next((layer for layer in weighted if VARIANCE.search(layer.name)), None)
        mean = next((layer for layer in weighted if MEAN.search(layer.name) and layer is not variance), None)
        if mean is None:
            pairs = (pair for pair in pairwise(weighted) if _are_heads(*pair))
            single = variance or (weighted[-1] if decoder else weighted[len(weighted) // 2 - 1])
            mean, variance = next(pairs, (single, None))  # a single layer gives both
        if not decoder:
            last = max(rest.index(head) for head in (mean, variance) if head)
            rest, decoder = rest[: last + 1], rest[last + 1 :]
        encoder = [layer for layer in rest if layer not in (mean, variance)]
        first = next((layer for layer in decoder if layer.inputs), None)
        latent = mean.outputs if variance else first.inputs if first else mean.outputs // 2
        return cls(encoder, mean, variance, decoder, latent, *_sizes([*encoder, mean]))

    def encoding(self) -> Iterator[str]:
        yield "hidden = images"
        yield from self._steps((*self.encoder, self.mean), flat=False, ends=False)
        mean = f"{self.mean.access}(hidden)"
        if self.variance:
            yield f"mean, log_variance = {mean}, {self.variance.access}(hidden){GUESS}"
        elif self.mean.outputs == self.latent:
            yield f"mean = {mean}"
            yield f"log_variance = torch.full_like(mean, -20.0){GUESS}: no variance was found"
        else:
            yield f"mean, log_variance = {mean}.chunk(2, dim=1){GUESS}"
        if self.mean.kind == "convolution":
            yield "mean, log_variance = mean.flatten(1), log_variance.flatten(1)"

    def decoding(self) -> Iterator[str]:
        yield "hidden = codes"
        yield from self._steps(self.decoder, flat=True, ends=True)
        yield f"return hidden.reshape(len(codes), *self.input_shape).sigmoid(){GUESS}"

    def _steps(self, layers: Sequence[Layer], *, flat: bool, ends: bool) -> Iterator[str]:
        """The lines that apply layers one after the other, with a ReLU between them.

        Args:
            layers: the layers.
            flat: True if the values are vectors at first.
            ends: True to apply the last layer, without a ReLU; False to stop before it.
        """
        used = [layer for layer in layers if layer.inputs]
        for number, layer in enumerate(used):
            if layer.kind == "linear" and not flat:
                yield "hidden = hidden.flatten(1)"
                flat = True
            elif layer.kind in ("convolution", "transposed") and flat:
                yield f"hidden = hidden.reshape(len(hidden), {layer.inputs}, {self.side}, {self.side})"
                flat = False
            last = number == len(used) - 1
            if last and not ends:
                return
            plain = last or used[number + 1].kind == "norm"
            yield f"hidden = {layer.access}(hidden)" + ("" if plain else f".relu(){GUESS}")


def _are_heads(first: Layer, second: Layer) -> bool:
    """True if two layers of equal sizes, which lead to fewer features, can be those of mean and variance."""
    return (first.inputs, first.outputs) == (second.inputs, second.outputs) and first.outputs < first.inputs


def _sizes(encoder: Sequence[Layer]) -> tuple[int, Shape]:
    """Side of the last feature map, and (C, H, W) of an image."""
    convolutions = [layer for layer in encoder if layer.kind == "convolution"]
    linear = next((layer for layer in encoder if layer.kind == "linear"), None)
    if convolutions:
        halvings = sum(layer.strided for layer in convolutions)
        side = isqrt(linear.inputs // max(1, convolutions[-1].outputs)) if linear else USUAL_SIDE >> halvings
        side = max(1, side)
        return side, (convolutions[0].inputs, side << halvings, side << halvings)
    pixels = linear.inputs if linear else 1
    for channels in (1, 3):
        side = isqrt(pixels // channels)
        if channels * side * side == pixels:
            return 1, (channels, side, side)
    return 1, (1, 1, pixels)
