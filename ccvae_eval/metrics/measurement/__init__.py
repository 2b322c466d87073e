"""The metric ``measurement``: does each characteristic's code measure its own label, and no other?"""

from ccvae_eval.metrics.measurement.settings import MeasurementTests as MeasurementTests
