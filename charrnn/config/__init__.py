"""The keys of the configuration, their YAML, and how layers of settings are merged."""
