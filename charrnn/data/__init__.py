"""From bytes to ids and examples."""
