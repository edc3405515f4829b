"""From a table of interactions to packed batches."""
