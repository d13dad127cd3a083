"""Networks from tensors to tensors: nothing here uses files, texts or the configuration.

Read `cells.standard` (one time step), then `layers` (a whole sequence), then `models` (embedding,
layers and head). `fast` computes the same equations in less time.
"""
