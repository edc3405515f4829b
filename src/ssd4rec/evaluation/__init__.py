"""How good is a model: ranks over the whole catalog, and what is said of them."""
