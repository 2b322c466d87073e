"""Checkpoints: untrusted files in, tensors and models out, without running anything that is in them."""

from ccvae_eval.checkpoint.adapters import Adapter, Advises, Hints, Reads, read_any
from ccvae_eval.checkpoint.bundle import Bundle, Record, Reference, read_bundle
from ccvae_eval.checkpoint.formats import Envelope, write_bundle
from ccvae_eval.checkpoint.matches import inspect_checkpoint
from ccvae_eval.checkpoint.metadata import CheckpointRecord, save_checkpoint
from ccvae_eval.checkpoint.open import Opened, open_checkpoint
from ccvae_eval.checkpoint.state_dict_match import below

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
