"""The initial values that most backbones begin from."""

from torch import nn


def initialize_weights(module: nn.Module) -> None:
    """Linear and Embedding N(0, 0.02), biases 0; for `nn.Module.apply`.

    Norms, recurrent networks and the mixer's own parameters keep what they were made with.

    Source: the authors' code of SSD4Rec; docs/paper-map.md.
    """
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
