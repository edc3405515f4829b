"""The parts of the Bi-SSD layer, each one module."""
