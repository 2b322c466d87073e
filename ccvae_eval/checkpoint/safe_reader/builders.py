"""Records for the calls in a pickle stream. Nothing is called: tensors and plain data are built from the arguments, and
a call of any other library becomes an inert record. Code of Python and functions of torch are refused.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from math import prod
from typing import Any

from .records import ITEM_SIZES, Collection, Global, Instance, Storage, Strided
from .source import RefusedError, escaped

MAX_DIMENSIONS = 32
MAX_SIZE = 1 << 48
"""Limit of sizes, strides and offsets, far below the overflow of 64-bit products."""

_SAVE = (
    "If you made the file yourself, load it where it was made and save its tensors alone:\n"
    "    model = {}\n"
    '    torch.save(model.state_dict(), "weights.pt")\n'
    "This runs code from the file: only if you made it yourself."
)
STATE_DICT_HINT = _SAVE.format('torch.load("FILE", weights_only=False)')
"""For a file that names nothing but modules and tensors."""
SCRIPT_HINT = _SAVE.format('torch.jit.load("FILE")')
EXPORT_HINT = _SAVE.format('torch.export.load("FILE").module()')
DISTRUST = "Do not load this file by other means unless you trust its source."

_OLD_MODULES = {"__builtin__", "copy_reg", "commands", "cPickle", "exceptions", "popen2", "Queue", "urllib2"}
_STANDARD_LIBRARY = sys.stdlib_module_names | _OLD_MODULES
_OTHER_CODE = ("pip.", "setuptools.", "pkg_resources.", "IPython.", "cloudpickle.", "dill.", "numpy.testing.")
"""Libraries whose functions run any code that their arguments hold."""
_BUILTINS = ("builtins", "__builtin__")
_PLAIN_TYPES = (
    "list", "dict", "set", "frozenset", "tuple", "int", "float", "str", "bool", "bytes", "bytearray", "complex",
    "long", "unicode", "range", "xrange", "slice", "object", "type", "getattr",
)  # fmt: skip
_PATHS = {
    f"{module}.{kind}{flavour}" for module in ("pathlib", "pathlib._local") for kind in ("", "Pure")
    for flavour in ("PosixPath", "WindowsPath", "Path")
}  # fmt: skip
_ALLOWED = _PATHS | {f"{module}.{name}" for module in _BUILTINS for name in _PLAIN_TYPES} | {
    "argparse.Namespace", "types.SimpleNamespace", "_codecs.encode", "functools.partial", "logging.getLogger",
    "collections.OrderedDict", "collections.defaultdict", "collections.Counter", "collections.deque",
    "datetime.datetime", "datetime.date", "datetime.time", "datetime.timedelta", "datetime.timezone",
    "decimal.Decimal", "fractions.Fraction", "uuid.UUID", "uuid.SafeUUID", "random.Random", "re._compile",
    "_operator.getitem", "operator.getitem", "types.NoneType", "typing.Any", "typing.Union", "typing.Optional",
    *(f"typing.{name}" for name in ("List", "Dict", "Tuple", "Set", "Sequence", "Mapping", "Callable", "Literal")),
}  # fmt: skip
"""Names of the standard library that stand for data, or for harmless ways to build data."""

STORAGE_TYPES = {
    "torch.FloatStorage": "float32", "torch.DoubleStorage": "float64", "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16", "torch.LongStorage": "int64", "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16", "torch.CharStorage": "int8", "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool", "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128", "torch.storage.UntypedStorage": None,
}  # fmt: skip

_NOT_DENSE = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor, which has no values",
    "torch._utils._rebuild_wrapper_subclass": "a subclass of Tensor",
    "torch._tensor._rebuild_from_type_v2": "a subclass of Tensor, or one with attributes",
    "torch._tensor._rebuild_from_type": "a subclass of Tensor",
    "torch._utils._rebuild_parameter_with_state": "a parameter with attributes",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor of a device that torch does not serialise",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a tensor of a device that torch does not serialise",
}


def checked_global(module: Any, name: Any, member: str) -> Global:
    """Returns the record of a class or function; of Python's standard library only plain data types are allowed."""
    if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > 500:
        raise RefusedError("is a broken pickle", why="a class without a valid name", member=member)
    full = f"{module}.{name}"
    if not all(part.isidentifier() for part in full.split(".")):
        raise RefusedError("contains an invalid class name", why=escaped(full), member=member)
    standard = full not in _ALLOWED and module.partition(".")[0] in _STANDARD_LIBRARY
    if standard or full.startswith(_OTHER_CODE):
        raise RefusedError(
            f"refers to {escaped(full)}, which is code, not data",
            why="loading the file with torch.load or pickle could execute arbitrary code",
            member=member, hint=DISTRUST,
        )  # fmt: skip
    return Global(full)


def build_record(function: Any, arguments: Any, member: str) -> Any:
    """Returns the record that stands for a call. Nothing is called."""
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise RefusedError("is a broken pickle", why="it calls something that is not a function", member=member)
    name = function.name
    if name in _NOT_DENSE:
        raise RefusedError(
            f"contains {_NOT_DENSE[name]}", why=f"{name}; only dense, plain tensors are read", member=member,
            hint="Save tensor.to_dense() or tensor.dequantize() on the CPU instead.",
        )  # fmt: skip
    if name.startswith("torch.") and name not in BUILDERS and not name.rpartition(".")[2][:1].isupper():
        raise RefusedError(
            f"would call {escaped(name)} when loaded", why="only plain tensors and data are read", member=member,
            hint=DISTRUST,
        )  # fmt: skip
    builder = BUILDERS.get(name) or _inert_record(name)
    try:
        return builder(*arguments)
    except (TypeError, ValueError, KeyError, AttributeError, struct.error) as error:
        raise RefusedError(f"contains a malformed {escaped(name)}", why=escaped(str(error)), member=member) from None
    except RefusedError as error:
        error.member = error.member or member
        raise


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Strided:
    """``_rebuild_tensor(storage, offset, size, stride)``."""
    if not isinstance(storage, Storage) or storage.dtype is None:
        raise ValueError("its storage has no type")
    return _strided(storage, storage.dtype, offset, shape, strides)


def _tensor_v2(
    storage: Any, offset: Any, shape: Any, strides: Any, _gradient: Any, hooks: Any, metadata: Any = None
) -> Strided:
    """``_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks, metadata=None)``."""
    _refuse_extras(hooks, metadata)
    return _tensor(storage, offset, shape, strides)


def _tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, _gradient: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> Strided:
    """``_rebuild_tensor_v3``: the same with its own type over an untyped storage."""
    _refuse_extras(hooks, metadata)
    name = dtype.name.removeprefix("torch.")
    if name not in ITEM_SIZES:
        raise RefusedError(f"contains a tensor of type {escaped(name)}", why="this type is not supported")
    if not isinstance(storage, Storage) or storage.dtype not in (None, name):
        raise ValueError("its storage has another type")
    return _strided(storage, name, offset, shape, strides)


def _parameter(data: Any, _gradient: Any, hooks: Any) -> Strided:
    """``_rebuild_parameter(data, requires_grad, backward_hooks)``."""
    _refuse_extras(hooks, None)
    if not isinstance(data, Strided):
        raise ValueError("a parameter without a tensor")
    return data


def _refuse_extras(hooks: Any, metadata: Any) -> None:
    if hooks not in ({}, None, ()):
        raise RefusedError("contains a tensor with hooks", why="hooks are code")
    if metadata not in ({}, None):
        raise RefusedError(
            "contains a tensor with a conjugate or negative bit",
            hint="Save tensor.resolve_conj().resolve_neg() instead.",
        )


def _strided(storage: Storage, dtype: str, offset: Any, shape: Any, strides: Any) -> Strided:
    """A view, checked to lie inside its storage."""
    sizes = (offset, *shape, *strides)
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{len(shape)} sizes and {len(strides)} strides")
    if any(type(n) is not int for n in sizes):
        raise ValueError("sizes, strides and offset must be whole numbers")
    if any(not 0 <= n <= MAX_SIZE for n in sizes) or prod(n for n in shape if n) > MAX_SIZE:
        raise RefusedError(
            "contains a tensor with a negative or enormous size, stride or offset", why=escaped(str(sizes))
        )
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if prod(shape) > 0 and (last + 1) * ITEM_SIZES[dtype] > storage.size:
        why = f"shape {tuple(shape)}, strides {tuple(strides)}, {storage.size:,} bytes"
        raise RefusedError("contains a tensor that extends beyond its storage", why=why)
    return Strided(storage, dtype, offset, tuple(shape), tuple(strides))


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    if isinstance(pairs, dict):
        return dict(pairs)
    if not all(isinstance(key, str | int) for key, _ in pairs):
        raise ValueError("its keys must be strings or integers")
    return dict(pairs)


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """``_codecs.encode``, which represents bytes in protocol 2."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("its encoding must be latin1")
    raw: bytes = text.encode("latin1")
    return raw


def _path(*parts: Any) -> str:
    return "/".join(parts)


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str):
        raise ValueError("its name must be a string")
    return f"{kind[:20]}" if index is None else f"{kind[:20]}:{int(index)}"


_NUMBERS = {
    "f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b",
    "u8": "Q", "u4": "I", "u2": "H", "u1": "B", "b1": "?",
}  # fmt: skip


def _number(dtype: Any, raw: Any) -> Any:
    """A NumPy scalar as a Python number; one of another kind, such as a date, as an inert record."""
    kind = dtype.arguments[0]
    if not isinstance(kind, str):
        raise ValueError("its type must be a string")
    if kind not in _NUMBERS:
        return Instance("numpy.generic", (dtype, raw))
    return struct.unpack("<" + _NUMBERS[kind], raw)[0]


def _attribute(owner: Any, name: Any) -> Global:
    """``getattr(class, name)``, which names a class inside of a class before pickle protocol 4."""
    if not isinstance(owner, Global):
        raise ValueError("its owner must be a class")
    return checked_global(owner.name, name, "")


def _inert_record(name: str) -> Callable[..., Instance]:
    return lambda *arguments: Instance(name, arguments)


BUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch.device": _device,
    "torch.serialization._get_layout": lambda layout: layout,
    "collections.OrderedDict": _ordered,
    "collections.Counter": _ordered,
    "collections.defaultdict": lambda _factory=None: {},
    "_codecs.encode": _encoded,
    **{f"{m}.{kind}": lambda items=(): Collection(list(items)) for m in _BUILTINS for kind in ("set", "frozenset")},
    **{f"{module}.getattr": _attribute for module in _BUILTINS},
    **dict.fromkeys(_PATHS, _path),
    **{f"{module}.scalar": _number for module in ("numpy.core.multiarray", "numpy._core.multiarray")},
}
"""The record of each call that builds a tensor or plain data."""
