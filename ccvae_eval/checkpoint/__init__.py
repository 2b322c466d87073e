"""Checkpoints: untrusted files in, tensors and models out, without running anything that is in them."""

from ccvae_eval.checkpoint.bundle import Bundle, Record, Reference, read_bundle
from ccvae_eval.checkpoint.envelope import Envelope, write_bundle
from ccvae_eval.checkpoint.inspecting import inspect_checkpoint
from ccvae_eval.checkpoint.opening import Adapter, Opened, open_checkpoint
from ccvae_eval.checkpoint.record import CheckpointRecord, save_checkpoint

__all__ = [
    "Adapter",
    "Bundle",
    "CheckpointRecord",
    "Envelope",
    "Opened",
    "Record",
    "Reference",
    "inspect_checkpoint",
    "open_checkpoint",
    "read_bundle",
    "save_checkpoint",
    "write_bundle",
]
