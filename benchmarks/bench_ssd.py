"""How fast is the scan, forward and backward, beside its definition and HF transformers' Mamba-2 on the CPU?

The peer needs `pip install transformers` in the environment that runs this; without it its rows are left out.
The peer's `mamba2_chunk_scan` is given the same numbers; it knows no histories and reads the row as one.
"""

from itertools import accumulate
from typing import Any

import torch

from common import Timing, arguments, gemm_rate, measure, publish
from ssd4rec.ops.chunked import chunked_scan
from ssd4rec.ops.scan import scan
from ssd4rec.ops.segments import lay_out

WIDTH, HEAD_WIDTH, STATE = 256, 16, 64
INNER = 2 * WIDTH
HEADS = INNER // HEAD_WIDTH


def row(total: int) -> torch.Tensor:
    """Boundaries of histories of 5 to 300 events."""
    random = torch.Generator().manual_seed(0)
    lengths: list[int] = []
    while sum(lengths) < total:
        lengths.append(min(int(torch.randint(5, 301, (1,), generator=random)), total - sum(lengths)))
    return torch.tensor([0, *accumulate(lengths)])


def inputs(total: int, steepest: float) -> list[torch.Tensor]:
    """x, dt, A, B, C, D; log-decays of 0 to -`steepest` a step."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random).requires_grad_()

    dt = (0.1 * torch.rand(total, HEADS, generator=random)).requires_grad_()
    A = (-10 * steepest * torch.rand(HEADS, generator=random)).requires_grad_()
    return [normal(total, HEADS, HEAD_WIDTH), dt, A, normal(total, STATE), normal(total, STATE), normal(HEADS)]


def both(work: Any, tensors: list[torch.Tensor]) -> None:
    """Forward and backward."""
    y = work()
    y.backward(torch.ones_like(y))
    for tensor in tensors:
        tensor.grad = None


def operations(total: int, chunk: int) -> float:
    """Multiply-adds of the merged form, forward and backward, as GFLOP: what a perfect implementation of it would do."""
    forward = chunk / 2 * (STATE + INNER) + 2 * STATE * INNER
    return 2 * 3 * total * forward / 1e9


def main() -> None:
    """Print the table."""
    options = arguments(__doc__)
    rate = gemm_rate()
    few, short = inputs(256, 8.0), row(256)
    slow = measure(lambda: both(lambda: scan(*few, short)[0], few), repeats=1)
    rows = [_line("definition", 256, 8.0, slow, "")]
    for total in (4096, 16384):
        boundaries = row(total)
        layout = lay_out(boundaries)
        for steepest in (1.0, 8.0):
            tensors = inputs(total, steepest)
            ours = measure(lambda: both(lambda: chunked_scan(*tensors, layout), tensors), repeats=7)  # noqa: B023
            share = operations(total, 64) / ours.median / rate
            rows.append(_line("ours", total, steepest, ours, f"{share:.0%}"))
        for chunk in (256, 64):
            peer = _transformers(total, chunk)
            if peer is not None:
                rows.append(_line(f"transformers, chunk {chunk}", total, 1.0, peer, ""))
    publish("bench_ssd", rows, options, [f"GEMM rate in the same run: {rate:.0f} GFLOP/s; D=256, P=16, N=64, histories of 5-300"])


def _line(who: str, total: int, steepest: float, timing: Timing, share: str) -> dict[str, Any]:
    return {"what": who, "events": total, "steepest log-decay": -steepest, "forward + backward": str(timing), "of GEMM": share}


def _transformers(total: int, chunk: int) -> Timing | None:
    try:
        from transformers.models.mamba2 import modeling_mamba2 as peer
    except ImportError:
        return None
    x, dt, A, B, C, D = inputs(total, 1.0)

    def work() -> torch.Tensor:
        found = peer.mamba2_chunk_scan(x[None], dt[None], A, B[None, :, None], C[None, :, None], chunk_size=chunk, D=D)
        return found[0] if isinstance(found, tuple) else found

    return measure(lambda: both(work, [x, dt, A, B, C, D]), repeats=3)


if __name__ == "__main__":
    main()
