"""SSD4Rec: sequential recommendation with structured state space duality.

The path from a file to a recommendation is drawn in `ssd4rec.experiment`; the names below are the ones that it goes by.
"""
