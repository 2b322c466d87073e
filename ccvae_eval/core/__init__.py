"""What every package uses: errors, types, results, random numbers, files, the cache, devices."""

from __future__ import annotations

VERSION = "0.1.0"
TOOL = {"name": "ccvae-eval", "version": VERSION}
"""How a run names the program that made it."""
