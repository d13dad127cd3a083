"""Run directories and checkpoints: the files on the disk."""
