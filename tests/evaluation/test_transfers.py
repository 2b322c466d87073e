"""What crosses from the device to the host during a run: counted on the CPU, where the same calls are made.

``Tensor.cpu``, ``.item`` and ``.tolist`` wait for a GPU; ``.numpy`` needs one of them before. The package brings
nothing to the host by ``.to``, which here moves images to the device, the CPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ccvae_eval
from ccvae_eval.api import plan
from ccvae_eval.evaluation.pictures import as_bytes
from ccvae_eval.evaluation.runner import update
from ccvae_eval.model.fixed_batches import FIXED_BATCH

CHECKPOINT = Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt"
PIXEL_MAP = 64 * 64 * 4
"""Bytes of one float32 map of an image."""
WAITS = 0.6
"""Most waits of a batch for each decoding of that batch."""
MAPS = {"locality": 9, "drift": 0, "diversity": 9 + 3, "reconstruction": 0, "generation": 0}
"""Maps of each image that are summed on the host: one of each path or characteristic, and in ``diversity`` those of the
samples that the judge does not recognise."""
NUMBERS = 24_000
"""Most bytes of an image beside these maps: numbers, and sums of pictures over a batch."""


class Transfers:
    """Calls and bytes, without those of kept pictures."""

    def __init__(self) -> None:
        self.calls, self.bytes = Counter[str](), Counter[str]()

    @contextmanager
    def counted(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patched:
            for name in ("cpu", "item", "tolist"):
                patched.setattr(Tensor, name, self._wrapped(name, getattr(Tensor, name)))
            yield

    def _wrapped(self, name: str, original: Any) -> Any:
        def call(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
            picture = tensor.dtype == torch.uint8 and tensor.ndim == 4
            self.calls["picture" if picture else name] += 1
            self.bytes["picture" if picture else name] += tensor.numel() * tensor.element_size()
            return original(tensor, *arguments, **options)

        return call


def test_every_transfer_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    found, images = Transfers(), torch.zeros(2, 3, 4, 4)
    with found.counted(monkeypatch):
        images.cpu()
        images.sum().item()
        as_bytes(images)
    assert found.calls == {"cpu": 1, "item": 1, "picture": 1}
    assert found.bytes == {"cpu": 384, "item": 4, "picture": 96}


@pytest.mark.slow
@pytest.mark.parametrize("metric", MAPS)
def test_no_decoding_waits_for_the_host_and_only_numbers_and_stated_maps_cross(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # comparisons with images that the data draw anew are made for the first images only
    options = {"diversity": {"redrawn": 0}} if metric == "diversity" else {}
    planned = plan(CHECKPOINT, None, [metric], options=options, sample=2 * FIXED_BATCH, device="cpu")
    found = Transfers()
    with found.counted(monkeypatch):
        update(planned)
    waits = sum(count for name, count in found.calls.items() if name != "picture")
    assert waits <= WAITS * planned.decode / FIXED_BATCH, found.calls
    each = sum(size for name, size in found.bytes.items() if name != "picture") / len(planned.subject)
    assert each <= MAPS[metric] * PIXEL_MAP + NUMBERS, found.bytes
