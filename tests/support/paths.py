"""Paths of the repository and of the shared data."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("CCVAE_EVAL_SHARED", ROOT.parent / "shared"))
"""Real data and fixtures; tests that need them are skipped where they are missing."""
