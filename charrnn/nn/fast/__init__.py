"""Faster ways to compute what the plain equations say."""
