"""How a model learns to name the next item."""
