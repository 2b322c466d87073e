"""Where the repository and the shared data lie."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("CCVAE_EVAL_SHARED", ROOT.parent / "shared"))
"""Real data and fixtures, which a checkout may lack: tests that read them skip, saying so."""
