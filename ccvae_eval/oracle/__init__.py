"""The oracle, a perfectly disentangled reference model of synthetic data, and the reference values that it gives."""
