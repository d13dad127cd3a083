"""Faster ways to compute the cells' equations, on the same parameters."""
