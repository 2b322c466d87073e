"""Built-in data sets, one module or package each."""
