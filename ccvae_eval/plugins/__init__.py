"""The registry of plugins, and the attribution of errors to them."""
