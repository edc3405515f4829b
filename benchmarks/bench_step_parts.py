"""Where does the time of one training step go, part by part, and what does each part compute and move?

Every part of a step of SSD4Rec (one bidirectional layer, all positions) is timed alone, forward and backward. GFLOP counts matrix
products; MB counts the inputs and outputs of both passes, once each: a part that takes far longer than both allow is bound by
passes over memory in between, or by many small operations.

python benchmarks/bench_step_parts.py --threads 1 --width 64 256 --save
"""

import argparse
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench_step import EVENTS, WORLDS, batch
from common import arguments, gemm_rate, publish
from ssd4rec.config import SSD4RecConfig
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.ops import dispatch
from ssd4rec.ops.segments import make_layout

Q = 64


class Part(NamedTuple):
    """A part of a step."""

    work: Callable[[], Tensor]
    multiplications: float  # a position, of one pass forward
    numbers: float  # a position, read and written forward


def main() -> None:
    """Print the table."""
    options = arguments(__doc__, add_options)
    rate = gemm_rate()
    rows = []
    for name in options.world:
        for width in options.width:
            parts = parts_of(name, width)
            seconds = {part: timed(each.work, options.repeats) for part, each in parts.items()}
            total = sum(map(sum, seconds.values()))
            for part, (forward, backward) in seconds.items():
                gflop = 6 * EVENTS * parts[part].multiplications / 1e9
                rows.append(
                    {
                        "row": name,
                        "D": width,
                        "part": part,
                        "forward": f"{forward * 1e3:.1f} ms",
                        "backward": f"{backward * 1e3:.1f} ms",
                        "share": f"{(forward + backward) / total:.0%}",
                        "GFLOP": f"{gflop:.2f}",
                        "of GEMM": f"{gflop / (forward + backward) / rate:.0%}",
                        "MB": f"{3 * 4 * EVENTS * parts[part].numbers / 1e6:.0f}",
                    }
                )
    note = f"GEMM rate in the same run: {rate:.0f} GFLOP/s; {EVENTS} events; best of {options.repeats}"
    publish("bench_step_parts", rows, options, [note])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the sizes."""
    parser.add_argument("--width", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--world", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--repeats", type=int, default=5)


def parts_of(name: str, width: int) -> dict[str, Part]:
    """Return the parts of a step by name."""
    mean, items = WORLDS[name]
    torch.manual_seed(0)
    model = NextItemModel(SSD4Rec(SSD4RecConfig(width=width, dropout=0.2)), items)
    packed = batch(mean, items)
    layer: Any = model.backbone.layers[0]  # type: ignore[index]
    mixer, layout = layer.mixer, make_layout(packed.cu_seqlens)
    D, E, N, H = width, mixer.inner, mixer.state_dim, mixer.heads
    hidden = torch.randn(EVENTS, D, requires_grad=True)
    wide = torch.randn(EVENTS, E, requires_grad=True)
    projected = mixer.in_proj(hidden.detach()).detach().requires_grad_()
    with torch.no_grad():
        ready = mixer.project(hidden)
        convolved = dispatch.convolve(ready.channels, mixer.conv_weight, mixer.conv_bias, layout)
    dt = ready.dt.detach().requires_grad_()
    x, B, C = (values.detach().requires_grad_() for values in mixer.split(convolved))
    convolution = mixer.conv_weight, mixer.conv_bias

    def channels() -> Tensor:
        return projected[:, E : 2 * E + 2 * N]

    return {
        "in_proj": Part(lambda: mixer.in_proj(hidden), D * (2 * E + 2 * N + H), D + 2 * E + 2 * N + H),
        "convolution": Part(lambda: dispatch.convolve(channels(), *convolution, layout), 0, 2 * (E + 2 * N)),
        "scan": Part(
            lambda: dispatch.scan(x, dt, mixer.A, B, C, mixer.D, layout),
            Q / 2 * (N + E) + 2 * N * E,
            2 * E + 2 * N + H,
        ),
        "prefix read-out": Part(
            lambda: dispatch.backward_prefix_readout(channels(), *convolution, dt, mixer.A, mixer.D, layout, N),
            0,
            2 * E + 2 * N + H,
        ),
        "gated norms (2)": Part(lambda: mixer.gated(x, wide) + mixer.gated(x, wide), 0, 7 * E),
        "out_proj": Part(lambda: mixer.out_proj(wide), D * E, E + D),
        "norm, residual, dropout": Part(lambda: layer.dropout(layer.norm(hidden + hidden)), 0, 4 * D),
        "feed-forward": Part(lambda: layer.feed_forward(hidden), 8 * D * D, 2 * D + 4 * 4 * D),
        "embedding": Part(lambda: model.embed(packed.items, packed.cu_seqlens), 0, 2 * D),
        "softmax": Part(lambda: model.loss(hidden, packed.targets), D * items, 2 * D),
    }


def timed(work: Callable[[], Tensor], repeats: int) -> tuple[float, float]:
    """Return the best seconds of the forward and the backward pass."""
    forward, backward = [], []
    for _ in range(repeats + 1):
        began = perf_counter()
        out = work()
        middle = perf_counter()
        gradient = torch.ones_like(out)
        again = perf_counter()
        out.backward(gradient)
        forward.append(middle - began)
        backward.append(perf_counter() - again)
    return min(forward[1:]), min(backward[1:])


if __name__ == "__main__":
    main()
