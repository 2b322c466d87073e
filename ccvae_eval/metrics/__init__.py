"""One file, one metric: a pure tensor core and a frozen dataclass whose fields are its settings."""
