"""The judge: an independent classifier of images (docs/metrics.md, section 0)."""

from ccvae_eval.judge.artifact import Judge, JudgeRecord
from ccvae_eval.judge.selection import JudgeSource, judge_source
from ccvae_eval.judge.training import (
    MIN_AGREEMENT,
    balanced_accuracies,
    mean_recall,
    rank_correlation,
    train_judge,
    trusted_labels,
)

__all__ = [
    "MIN_AGREEMENT", "Judge", "JudgeRecord", "JudgeSource", "balanced_accuracies", "judge_source", "mean_recall",
    "rank_correlation", "train_judge", "trusted_labels",
]  # fmt: skip
