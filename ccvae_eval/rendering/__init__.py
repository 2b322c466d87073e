"""Tables, figures and text that reports and metrics draw with. Nothing here prints."""
