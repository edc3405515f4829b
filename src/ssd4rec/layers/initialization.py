"""Weight initialization shared by most models."""

from torch import nn


def initialize_weights(module: nn.Module) -> None:
    """Initialize Linear and Embedding with N(0, 0.02) and biases with 0; pass it to `nn.Module.apply`.

    Norms, recurrent networks and the mixer's own parameters keep the values from their constructors.

    Source: the authors' code of SSD4Rec; docs/paper-map.md.
    """
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
