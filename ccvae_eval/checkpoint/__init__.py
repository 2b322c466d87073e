"""Checkpoints: untrusted files in, tensors and models out, without running anything that is in them."""

from ccvae_eval.checkpoint.adapting import Adapter, Advises, Hints, Reads, read_any
from ccvae_eval.checkpoint.bundle import Bundle, Record, Reference, read_bundle
from ccvae_eval.checkpoint.envelope import Envelope, write_bundle
from ccvae_eval.checkpoint.fitting import below
from ccvae_eval.checkpoint.inspecting import inspect_checkpoint
from ccvae_eval.checkpoint.opening import Opened, open_checkpoint
from ccvae_eval.checkpoint.record import CheckpointRecord, save_checkpoint

__all__ = [
    "Adapter",
    "Advises",
    "Bundle",
    "CheckpointRecord",
    "Envelope",
    "Hints",
    "Opened",
    "Reads",
    "Record",
    "Reference",
    "below",
    "inspect_checkpoint",
    "open_checkpoint",
    "read_any",
    "read_bundle",
    "save_checkpoint",
    "write_bundle",
]
