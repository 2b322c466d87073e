"""The reference model (perfectly disentangled, of drawn data) and what every value reaches on it."""
