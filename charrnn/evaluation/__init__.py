"""Score models on texts, and measure predictions."""
