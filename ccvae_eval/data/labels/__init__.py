"""Labels of a data set: columns of tables, renaming and joining, matching with a model's labels."""
