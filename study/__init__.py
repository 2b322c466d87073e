"""The calibration study: expected values of every metric on perturbed oracles."""
