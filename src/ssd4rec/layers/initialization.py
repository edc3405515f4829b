"""Weight initialization shared by most models."""

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

RANDOM = {Tensor.uniform_, Tensor.normal_, nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_}


class SkipRandomInitialization(TorchFunctionMode):
    """Leave new weights uninitialized, for a model whose weights are loaded next; draws no random numbers.

    Meta tensors would do the same, but initializing them makes torch import its compiler, which takes seconds.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Collection[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        arguments = kwargs or {}
        if function in RANDOM:
            return args[0] if args else arguments["tensor"]
        return function(*args, **arguments)


def initialize_weights(module: nn.Module) -> None:
    """Initialize Linear and Embedding with N(0, 0.02) and biases with 0; pass it to `nn.Module.apply`.

    Norms, recurrent networks and the mixer's own parameters keep the values from their constructors.

    Source: the authors' code of SSD4Rec; docs/paper-map.md.
    """
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
