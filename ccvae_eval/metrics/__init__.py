"""One folder for each metric: its settings with their presentation, its accumulator, and its figures."""
