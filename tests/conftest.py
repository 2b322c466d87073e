"""Every test begins at the same state of the global generators, so that its result does not depend on those before."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
