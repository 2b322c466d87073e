"""One evaluation of one subject: the pass, its record, and the record's files."""

from ccvae_eval.run.passing import Plan, evaluate, plan_of
from ccvae_eval.run.record import SCHEMA_VERSION, Header, Run
from ccvae_eval.run.storage import read, write

__all__ = ["SCHEMA_VERSION", "Header", "Plan", "Run", "evaluate", "plan_of", "read", "write"]
