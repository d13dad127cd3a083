"""One run from its first event to its last, with no terminal."""
