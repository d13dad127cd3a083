"""One training step, repeated."""
