"""Measure seconds and memory of the scan and of the mixer, next to their definition and HF transformers' Mamba-2 on a CPU.

Forward and backward. The peer (the extra `bench`) is given the same numbers; it knows no histories and reads the row as one.
Seconds are taken in one process, one after the other; memory is what each adds to the peak of a process of its own.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch

from common import Timing, arguments, gemm_rate, measure, peak_memory, publish
from ssd4rec.config import SSD4RecConfig
from ssd4rec.layers.mamba2 import Mamba2Mixer
from ssd4rec.ops.segments import make_layout
from ssd4rec.ops.ssd.chunked import chunked_scan
from ssd4rec.ops.ssd.reference import scan

WIDTH, HEAD_WIDTH, STATE = 256, 16, 64
INNER = 2 * WIDTH
HEADS = INNER // HEAD_WIDTH
PEERS = ("transformers, chunk 256", "transformers, chunk 64")
DEFINITION_EVENTS = 256  # event by event: more would take minutes

Work = Callable[[], torch.Tensor]


def row(total: int) -> torch.Tensor:
    """CuSeqlens of histories of 5 to 300 events."""
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


def operator(who: str, total: int, steepest: float) -> Work:
    """The scan alone, forward and backward."""
    tensors = inputs(total, steepest)
    x, dt, A, B, C, D = tensors
    cu_seqlens = row(total)
    layout = make_layout(cu_seqlens)
    if who == "definition":
        return _both(lambda: scan(*tensors, cu_seqlens)[0], tensors)
    if who == "ours":
        return _both(lambda: chunked_scan(*tensors, layout), tensors)
    from transformers.models.mamba2 import modeling_mamba2 as peer

    chunk = int(who.rsplit(maxsplit=1)[-1])
    return _both(
        lambda: peer.mamba2_chunk_scan(x[None], dt[None], A, B[None, :, None], C[None, :, None], chunk_size=chunk, D=D)[0],
        tensors,
    )


def mixer(who: str, total: int, steepest: float) -> Work:
    """In projection, convolution, scan, gate and out projection, one direction, forward and backward; decays as initialized."""
    del steepest
    hidden = torch.randn(total, WIDTH, generator=torch.Generator().manual_seed(0)).requires_grad_()
    if who == "ours":
        ours = Mamba2Mixer(SSD4RecConfig(width=WIDTH, state_dim=STATE, head_width=HEAD_WIDTH))
        layout = make_layout(row(total))
        return _both(lambda: ours(hidden, layout), [hidden, *ours.parameters()])
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer as Peer

    settings = Mamba2Config(
        hidden_size=WIDTH,
        num_heads=HEADS,
        head_dim=HEAD_WIDTH,
        state_size=STATE,
        n_groups=1,
        expand=2,
        chunk_size=int(who.rsplit(maxsplit=1)[-1]),
        num_hidden_layers=1,
        use_bias=False,
    )
    peer = Peer(settings, layer_idx=0)
    return _both(lambda: peer(hidden[None]), [hidden, *peer.parameters()])


PARTS: dict[str, Callable[[str, int, float], Work]] = {"operator": operator, "mixer": mixer}


def _both(forward: Work, tensors: list[torch.Tensor]) -> Work:
    def work() -> torch.Tensor:
        y = forward()
        y.backward(torch.ones_like(y))
        for tensor in tensors:
            tensor.grad = None
        return y

    return work


def operations(total: int, chunk: int) -> float:
    """Multiply-adds of the merged form, forward and backward, as GFLOP: what a perfect implementation of it would do."""
    forward = chunk / 2 * (STATE + INNER) + 2 * STATE * INNER
    return 2 * 3 * total * forward / 1e9


def main() -> None:
    """Print the table, or with --peak measure one contender's memory and print its bytes."""
    options = arguments(__doc__, _options)
    if options.peak:
        part, who, total = options.peak
        small, large = (PARTS[part](who, events, 1.0) for events in (DEFINITION_EVENTS, int(total)))
        print(peak_memory(large, warm_up=small))
        return
    rate = gemm_rate()
    slow = measure(operator("definition", DEFINITION_EVENTS, 8.0), repeats=5)
    rows = [_line("operator", "definition", DEFINITION_EVENTS, 8.0, slow)]
    for part, make in PARTS.items():
        for total in (4096, 16384):
            ours = measure(make("ours", total, 1.0), repeats=9, warm_up=2)
            memory = _peak(part, "ours", total, options.threads)
            share = f"{operations(total, 64) / ours.median / rate:.0%}" if part == "operator" else ""
            rows.append({**_line(part, "ours", total, 1.0, ours), "of GEMM": share, "peak MB": f"{memory / 1e6:.0f}"})
            if part == "operator":
                rows.append(_line(part, "ours", total, 8.0, measure(make("ours", total, 8.0), repeats=9)))
            for who in PEERS if _has_peer() else ():
                peer = measure(make(who, total, 1.0), repeats=5)
                theirs = _peak(part, who, total, options.threads)
                ratios = {"times ours": f"{peer.median / ours.median:.1f}", "memory, times ours": f"{theirs / memory:.1f}"}
                rows.append({**_line(part, who, total, 1.0, peer), "peak MB": f"{theirs / 1e6:.0f}", **ratios})
    notes = [f"GEMM rate in the same run: {rate:.0f} GFLOP/s; D=256, P=16, N=64, histories of 5-300"]
    if not _has_peer():
        notes.append("transformers is not installed: pip install 'ssd4rec[bench]' for its rows")
    publish("bench_ssd", rows, options, notes)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peak", nargs=3, metavar=("PART", "WHO", "EVENTS"), help="only one contender's memory, in bytes")


def _line(part: str, who: str, total: int, steepest: float, timing: Timing) -> dict[str, Any]:
    return {"part": part, "what": who, "events": total, "steepest log-decay": -steepest, "forward + backward": str(timing)}


def _peak(part: str, who: str, total: int, threads: int) -> float:
    command = [sys.executable, __file__, "--threads", str(threads), "--peak", part, who, str(total)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _has_peer() -> bool:
    from importlib.util import find_spec

    return find_spec("transformers") is not None


if __name__ == "__main__":
    main()
