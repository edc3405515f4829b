"""From a finished model to recommendations."""
