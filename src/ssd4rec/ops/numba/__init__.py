"""Kernels for the CPU, compiled by numba: whether they can run for given tensors, and a lazy import.

Only modules of this package import numba, and only `load_kernels` imports those modules. They are used in training only: numba
takes a second to import, and compiles a kernel when it is first used (its cache serves later processes).
"""

import logging
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)
SMALLEST = 320  # positions: fewer are not worth the import; the default preset has batches of 512


@cache
def available() -> bool:
    """Whether numba is installed; `pip install 'ssd4rec[fast]'` installs it."""
    return find_spec("numba") is not None


def version() -> str | None:
    """Return the version of the installed numba; None if it is not installed."""
    return metadata.version("numba") if available() else None


def supports(*tensors: Tensor) -> bool:
    """Whether the kernels support tensors of these types: on a CPU, in float32, or together with float32 in bfloat16."""
    types = {tensor.dtype for tensor in tensors}
    return types in ({torch.float32}, {torch.float32, torch.bfloat16}) and all(each.device.type == "cpu" for each in tensors)


def worth_it(*tensors: Tensor) -> bool:
    """Whether the kernels are chosen: a training step of some size, on a CPU, in float32, with numba installed."""
    return torch.is_grad_enabled() and len(tensors[0]) >= SMALLEST and supports(*tensors) and available()


@cache
def load_kernels() -> ModuleType:
    """Import the kernels; the log says when one has to be compiled."""
    _announce_compilation()
    return import_module("ssd4rec.ops.numba.kernels")


def _announce_compilation() -> None:
    event: Any = import_module("numba.core.event")

    class Announcement(event.Listener):  # type: ignore[misc]
        """Logs one line when a kernel of this package is compiled, not when it comes from the cache."""

        is_done = False

        def on_start(self, started: Any) -> None:
            function = getattr(started.data.get("dispatcher"), "py_func", None)
            if not self.is_done and getattr(function, "__module__", "").startswith(__name__):
                self.is_done = True
                logger.info("compiling the training step for this machine, once (about half a minute)")

        def on_end(self, ended: Any) -> None:
            """Nothing: compiling was announced."""

    event.register("numba:compile", Announcement())
