"""Tensors in, tensors out: nothing here knows a file, a text or the configuration."""
