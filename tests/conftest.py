"""Conditions of all tests: seeded random generators, and a Ctrl-C that is heeded."""

from __future__ import annotations

import random
import signal

import numpy as np
import pytest
import torch

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # by a shell that starts the tests in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # by nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    # results do not depend on the order of the tests
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
