"""The independent classifier that looks at a model's pictures (docs/metrics.md, section 0)."""

from ccvae_eval.judge.agreement import balanced_accuracies, trusted_labels
from ccvae_eval.judge.artifact import Judge, JudgeRecord
from ccvae_eval.judge.choosing import judge_for
from ccvae_eval.judge.training import train_judge

__all__ = ["Judge", "JudgeRecord", "balanced_accuracies", "judge_for", "train_judge", "trusted_labels"]
