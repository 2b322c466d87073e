"""The reader of untrusted checkpoint files: it describes their content as plain data and executes nothing.

The package imports only the standard library and uses only relative imports, because it runs in a child process with
limited memory and time (:mod:`ccvae_eval.checkpoint.reader`) that loads neither torch nor the rest of the toolkit.
"""
