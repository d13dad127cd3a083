"""Tensors in, tensors out: no module in this folder knows a file, a text or the configuration.

Read `cells.standard` (one time step), then `layers` (a whole sequence), then `models` (embedding,
layers and head). `fast` computes the same equations in less time.
"""
