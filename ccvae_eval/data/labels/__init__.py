"""Labels of a data set: reading columns, renaming and joining, matching with a model's labels."""
