"""Make training steps on request, for `bench_step_ab.py`: one line of words in, one number out."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ssd4rec
from bench_step import EVENTS, WORLDS, batch, gflop
from ssd4rec.config import SSD4RecConfig, TrainingConfig
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.ops import dispatch
from ssd4rec.ops.segments import make_layout
from ssd4rec.training.objective import next_item_loss

Q = 64
FUNCTIONS = {
    "convolution": "Convolution",
    "dropout": "Dropout",
    "gated_norm": "GatedNorm",
    "prefix_readout": "BackwardPrefixReadout",
    "scan": "Scan",
}


def main() -> None:
    """Answer requests until the input ends."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if find_spec("ssd4rec.training.memory"):  # as `fit` does, where it does
        memory = import_module("ssd4rec.training.memory").freed_memory_kept()
        memory.__enter__()  # until the process ends
    reply(json.dumps({"library": ssd4rec.__file__, "bfloat16": torch.cpu._is_avx512_bf16_supported()}))  # noqa: SLF001
    made: dict[tuple[str, int], Case] = {}
    for line in sys.stdin:
        request, *words = line.split()
        if request == "gemm":
            reply(gemm_rate())
            continue
        kind = request if request in {"step", "scan"} else "step" if request == "loss" else words.pop(0)
        key = words[0], int(words[1])
        if key not in made:
            made = {key: Case(*key)}
        reply(made[key].answer(request, kind, bfloat16=words[-1] == "bfloat16"))


def reply(value: Any) -> None:
    """Write one line."""
    print(value, flush=True)


def gemm_rate() -> float:
    """Return the GFLOP/s of a matrix product, by the processor time of the fastest of five."""
    first, second = torch.randn(2, 1024, 1024)
    seconds = []
    for _ in range(5):
        began = time.process_time()
        first @ second
        seconds.append(time.process_time() - began)
    return float(2 * 1024**3 / min(seconds) / 1e9)


class Case:
    """A model of some width and a full batch.

    Args:
        name: of the events.
        width: D.
    """

    def __init__(self, name: str, width: int) -> None:
        mean, self.items = WORLDS[name]
        torch.manual_seed(0)
        self.config = SSD4RecConfig(width=width, dropout=0.2)
        self.model = NextItemModel(SSD4Rec(self.config), self.items)
        self.packed = batch(mean, self.items)
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)
        sizes = self.config
        E, N, H = sizes.inner_width, sizes.state_dim, sizes.heads
        self.scan_inputs = [
            torch.randn(EVENTS, H, E // H),
            torch.rand(EVENTS, H) * 0.1,
            -torch.linspace(1, 16, H),
            torch.randn(EVENTS, N),
            torch.randn(EVENTS, N),
            torch.ones(H),
        ]
        for each in self.scan_inputs:
            each.requires_grad_()
        self.layout = make_layout(self.packed.cu_seqlens)

    def answer(self, request: str, kind: str, *, bfloat16: bool) -> float:
        """Return seconds, the loss, GFLOP or bytes."""
        if request == "loss":
            return self.loss()
        if request == "gflop":
            return self.work(kind)
        work = self.scan if kind == "scan" else self.step
        if request == "bytes":
            return count_bytes(lambda: work(bfloat16=False))
        began = time.process_time()
        work(bfloat16=bfloat16)
        return time.process_time() - began

    def work(self, kind: str) -> float:
        """Return the GFLOP of matrix products, forward and backward."""
        if kind == "step":
            return gflop(self.config, self.items)
        E, N = self.config.inner_width, self.config.state_dim
        return 6 * EVENTS * (Q / 2 * (N + E) + 2 * N * E) / 1e9

    def loss(self) -> float:
        """Return the loss without dropout, of the initial weights."""
        torch.manual_seed(0)
        model = NextItemModel(SSD4Rec(self.config), self.items).eval()
        with torch.no_grad():
            return float(next_item_loss(model, self.packed, TrainingConfig(mask_ratio=0.0)))

    def step(self, *, bfloat16: bool) -> None:
        """Make a training step."""
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = next_item_loss(self.model, self.packed, TrainingConfig())
        loss.backward()
        self.optimizer.step()

    def scan(self, *, bfloat16: bool) -> None:
        """Run the scan forward and backward; its values are bfloat16 if asked for, its sums float32."""
        x, dt, A, B, C, D = self.scan_inputs
        dtype = torch.bfloat16 if bfloat16 else torch.float32
        y = dispatch.scan(x.to(dtype), dt, A, B.to(dtype), C.to(dtype), D, self.layout)
        y.backward(torch.ones_like(y))


class Traffic(TorchDispatchMode):
    """Sums the bytes that operations read and write."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation."""
        out = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.__name__:
            self.total += bytes_of((args, kwargs, out))
        return out


def bytes_of(values: Any) -> int:
    """Return the bytes of all distinct tensors in a structure."""
    tensors = {id(each): each for each in tree_leaves(values) if isinstance(each, Tensor)}
    return sum(each.numel() * each.element_size() for each in tensors.values())


def count_bytes(work: Callable[[], None]) -> float:
    """Return the bytes that the operations of PyTorch and the kernels of numba read and write."""
    with Traffic() as traffic, kernels_counted(traffic):
        work()
    return float(traffic.total)


@contextmanager
def kernels_counted(traffic: Traffic) -> Iterator[None]:
    """Count the inputs and outputs of numba's kernels inside the block, which no operation of PyTorch shows."""
    if not (find_spec("ssd4rec.ops.numba") and find_spec("numba")):
        yield
        return
    modules = {f"ssd4rec.ops.numba.{module}": name for module, name in FUNCTIONS.items()}
    classes = [getattr(import_module(module), name) for module, name in modules.items() if find_spec(module)]
    methods = [(each, name, each.__dict__[name]) for each in classes for name in ("forward", "backward")]

    def counted(method: Any) -> Any:
        def call(ctx: Any, *args: Any) -> Any:
            out = method.__func__(ctx, *args)
            saved = ctx.saved_tensors if args and method.__func__.__name__ != "forward" else ()
            traffic.total += bytes_of((args, saved, out))
            return out

        return staticmethod(call)

    for owner, name, method in methods:
        setattr(owner, name, counted(method))
    try:
        yield
    finally:
        for owner, name, method in methods:
            setattr(owner, name, method)


if __name__ == "__main__":
    main()
