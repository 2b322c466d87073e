"""Foundations of every package: errors, types, results, random streams, files, the cache, devices."""

from __future__ import annotations

VERSION = "0.1.0"
TOOL = {"name": "ccvae-eval", "version": VERSION}
"""Program and version, as a run records them."""
