"""Adam with sparse updates of the item table."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class RowAdam(torch.optim.Adam):
    """Adam for all parameters, except that table rows without a gradient stay unchanged, together with their moments.

    A step then costs as much as the rows with a gradient, independently of V. For a row with a gradient at every step it is
    Adam. The moments of other rows do not decay and their weights do not move: the approximation of `torch.optim.SparseAdam`.
    The state is that of Adam.

    Args:
        others: parameters with dense gradients.
        table: [V + 1, D], with a sparse gradient (`nn.Embedding(sparse=True)`).
        learning_rate: of all of them.

    Source: Kingma and Ba 2015; rows without a gradient as in torch.optim.SparseAdam.
    """

    def __init__(self, others: list[nn.Parameter], table: Tensor, learning_rate: float) -> None:
        self.table = table
        groups: list[dict[str, Any]] = [{"params": others}, {"params": [table]}]
        super().__init__(groups, lr=learning_rate, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the table rows that have a gradient, and all other parameters."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradient, self.table.grad = self.table.grad, None  # Adam skips parameters without a gradient
        super().step()
        if gradient is not None:
            self._step_rows(gradient.coalesce())
            self.table.grad = gradient
        return loss

    def _step_rows(self, gradient: Tensor) -> None:
        table, group, state = self.table, self.param_groups[-1], self.state[self.table]
        if not state:
            # in the form of Adam's own state, so that it is saved and loaded like it
            state["step"] = torch.zeros((), dtype=torch.float32, device=table.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        state["step"] += 1
        rows, values = gradient.indices()[0], gradient.values()
        (first, second), step = group["betas"], state["step"].double()
        mean = state["exp_avg"][rows].lerp_(values, 1 - first)
        square = state["exp_avg_sq"][rows].mul_(second).addcmul_(values, values, value=1 - second)
        state["exp_avg"].index_copy_(0, rows, mean)
        state["exp_avg_sq"].index_copy_(0, rows, square)
        spread = (square / (1 - second**step)).sqrt_().add_(group["eps"])
        table.index_add_(0, rows, (mean / (1 - first**step)).div_(spread), alpha=-group["lr"])
