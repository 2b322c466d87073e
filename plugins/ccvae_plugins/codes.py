"""Codes without a model, for users of JAX, TensorFlow and others: an .npz file with posteriors and labels.

::

    numpy.savez("codes.npz", codes=means, scale=deviations, labels=labels, names=["Smiling", "Male"],
                columns=["Smiling", "", "Male"])
    ccvae-eval density codes.npz

``codes`` (N, D) are posterior means, ``labels`` (N,) or (N, L) have NaN for a missing label; the rest is optional.
``scale`` (N, D) are standard deviations (default 0), and ``names`` (L,) the names of the labels. ``columns`` (D,) gives
the label that each latent dimension belongs to, "" for style; by default, dimensions are assigned on held-out rows.
``split`` (N,) is "train", "judge" or "test" (default). Metrics that need a decoder are reported as unsupported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from ccvae_eval.checkpoint import Bundle
from ccvae_eval.core.errors import DataError, UsageError
from ccvae_eval.core.typed import read
from ccvae_eval.core.types import Plain
from ccvae_eval.data.interface import SPLITS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

ARRAYS = ("codes", "labels", "scale", "names", "columns", "split", "ids", "kinds")


@dataclass(frozen=True, slots=True)
class CodesSettings:
    """Shape and names of the arrays."""

    rows: int
    latent: int
    labels: Any
    columns: Any
    name: str = "codes"


class NpzCodes:
    """Adapter for .npz files with codes."""

    suffixes: ClassVar[tuple[str, ...]] = (".npz",)

    def read(self, path: Path) -> Bundle:
        """Read the arrays as a bundle.

        Raises:
            DataError: an array is missing or malformed, or the shapes do not match.
        """
        import numpy as np
        import torch

        from ccvae_eval.data.labels.columns import labels_from_array
        from ccvae_eval.data.sets.npz import open_arrays, read_arrays, require_few_names

        arrays, where = read_arrays(path, ("codes", "labels"), ARRAYS), str(path)
        require_few_names(path, arrays)
        codes = _matrix(arrays["codes"], "codes", where)
        scale = _matrix(arrays["scale"], "scale", where) if "scale" in arrays else np.zeros_like(codes)
        names = [str(name) for name in arrays["names"].ravel()] if "names" in arrays else None
        schema, labels = labels_from_array(arrays["labels"], names, where)
        columns = [str(name) for name in arrays["columns"].ravel()] if "columns" in arrays else [""] * codes.shape[1]
        split = _split(arrays.get("split"), len(codes), where)
        for name, found, expected in (
            ("scale", scale.shape, codes.shape), ("labels", labels.shape[:1], codes.shape[:1]),
            ("columns", (len(columns),), codes.shape[1:]),
        ):  # fmt: skip
            if found != expected:
                raise DataError(
                    f"{name} must have shape {expected} to match codes of shape {codes.shape}, got {found}", where=where
                )
        if bool((scale < 0).any()):
            raise DataError("scale must not be negative", where=where, hint="scale holds standard deviations.")
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        tensors = {"codes": codes, "scale": scale, "observed": labels, "split": split}
        table = {"labels": schema.as_plain(), "columns": columns, "name": path.name}
        unknown = [name for name in open_arrays(path, ()) if name not in ARRAYS]
        return Bundle(
            MappingProxyType({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}),
            MappingProxyType({"code_table": table}),
            {},
            path,
            path.stat().st_size,
            digest,
            "npz",
            notes=(f"unknown arrays were ignored: {', '.join(unknown[:4])}",) if unknown else (),
        )

    def matches(self, bundle: Bundle) -> float:
        return 1.0 if "code_table" in bundle.metadata and "codes" in bundle.tensors else 0.0

    def settings(self, bundle: Bundle) -> Mapping[str, Plain]:
        rows, latent = bundle.tensor_table["codes"].shape
        return {**bundle.metadata["code_table"], "rows": rows, "latent": latent}

    def build(self, settings: Mapping[str, Plain]) -> nn.Module:
        from ccvae_plugins.networks import CodesModel

        return CodesModel(read(CodesSettings, settings, error=UsageError, words=True))


def _matrix(array: NDArray[Any], name: str, where: str) -> NDArray[np.float32]:
    if array.ndim != 2 or array.dtype.kind not in "biuf" or 0 in array.shape:
        raise DataError(
            f"{name} must be a numeric array of shape (N, D), got shape {array.shape} and type {array.dtype}",
            where=where,
        )
    import numpy as np

    with np.errstate(over="ignore"):
        matrix = array.astype(np.float32)
    if not np.isfinite(matrix).all():
        raise DataError(f"{name} must be finite, but contains NaN or infinity", where=where)
    return matrix


def _split(array: NDArray[Any] | None, rows: int, where: str) -> NDArray[np.uint8]:
    """Index into ``SPLITS`` of each row."""
    import numpy as np

    if array is None:
        return np.full(rows, SPLITS.index("test"), np.uint8)
    words = [str(word) for word in array.ravel()]
    known: dict[str, int] = {word: i for i, name in enumerate(SPLITS) for word in (name, str(i))}
    if len(words) != rows or not set(words) <= set(known):
        raise DataError(f"split must be one of {', '.join(SPLITS)} for each of the {rows} rows", where=where)
    return np.array([known[word] for word in words], np.uint8)
