"""Neural network layers that the models are composed of."""
