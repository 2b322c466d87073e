"""Sweeps: many evaluations as a folder of cells (``cells``), the engines that run them (``engines``), and the loop
that gives cells to an engine until every cell has a result (``loop``)."""
