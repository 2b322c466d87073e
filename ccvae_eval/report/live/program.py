"""A decoder as a list of plain operations, which the interpreter in ``templates/live.js`` runs in a browser.

``make_fx`` traces the decoder for one code. It records what torch computes, so the class of the model does not matter:
registered models, adapters' networks and functions given to ``wrap`` are traced alike. What does not depend on the code
is computed here and becomes a constant. Large constants are stored with 16 bits.
"""

from __future__ import annotations

import math
import operator
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functionalize
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from ccvae_eval.core.errors import CcvaeEvalError, UnsupportedError, UsageError
from ccvae_eval.core.types import Codes, Plain
from ccvae_eval.model.checks import model_call
from ccvae_eval.model.interface import LabelledVAE, type_name

SUPPORTED = (
    "linear, conv2d, conv_transpose2d, batch_norm, relu, leaky_relu, silu, sigmoid, tanh, clamp, add, subtract, "
    "multiply, divide, cat, upsampling, and operations that reshape, slice or reorder"
)
LEAST_HALF = 1024
"""Numbers of the smallest constant that is stored with 16 bits."""
COPIES = {"clone", "_unsafe_view", "index", "index_select", "repeat", "flip", "pixel_shuffle"}
"""Operations that move numbers without changing them, besides views."""
UPSAMPLING = {"upsample_nearest2d", "upsample_bilinear2d"}
Operation: TypeAlias = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Node:
    """One value of a program: the code, a constant, or the result of an operation.

    Args:
        op: "input", "constant" or the operation.
        shape: shape of the value; the first side is 1.
        inputs: indices of the values that the operation takes.
        settings: its settings, plain data.
        constant: the numbers of a constant.
    """

    op: str
    shape: tuple[int, ...]
    inputs: tuple[int, ...] = ()
    settings: dict[str, Plain] = field(default_factory=dict)
    constant: NDArray[np.generic] | None = None

    def as_plain(self) -> dict[str, Plain]:
        """The node as plain data, its numbers in base 64."""
        found = {"op": self.op, "shape": list(self.shape), "inputs": list(self.inputs), **self.settings}
        if self.constant is not None:
            found |= {"type": self.constant.dtype.name, "numbers": packed(self.constant)}
        return found


@dataclass(frozen=True, slots=True)
class Program:
    """A decoder of one code.

    Args:
        nodes: values in the order in which they are computed; the last one is the image, of shape (1, C, H, W).
        deviation: largest difference of a pixel between the decoder with rounded constants and the decoder itself.
    """

    nodes: tuple[Node, ...]
    deviation: float


def packed(numbers: NDArray[Any]) -> str:
    """An array in base 64, in its own type and order, little-endian."""
    return b64encode(np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("<")).tobytes()).decode()


def program_of(model: LabelledVAE, codes: Codes) -> Program:
    """Traces the decoder of a model.

    Args:
        model: the model, on the CPU.
        codes: codes on which the deviation is measured, shape (N, D).

    Raises:
        UsageError: an operation that the interpreter does not support, a decoder that cannot be traced (such as one
            that branches on values of the code), or that does not return one picture for one code.
        PluginError: the decoder failed.
    """
    with model_call(model, "decode(codes), traced for one code"):
        exact = [model.decode(code) for code in torch.split(codes, 1)]
        try:
            # a function of our own: functionalize reads the signature of a bound method wrongly
            graph = make_fx(functionalize(lambda code: model.decode(code), remove="mutations"))(codes[:1])
        except UnsupportedError as error:
            raise UsageError(error.what, where=error.where) from error
        except CcvaeEvalError:
            raise
        except Exception as error:
            raise _refused(model, "the decoder cannot be traced", str(error).partition("\n")[0]) from error
        graph.graph.eliminate_dead_code()
        nodes = _Translation(model, graph).nodes
        for name, tensor in [*graph.named_parameters(remove_duplicate=False), *graph.named_buffers()]:
            if not tensor.is_floating_point():  # an index
                continue
            half, scale = _rounded(tensor)
            setattr(graph, name, nn.Parameter(half.to(tensor.dtype) * scale, requires_grad=False))
        rounded = [graph(code) for code in torch.split(codes, 1)]
    deviation = max(float((one - other).abs().max()) for one, other in zip(rounded, exact, strict=True))
    return Program(tuple(nodes), deviation)


def _rounded(numbers: Tensor) -> tuple[Tensor, float]:
    """Numbers for storage, and the factor that they are multiplied by; only large tensors are rounded to 16 bits."""
    largest = float(numbers.abs().max()) if numbers.numel() else 0.0
    if numbers.numel() < LEAST_HALF or not 0 < largest < math.inf:
        return numbers.float(), 1.0
    return (numbers / largest).half(), largest


def _refused(model: LabelledVAE, what: str, why: str) -> UsageError:
    return UsageError(what, where=type_name(model), why=why, hint=f"The live page supports {SUPPORTED}.")


@dataclass(frozen=True, slots=True)
class _Value:
    """A value that depends on the code: its index among the nodes, and its shape."""

    index: int
    shape: tuple[int, ...]


class _Translation:
    """Translates a traced graph into nodes. What depends on no code is computed by torch and becomes a constant."""

    def __init__(self, model: LabelledVAE, graph: GraphModule) -> None:
        self.nodes: list[Node] = []
        self._model = model
        self._constants: dict[int, tuple[Tensor, int]] = {}
        values: dict[Any, Any] = {}
        for node in graph.graph.nodes:
            arguments: Any = map_arg((node.args, node.kwargs), values.__getitem__)
            if node.op == "placeholder":
                values[node] = self.add("input", (1, model.layout.dim))
            elif node.op == "get_attr":
                values[node] = getattr(graph, node.target).detach()
            elif node.op == "output":
                self._finish(arguments[0][0])
            else:
                values[node] = self._call(node.target, *arguments)

    def _call(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is operator.getitem:
            return args[0][args[1]]
        name = target.overloadpacket.__name__
        if torch.Tag.nondeterministic_seeded in target.tags:
            raise self._unsupported(name, "it draws random numbers")
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, _Value)]
        if not given:
            return target(*args, **kwargs)
        if (target.is_view or name in COPIES) and given == [args[0]]:
            return self._moved(target, *args, **kwargs)
        if name in UPSAMPLING:
            return self._resized(target, *args)
        operation = OPERATIONS.get(name)
        found = None if operation is None else operation(self, *args, **kwargs)
        if found is None:
            raise self._unsupported(name, "the decoder uses it")
        return found

    def _unsupported(self, name: str, why: str) -> UsageError:
        return _refused(self._model, f"the live page does not support the operation {name}", why)

    def _finish(self, found: Any) -> None:
        """Requires the result to be a picture, and makes it the last node."""
        if not isinstance(found, _Value):
            raise _refused(self._model, "the decoder must return a picture", "its result does not depend on the code")
        if len(found.shape) != 4 or found.shape[0] != 1 or found.shape[1] not in (1, 3):
            why = f"for one code, its result has shape {found.shape}"
            raise _refused(self._model, "the decoder must return one grey or colour picture", why)
        self.add("reshape", found.shape, found)

    def add(self, op: str, shape: Sequence[int], *inputs: _Value | Tensor, **settings: Plain) -> _Value:
        indices = tuple(value.index if isinstance(value, _Value) else self._constant(value) for value in inputs)
        self.nodes.append(Node(op, tuple(shape), indices, settings))
        return _Value(len(self.nodes) - 1, tuple(shape))

    def _constant(self, tensor: Tensor) -> int:
        if id(tensor) not in self._constants:
            numbers, scale = _rounded(tensor)
            self.nodes.append(Node("constant", tuple(tensor.shape), (), {"scale": scale}, numbers.numpy()))
            # the tensor is kept, so that its id stays its own
            self._constants[id(tensor)] = tensor, len(self.nodes) - 1
        return self._constants[id(tensor)][1]

    def _moved(self, target: Any, x: _Value, *args: Any, **kwargs: Any) -> Any:
        """An operation that only moves numbers: found by what it does to the numbers 0, 1, 2, ..."""
        count = math.prod(x.shape)
        result = target(torch.arange(count, dtype=torch.float64).reshape(x.shape), *args, **kwargs)
        if isinstance(result, list | tuple):
            return [self._part(x, part) for part in result]
        return self._part(x, result)

    def _part(self, x: _Value, result: Tensor) -> _Value:
        index = result.flatten().int()
        if torch.equal(index, torch.arange(math.prod(x.shape), dtype=torch.int32)):
            return self.add("reshape", result.shape, x)
        self.nodes.append(Node("gather", tuple(result.shape), (x.index,), {}, index.numpy()))
        return _Value(len(self.nodes) - 1, tuple(result.shape))

    def _resized(self, target: Any, x: _Value, *args: Any) -> _Value | None:
        """An upsampling: linear, and separate for rows and columns. Its weights are what it makes of unit vectors."""
        _, _, height, width = x.shape
        down = target(torch.eye(height).reshape(1, height, height, 1), *args)[0, :, :, 0]
        across = target(torch.eye(width).reshape(1, width, 1, width), *args)[0, :, 0, :]
        shape = (*x.shape[:2], down.shape[1], across.shape[1])
        return self.add("resize", shape, x, rows=_weights(down), columns=_weights(across))

    # Operations with the arguments of torch's schema; None = unsupported with these arguments.

    def linear(self, x: Any, weight: Any) -> _Value | None:
        if not isinstance(x, _Value) or not isinstance(weight, Tensor):
            return None
        return self.add("linear", (x.shape[0], weight.shape[1]), x, weight.t())

    def affine(self, bias: Any, x: Any, weight: Any, *, beta: float = 1, alpha: float = 1) -> _Value | None:
        found = self.linear(x, weight)
        return None if found is None or (beta, alpha) != (1, 1) else self.binary("add", found, bias)

    def convolution(
        self, x: Any, weight: Any, bias: Any, stride: list[int], padding: list[int], dilation: list[int],
        transposed: bool, output_padding: list[int], groups: int,
    ) -> _Value | None:  # fmt: skip
        if not isinstance(x, _Value) or len(x.shape) != 4 or any(isinstance(part, _Value) for part in (weight, bias)):
            return None
        sample = torch.empty(x.shape, device="meta"), weight.to("meta"), None, stride, padding, dilation, transposed
        shape = torch.ops.aten.convolution.default(*sample, output_padding, groups).shape
        found = self.add(
            "convolution", shape, x, weight, stride=list(stride), padding=list(padding), dilation=list(dilation),
            groups=groups, transposed=transposed,
        )  # fmt: skip
        return found if bias is None else self.binary("add", found, bias.reshape(-1, 1, 1))

    def batch_norm(
        self, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float, epsilon: float
    ) -> tuple[_Value] | None:
        """Batch normalization with fixed statistics: a factor and a shift for each channel."""
        del momentum
        if training or mean is None or variance is None:
            return None
        factor = (1 if weight is None else weight) / (variance + epsilon).sqrt()
        shift = (0 if bias is None else bias) - mean * factor
        sides = (-1, *[1] * (len(x.shape) - 2))
        return (self.binary("add", self.binary("mul", x, factor.reshape(sides)), shift.reshape(sides)),)

    def cat(self, parts: Sequence[Any], axis: int = 0) -> _Value:
        axis %= len(parts[0].shape)
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self.add("cat", shape, *parts, axis=axis)

    def binary(self, op: str, one: Any, other: Any, alpha: float = 1) -> _Value:
        if alpha != 1:
            other = self.binary("mul", other, alpha) if isinstance(other, _Value) else other * alpha
        parts = [part if isinstance(part, _Value | Tensor) else torch.tensor(float(part)) for part in (one, other)]
        return self.add(op, np.broadcast_shapes(*(tuple(part.shape) for part in parts)), *parts)


def _weights(matrix: Tensor) -> list[list[list[float]]]:
    """For each column of a matrix its nonzero entries: pairs of (row, weight)."""
    return [[[int(i), float(column[i])] for i in column.nonzero()[:, 0]] for column in matrix.t()]


def _clamped(to: _Translation, x: _Value, low: Any = None, high: Any = None) -> _Value | None:
    if not all(isinstance(end, int | float | None) for end in (low, high)):
        return None
    return to.add("clamp", x.shape, x, low=low, high=high)


def _unary(op: str) -> Operation:
    return lambda to, x: to.add(op, x.shape, x)


def _binary(op: str) -> Operation:
    return lambda to, one, other, **given: None if "rounding_mode" in given else to.binary(op, one, other, **given)


def _converted(to: _Translation, x: _Value, dtype: torch.dtype | None = None, **_: Any) -> _Value | None:
    """A conversion between floating types, which changes nothing here; every value has 32 bits."""
    return to.add("reshape", x.shape, x) if dtype is None or dtype.is_floating_point else None


OPERATIONS: dict[str, Operation] = {
    "addmm": _Translation.affine,
    "mm": _Translation.linear,
    "convolution": _Translation.convolution,
    "native_batch_norm": _Translation.batch_norm,
    "cat": _Translation.cat,
    "_to_copy": _converted,
    "add": _binary("add"),
    "sub": _binary("sub"),
    "rsub": lambda to, one, other, **given: to.binary("sub", other, one, **given),
    "mul": _binary("mul"),
    "div": _binary("div"),
    "neg": lambda to, x: to.binary("mul", x, -1.0),
    "sigmoid": _unary("sigmoid"),
    "tanh": _unary("tanh"),
    "silu": _unary("silu"),
    "leaky_relu": lambda to, x, slope=0.01: to.add("leaky_relu", x.shape, x, slope=slope),
    "relu": lambda to, x: _clamped(to, x, 0.0),
    "hardtanh": lambda to, x, low=-1.0, high=1.0: _clamped(to, x, low, high),
    "clamp": _clamped,
    "clamp_min": _clamped,
}
"""The operations that the interpreter knows, by torch's name, with the arguments of its schema."""
