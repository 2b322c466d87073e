"""How predictors are fitted here: what scikit-learn would say about odd tables is said by the panel itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unwarned() -> Iterator[None]:
    """No warnings about steps that did not suffice, or about many classes on few rows."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The number of unique classes is greater")
        warnings.filterwarnings("ignore", message="The least populated class in y has only")
        yield
