"""The registry of plugins, and whose code an error comes from."""
