"""The keys, their YAML, and which layer of settings wins."""
