"""Cost of a judge of three labels: at most a third of a judge of all labels with a fixed number of steps, and as good.

The faces of shared/data/celebahq64 are not part of the repository; without them the benchmark is skipped.
"""

from __future__ import annotations

from time import process_time
from typing import Any

import numpy as np
import pytest
import torch

from ccvae_eval.data.spec import open_data
from ccvae_eval.judge import Judge, balanced_accuracies, train_judge
from tests.benchmarks.conftest import Budget
from tests.support.paths import SHARED

FACES = SHARED / "data/celebahq64"
LABELS = ("Smiling", "Male", "Eyeglasses")
MAX_RATIO, MAX_LOSS = 1 / 3, 0.01


@pytest.mark.skipif(not FACES.is_dir(), reason="shared/data/celebahq64 is missing")
def test_a_judge_of_three_labels_costs_at_most_a_third_of_the_fixed_recipe(benchmark: Any, budget: Budget) -> None:
    data = open_data(f"folder:{FACES},images=images64.zip")
    test = data.batch(data.split("test")[:2048])
    benchmark.pedantic(lambda: train_judge(data, steps=1, recipe="settled", labels=LABELS), rounds=1)

    def accuracy(judge: Judge) -> float:
        found = balanced_accuracies(judge.log_probabilities(test.images), test.labels, data.schema)
        return float(np.mean([found[label] for label in LABELS]))

    def trained(**given: Any) -> tuple[float, float]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        started = process_time()
        judge = train_judge(data, **given)
        seconds = process_time() - started
        torch.set_num_threads(threads)
        return seconds, accuracy(judge)

    if benchmark.disabled:
        return
    (settled, own), (fixed, other) = trained(recipe="settled", labels=LABELS), trained()
    budget("judge of three labels / of all labels in a fixed number of steps", lambda: settled / fixed, MAX_RATIO)
    budget("balanced accuracy lost by it on new images", lambda: other - own, MAX_LOSS)
