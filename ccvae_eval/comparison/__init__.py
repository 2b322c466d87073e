"""Comparison of runs, and gates on them, from the runs' records and evidence."""
