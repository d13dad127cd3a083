"""What lies on the disk: run directories and checkpoints."""
