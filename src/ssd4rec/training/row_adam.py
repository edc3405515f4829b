"""Adam that leaves the rows of the item table alone that a step has no gradient for."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class RowAdam(torch.optim.Adam):
    """Adam for all parameters, but that a row of the table without a gradient rests: its moments too.

    So a step costs what the touched rows cost, not V. For a row that is touched at every step it is Adam. The moments of
    others do not fade meanwhile, and their weights do not drift on: an approximation, the one of `torch.optim.SparseAdam`.
    The state is that of Adam.

    Args:
        others: parameters with dense gradients.
        table: [V + 1, D], with a sparse gradient (`nn.Embedding(sparse=True)`).
        learning_rate: of both.

    Source: Kingma and Ba 2015; the rest for untouched rows as in torch.optim.SparseAdam.
    """

    def __init__(self, others: list[nn.Parameter], table: Tensor, learning_rate: float) -> None:
        self.table = table
        groups: list[dict[str, Any]] = [{"params": others}, {"params": [table]}]
        super().__init__(groups, lr=learning_rate, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradient, self.table.grad = self.table.grad, None  # Adam passes over what has no gradient
        super().step()
        if gradient is not None:
            self._step_rows(gradient.coalesce())
            self.table.grad = gradient
        return loss

    def _step_rows(self, gradient: Tensor) -> None:
        table, group, state = self.table, self.param_groups[-1], self.state[self.table]
        if not state:
            # what Adam's own state looks like, so that it is saved and loaded as that is
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
