"""Baselines without training: most popular items and sequential rules."""
