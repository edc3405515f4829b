"""Sequences from more interactions than memory holds: files in, a memory-mapped folder out."""
