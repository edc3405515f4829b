"""What the tests of the Triton kernels share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture
def _poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel does not write is NaN, so that nothing passes on zeros that happened to be there."""
    for owner, name in ((Tensor, "new_empty"), (torch, "empty_like")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))


def poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(*arguments: Any, **settings: Any) -> Tensor:
        values = make(*arguments, **settings)
        return values.fill_(torch.nan) if values.is_floating_point() else values

    return made
