"""The calibration study: what is known of every value, and the pages that compare it with what is measured."""
