"""Pure functions on arrays: resampling, intervals, rankings, densities, information, probes. No network, no image."""
