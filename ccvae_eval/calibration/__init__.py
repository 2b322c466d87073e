"""Models whose disentanglement is known: the oracle, and what every value reaches on it."""
