"""Functions that write hostile and broken checkpoints.

A builder takes the path to write and the path of a canary, a file that exists afterwards only if code was executed.
"""

from tests.support.attacks import pickles  # noqa: F401 - its builders enter REFUSED
from tests.support.attacks.containers import module, safe, tar_parts, write_tar, zip_bomb
from tests.support.attacks.forging import REFUSED, Opcodes, name, number, text, write_zip

__all__ = [
    "REFUSED",
    "Opcodes",
    "module",
    "name",
    "number",
    "safe",
    "tar_parts",
    "text",
    "write_tar",
    "write_zip",
    "zip_bomb",
]
