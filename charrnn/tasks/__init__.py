"""The tasks: one module for each `--task`."""
