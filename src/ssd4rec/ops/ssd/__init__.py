"""Structured state space duality (SSD): reference recurrence, chunked form, and prefix read-out."""
