"""Renderings of runs: pure functions from a run to text, tables and pictures."""
