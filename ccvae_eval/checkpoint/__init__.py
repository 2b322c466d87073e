"""Checkpoints: reads untrusted files and builds models from them without executing code from the files."""

from ccvae_eval.checkpoint.adapters import Adapter, Advises, Hints, Reads, read_any
from ccvae_eval.checkpoint.building import network_tensors
from ccvae_eval.checkpoint.bundle import Bundle, Record, Reference, read_bundle
from ccvae_eval.checkpoint.formats import Envelope, write_bundle
from ccvae_eval.checkpoint.matches import inspect_checkpoint
from ccvae_eval.checkpoint.metadata import CheckpointRecord, save_checkpoint
from ccvae_eval.checkpoint.open import Opened, open_checkpoint

__all__ = [
    "Adapter", "Advises", "Bundle", "CheckpointRecord", "Envelope", "Hints", "Opened", "Reads", "Record", "Reference",
    "inspect_checkpoint", "network_tensors", "open_checkpoint", "read_any", "read_bundle", "save_checkpoint",
    "write_bundle",
]  # fmt: skip
