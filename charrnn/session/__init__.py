"""Training sessions: one run from its first event to its last, without a terminal."""
