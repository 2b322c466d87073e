"""Labelled data sets: their interface, specs, splits and sampling, and the built-in sets."""
