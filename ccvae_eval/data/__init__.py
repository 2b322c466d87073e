"""Labelled data sets: their contract, splits, sampling, and those that come with the package."""
