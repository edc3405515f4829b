"""How fast are the Triton kernels on this GPU, compared with torch, mamba-ssm and the machine's peak rates?

Run: python benchmarks/bench_cuda.py [--out FILE] [--quick]      exit code 2 without a CUDA device (see gpu_session.md)
     TRITON_INTERPRET=1 python benchmarks/bench_cuda.py --smoke      tiny sizes on a CPU: does it run? its times mean nothing

The floor of a kernel is the larger of its bytes over the rate of a copy and its operations over the rate of a matrix product,
both timed in this run (bfloat16). mamba-ssm is measured where it can be imported; "-": it does not fit, or has no kernel.
Each form is compared with the torch form in this run before it is timed.
"""

import importlib
import sys
from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cuda_common import MIXES, Bench, arguments, boundaries_of, milliseconds, timed, tolerance
from ssd4rec.ops import cross_entropy, dispatch
from ssd4rec.ops.segments import Layout, make_layout


class Sizes(NamedTuple):
    """Of one scan."""

    length: int  # T
    heads: int  # H
    head_width: int  # P
    states: int  # N
    element: int  # bytes of an operand

    @property
    def forward_bytes(self) -> int:
        """X, B, C and dt are read, y is written."""
        return self.length * (2 * self.element * self.heads * self.head_width + 2 * self.element * self.states + 4 * self.heads)

    @property
    def all_bytes(self) -> int:
        """The same, and backward: x, dy, B, C and dt are read, their gradients but that of dy written."""
        values = 3 * self.element * self.heads * self.head_width
        return self.forward_bytes + self.length * (values + 2 * 2 * self.element * self.states + 2 * 4 * self.heads)


def main() -> int:
    """Print a table; write it after each row, so that a bench that is stopped has kept what it measured."""
    options = arguments(__doc__)
    bench = Bench.begin("bench_cuda", options)
    if bench is None:
        return 2
    smoke = options.smoke
    lengths = [96] if smoke else [1 << 16] if options.quick else [1 << 16, 1 << 20]
    mixes, widths = (list(MIXES)[:1], [16]) if smoke else (list(MIXES), [16, 64])
    for mix, length, head_width in product(mixes, lengths, widths):
        for row in (*scan_rows(bench, mix, length, head_width), *prefixes_rows(bench, mix, length, head_width)):
            bench.add(row)
    for length in lengths:
        bench.add(convolution_row(bench, length))
        bench.add(gate_row(bench, length))
    for classes in (40,) if smoke else (3_416, 12_101, 100_000):
        bench.add(cross_entropy_row(bench, classes, 64 if smoke else 1 << 17))
    bench.end(f"mamba-ssm {'measured' if _mamba() else 'not importable, not measured'}")
    return 0


def scan_rows(bench: Bench, mix: str, length: int, head_width: int) -> list[dict[str, Any]]:
    """Forward, then forward and backward, of the scan in both directions, and of mamba-ssm's, which has one."""
    width, states = (32, 16) if bench.smoke else (512, 64)  # E, N
    sizes = Sizes(length, max(width // head_width, 1), head_width, states, bench.operand.itemsize)
    layout = make_layout(boundaries_of(mix, length, bench.device))
    inputs = scan_inputs(bench, sizes)
    upstream = torch.randn_like(inputs[0])
    operations = 2 * length * (2 * states * sizes.heads * head_width)  # into the state and out of it
    rows = []
    for reverse in (False, True):
        scans: dict[str, Callable[..., Tensor] | None] = {
            form: under(form, lambda *six, reverse=reverse: dispatch.scan(*six, layout, reverse=reverse))
            for form in ("torch", "triton")
        }
        if not reverse:
            scans["mamba-ssm"] = _mamba_scan(layout)
        for name, traffic, work in (
            ("forward", sizes.forward_bytes, operations),
            ("both", sizes.all_bytes, 3 * operations),
        ):
            passes = {
                form: pass_of(scan, inputs, upstream, backward=name == "both") for form, scan in scans.items() if scan is not None
            }
            seconds, error = timed(bench, passes)
            direction = "backwards" if reverse else "forwards"
            what = f"scan {name} {direction}, {mix}, T={length:,}, P={head_width}"
            rows.append(row_of(what, seconds, bench.floor(traffic, work), error))
    return rows


def prefixes_rows(bench: Bench, mix: str, length: int, head_width: int) -> list[dict[str, Any]]:
    """The backward direction of one-pass training: forward, then both ways. Its floor is memory traffic, no products."""
    width, states = (32, 16) if bench.smoke else (512, 64)  # E, N
    heads, channels = width // head_width, width + 2 * states
    layout = make_layout(boundaries_of(mix, length, bench.device))
    inputs = [
        torch.randn(length, channels, device=bench.device, dtype=bench.operand),
        *(torch.randn(shape, device=bench.device) / 2 for shape in ((channels, 4), (channels,))),
        torch.rand(length, heads, device=bench.device) * 0.1 + 1e-3,
        -1 - 15 * torch.rand(heads, device=bench.device),
        torch.ones(heads, device=bench.device),
    ]
    inputs = [values.requires_grad_() for values in inputs]
    upstream = torch.randn(length, heads, head_width, device=bench.device, dtype=bench.operand)
    input_bytes, output_bytes = length * (channels * bench.operand.itemsize + 4 * heads), length * width * bench.operand.itemsize
    rows = []
    for name, traffic in (("forward", input_bytes + output_bytes), ("both", 3 * input_bytes + 2 * output_bytes)):

        def work(*, backward: bool = name == "both") -> tuple[Tensor, ...]:
            with torch.set_grad_enabled(backward):
                y = dispatch.backward_prefix_readout(*inputs, layout, states)
            return (y.detach(), *(torch.autograd.grad(y, inputs, upstream.to(y.dtype))[:2] if backward else ()))

        seconds, error = timed(bench, {form: under(form, work) for form in ("torch", "triton")})
        rows.append(row_of(f"every prefix {name}, {mix}, T={length:,}, P={head_width}", seconds, bench.floor(traffic, 0), error))
    return rows


def convolution_row(bench: Bench, length: int) -> dict[str, Any]:
    """The convolution and SiLU in both directions, forward and backward."""
    channels = 20 if bench.smoke else 640
    layout = make_layout(boundaries_of("Beauty-like", length, bench.device))
    row = torch.randn(length, channels, device=bench.device, dtype=bench.operand, requires_grad=True)
    inputs = (
        row,
        torch.randn(channels, 4, device=bench.device, requires_grad=True),
        torch.randn(channels, device=bench.device, requires_grad=True),
    )

    def both_ways(*three: Tensor) -> tuple[Tensor, ...]:
        out = dispatch.convolve_bidirectional(*three, layout)
        return (*out, *torch.autograd.grad(out, three, [torch.ones_like(values) for values in out]))

    seconds, error = timed(bench, {form: lambda form=form: under(form, both_ways)(*inputs) for form in ("torch", "triton")})
    traffic = 7 * length * channels * bench.operand.itemsize  # in, two out; in, two gradients, one gradient out
    return row_of(f"convolution both ways, both, T={length:,}, {channels} channels", seconds, bench.floor(traffic, 0), error)


def gate_row(bench: Bench, length: int) -> dict[str, Any]:
    """Gate and RMSNorm, forward and backward."""
    width = 32 if bench.smoke else 512
    y, gate = (torch.randn(length, width, device=bench.device, dtype=bench.operand, requires_grad=True) for _ in range(2))
    weight = torch.ones(width, device=bench.device, requires_grad=True)

    def gated() -> tuple[Tensor, ...]:
        out = dispatch.gated_norm(y, gate, weight, 1e-5)
        return (out, *torch.autograd.grad(out, (y, gate, weight), torch.ones_like(out)))

    seconds, error = timed(bench, {form: under(form, gated) for form in ("torch", "triton")})
    traffic = 8 * length * width * bench.operand.itemsize
    return row_of(f"gate and norm, both, T={length:,}, E={width}", seconds, bench.floor(traffic, 0), error)


def cross_entropy_row(bench: Bench, classes: int, rows: int) -> dict[str, Any]:
    """Loss and both gradients."""
    width = 16 if bench.smoke else 256
    states = torch.randn(rows, width, device=bench.device, dtype=bench.operand, requires_grad=True)
    table = (0.05 * torch.randn(classes, width, device=bench.device)).to(bench.operand).requires_grad_()
    targets = torch.randint(classes, (rows,), device=bench.device)

    def all_of(loss: Callable[..., Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        def run() -> tuple[Tensor, ...]:
            value = loss(states, table, targets)
            return (value, *torch.autograd.grad(value, (states, table)))

        return run

    losses = {form: under(form, all_of(dispatch.linear_cross_entropy)) for form in ("torch", "triton")}
    losses["all scores"] = all_of(cross_entropy.linear_cross_entropy_definition)
    seconds, error = timed(bench, losses)
    floor = bench.floor(0, 3 * 2 * rows * classes * width)
    return row_of(f"cross-entropy both, M={rows:,}, V={classes:,}, D={width}", seconds, floor, error)


def under(form: dispatch.Backend, work: Callable[..., Any]) -> Callable[..., Any]:
    """The work with a form chosen by hand."""

    def run(*arguments: Any) -> Any:
        with dispatch.use_backend(form):
            return work(*arguments)

    return run


def scan_inputs(bench: Bench, sizes: Sizes) -> list[Tensor]:
    """Values of a freshly initialized mixer: x, dt, A, B, C, D."""
    device = bench.device
    x = torch.randn(sizes.length, sizes.heads, sizes.head_width, device=device, dtype=bench.operand)
    dt = torch.rand(sizes.length, sizes.heads, device=device) * 0.1 + 1e-3
    A = -1 - 15 * torch.rand(sizes.heads, device=device)
    B, C = (torch.randn(sizes.length, sizes.states, device=device, dtype=bench.operand) / 8 for _ in range(2))
    return [values.requires_grad_() for values in (x, dt, A, B, C, torch.ones(sizes.heads, device=device))]


def pass_of(
    scan: Callable[..., Tensor], inputs: list[Tensor], upstream: Tensor, *, backward: bool
) -> Callable[[], tuple[Tensor, ...]]:
    """One forward pass, or one with its backward pass; returns what it computed, the large results only."""

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (scan(*inputs),)

    def both() -> tuple[Tensor, ...]:
        y = scan(*inputs)
        gradients = torch.autograd.grad(y, inputs, upstream.to(y.dtype).view_as(y))
        return y.detach(), gradients[0], gradients[3], gradients[4]

    return both if backward else forward


def row_of(what: str, seconds: dict[str, float | None], floor: float | None, error: float | None) -> dict[str, Any]:
    """One line of the table: milliseconds, the floor, and ratios."""
    row: dict[str, Any] = {"what": what, **{form: milliseconds(taken) for form, taken in seconds.items()}}
    row["floor"] = milliseconds(floor)
    ours = seconds.get("triton")
    if ours is not None:
        row["of floor"] = f"{ours / floor:.1f}x" if floor is not None else "-"
        for other in ("torch", "mamba-ssm", "all scores"):
            theirs = seconds.get(other)
            if theirs is not None:
                row[f"faster than {other}"] = f"{theirs / ours:.1f}x"
    row["triton against torch"] = "-" if error is None else f"{error:.0e} of the largest, {tolerance(error)}"
    return row


def _mamba() -> Any:
    try:
        return importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    except ImportError:
        return None


def _mamba_scan(layout: Layout) -> Callable[..., Tensor] | None:
    module = _mamba()
    if module is None:
        return None
    history = layout.seq_idx.to(torch.int32)[None]

    def scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        out: Tensor = module.mamba_chunk_scan_combined(
            x[None], dt[None], A, B[None, :, None], C[None, :, None], chunk_size=256, D=D, seq_idx=history
        )
        return out[0]

    return scan


if __name__ == "__main__":
    sys.exit(main())
