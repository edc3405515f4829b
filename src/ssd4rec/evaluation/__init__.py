"""How good is a model: ranks over the whole catalogue, and what is said of them."""
