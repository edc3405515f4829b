"""Who waits for a device: what asks for a number that is there."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {  # operations whose result's size, or whose Python value, is in the numbers
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.bincount.default,
    torch.ops.aten._unique2.default,
}


class Watched(TorchDispatchMode):
    """Notes every operation on a tensor of the device that waits for it."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.waited, self.seen = device, list[str](), 0

    def __torch_dispatch__(self, function: Any, _: Any, arguments: Any = (), keywords: Any = None) -> Any:
        out = function(*arguments, **(keywords or {}))
        tensors = [value for value in arguments if isinstance(value, Tensor) and value.device.type == self.device]
        self.seen += bool(tensors)
        copied = isinstance(out, Tensor) and bool(tensors) and out.device.type != self.device
        indices = arguments[1] if "index" in str(function) and len(arguments) > 1 and isinstance(arguments[1], list) else []
        by_mask = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices)
        if tensors and (function in WAITING or copied or by_mask):
            self.waited.append(str(function))
        return out
