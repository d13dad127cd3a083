"""The command line: the only part of charrnn that prints."""
