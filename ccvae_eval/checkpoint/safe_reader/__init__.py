"""The one reader of untrusted files: bytes in, a plain description out, nothing executed.

Only Python's standard library is imported here, and only relative imports are used: the package runs by itself in a
child process with limited memory and time (:mod:`ccvae_eval.checkpoint.reader`), where neither torch nor the rest of
the toolkit is loaded, and in the tests' own process.
"""
