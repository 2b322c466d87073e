"""Pure functions on arrays: resampling, intervals, ROC areas, densities, information, probes."""
