"""Explanations of a recommendation: parts of the score, weights of the layer, effects of events, counterfactuals."""
