"""Named public data sets: registry, download and conversion."""
