"""The structured state space duality (SSD) scan: reference, chunked form and prefix read-out."""
