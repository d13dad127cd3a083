"""Numbers about a text."""
