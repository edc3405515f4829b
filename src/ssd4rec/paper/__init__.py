"""Reproduction of the paper: its tables and figures, compared with published results."""
