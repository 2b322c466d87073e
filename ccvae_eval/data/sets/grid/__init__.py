"""Data sets with an image of every combination of their factors, as the literature on disentanglement uses them."""
