"""What images are compared by, other than pixel by pixel: a descriptor of ours, or an extractor of the user's."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ccvae_eval.errors import PluginError, UsageError, suggestion
from ccvae_eval.metrics.edges import Edges
from ccvae_eval.metrics.variety_features import variety_features
from ccvae_eval.registry import Registry
from ccvae_eval.subject import Subject
from ccvae_eval.types import Images

PROBED = 2
EDGES, VARIETY = "edges", "variety"
OURS = (EDGES, VARIETY)

extractors = Registry("features")


@runtime_checkable
class Features(Protocol):
    """An extractor: made without arguments, registered in the group ``features`` (a plugin file or an entry point).

    It must be pure: the same images, the same numbers in every bit, whatever the batch (it sees 32 rows at a time).
    """

    def features(self, images: Images) -> Tensor:
        r"""One vector for each image, shape :math:`(N, F)`; images are :math:`(N, C, H, W)` in [0, 1]."""
        ...


def require_features(name: str, others: Collection[str], where: str) -> None:
    """Refuses a name before anything is measured.

    Raises:
        UsageError: it is none of ``others``, none of ours and no registered extractor.
    """
    known = (*others, *OURS, *extractors)
    if name not in known and name not in extractors:
        raise UsageError(f"features {name!r} are unknown", where=where, hint=suggestion(name, filter(None, known)))


def extractor_named(name: str, subject: Subject) -> Features:
    """Our descriptor, regressions on the variety of the subject's data, or a registered extractor.

    Raises:
        UsageError: an unknown name.
        UnsupportedError: "variety", of data that do not know theirs.
        PluginError: an extractor that does not give one vector of numbers for each image.
    """
    if name == EDGES:
        return Edges()
    if name == VARIETY:
        return variety_features(subject.data)
    made: Any = extractors[name]()
    where = f"features {name!r}"
    if not isinstance(made, Features):
        raise PluginError("an extractor has a method features(images)", where=where)
    images = subject.data.batch(subject.ids[:PROBED]).images.to(subject.device)
    found: Any = made.features(images)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise PluginError(f"features of {tuple(images.shape)} are {shape}, (N, F) is needed", where=where)
    return made
