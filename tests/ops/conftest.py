"""Fixtures for the tests of the Triton kernels."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture
def _patched_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Patch Triton's language once per module with kernels, until the test ends.

    The interpreter patches it at each call of a helper function, which takes most of the time.
    """
    interpreter = pytest.importorskip("triton.runtime.interpreter", reason="Triton is not installed")
    replace, scopes = interpreter._patch_lang, {}

    def once(function: Any) -> SimpleNamespace:
        module = function.__globals__["__name__"]
        if module not in scopes:
            scopes[module] = replace(function)
        return SimpleNamespace(restore=lambda: None)

    monkeypatch.setattr(interpreter, "_patch_lang", once)
    yield
    for scope in reversed(scopes.values()):
        scope.restore()


@pytest.fixture
def _poisoned(monkeypatch: pytest.MonkeyPatch, _patched_once: None) -> None:
    """Fill uninitialized memory with NaN, so that no test passes because memory happened to be zero."""
    for owner, name in ((Tensor, "new_empty"), (torch, "empty_like")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))


def poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(*arguments: Any, **settings: Any) -> Tensor:
        values = make(*arguments, **settings)
        return values.fill_(torch.nan) if values.is_floating_point() else values

    return made
