"""Evaluation: scores and ranks over the whole catalog, metrics, and fusion tuning."""
