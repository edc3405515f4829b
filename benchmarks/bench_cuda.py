"""How fast are the Triton kernels on this GPU, beside torch's own form, mamba-ssm's kernels and what the machine can do?

Run: python benchmarks/bench_cuda.py [--quick] [--save]        exit code 2 without a CUDA device

The floor of a kernel is the larger of its bytes over the rate of a copy and its operations over the rate of a matrix product,
both timed in this run (bfloat16). mamba-ssm is measured where it can be imported; what does not fit into memory shows as "-".
"""

import argparse
import importlib
import sys
from collections.abc import Callable
from itertools import accumulate, product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common import measure, publish
from ssd4rec.backbones.ssd4rec import SSD4Rec
from ssd4rec.config import SSD4RecConfig, TrainingConfig
from ssd4rec.data.packing import PackedBatch
from ssd4rec.model import NextItemModel
from ssd4rec.ops import chunked, softmax, triton
from ssd4rec.ops.segments import Layout, full, lay_out
from ssd4rec.training.objective import next_item_loss

MIXES = {"Beauty-like": (9, 12_101), "ML-1M-like": (165, 3_416)}  # mean events of a history, items
WIDTH, STATES = 256, 64  # D, N
OPERAND = torch.bfloat16


class Machine(NamedTuple):
    """What this GPU reaches in this run."""

    copied: float  # bytes a second, read and written
    multiplied: float  # operations a second, bfloat16

    def floor(self, moved: float, operations: float) -> float:
        """Seconds that moving and working cannot go below."""
        return max(moved / self.copied, operations / self.multiplied)


class Sizes(NamedTuple):
    """Of one scan."""

    length: int  # T
    heads: int  # H
    head_width: int  # P

    @property
    def forward_bytes(self) -> int:
        """X, B, C and dt are read, y is written."""
        return self.length * (2 * 2 * self.heads * self.head_width + 2 * 2 * STATES + 4 * self.heads)

    @property
    def all_bytes(self) -> int:
        """The same, and backward: x, dy, B, C and dt are read, their gradients but that of dy written."""
        values = 3 * 2 * self.heads * self.head_width
        return self.forward_bytes + self.length * (values + 2 * 2 * 2 * STATES + 2 * 4 * self.heads)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="64k positions only")
    parser.add_argument("--save", action="store_true", help="write results/bench_cuda_*.{md,json}")
    options = parser.parse_args()
    options.threads = torch.get_num_threads()
    if not torch.cuda.is_available() or not triton.available():
        print("bench_cuda: needs a CUDA device and Triton, found none; run it on a GPU machine", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    machine = Machine(_copy_rate(), _product_rate())
    lengths = [1 << 16] if options.quick else [1 << 16, 1 << 20]
    rows = []
    for mix, length, head_width in product(MIXES, lengths, (16, 64)):
        rows += scan_rows(machine, mix, length, head_width)
    rows += [cross_entropy_row(machine, classes, min(lengths[-1], 1 << 17)) for classes in (3_416, 12_101, 100_000)]
    rows += [step_row(mix, width) for mix in MIXES for width in (64, WIDTH)]
    notes = [
        f"{torch.cuda.get_device_name()}: copy {machine.copied / 1e12:.2f} TB/s, bfloat16 product "
        f"{machine.multiplied / 1e12:.0f} TFLOP/s, timed in this run; D={WIDTH}, N={STATES}, "
        "bfloat16 operands, float32 decays and states",
        f"mamba-ssm {'measured' if _mamba() else 'not importable, not measured'}",
    ]
    publish("bench_cuda", rows, options, notes)
    return 0


def scan_rows(machine: Machine, mix: str, length: int, head_width: int) -> list[dict[str, Any]]:
    """Forward, then forward and backward, of the scan in one direction."""
    sizes = Sizes(length, 2 * WIDTH // head_width, head_width)
    layout = lay_out(torch.tensor([0, *accumulate(lengths_of(MIXES[mix][0], length))], device="cuda"))
    inputs = scan_inputs(sizes)
    upstream = torch.randn_like(inputs[0])
    operations = 2 * length * (2 * STATES * 2 * WIDTH)  # into the state and out of it
    ahead = False  # not reversed
    forms = {
        "torch": lambda *six: chunked._ChunkedScan.apply(*full(*six), layout.chunks, ahead),  # noqa: SLF001 - not the front door
        "triton": lambda *six: triton.scan(*six, layout),
        "mamba-ssm": _mamba_scan(layout),
    }
    rows = []
    for name, moved, work in (("forward", sizes.forward_bytes, operations), ("both", sizes.all_bytes, 3 * operations)):
        seconds = {}
        for form, scan in forms.items():
            seconds[form] = _seconds(_pass(scan, inputs, upstream, backward=name == "both")) if scan else None
        rows.append(_row(f"scan {name}, {mix}, T={length:,}, P={head_width}", seconds, machine.floor(moved, work)))
    return rows


def cross_entropy_row(machine: Machine, classes: int, rows: int) -> dict[str, Any]:
    """Loss and both gradients."""
    states = torch.randn(rows, WIDTH, device="cuda", dtype=OPERAND, requires_grad=True)
    table = (0.05 * torch.randn(classes, WIDTH, device="cuda")).to(OPERAND).requires_grad_()
    targets = torch.randint(classes, (rows,), device="cuda")
    forms: dict[str, Callable[[], Tensor]] = {
        "torch": lambda: softmax._LinearCrossEntropy.apply(*full(states, table), targets),  # noqa: SLF001 - not the front door
        "triton": lambda: triton.linear_cross_entropy(states, table, targets),
    }
    seconds = {form: _seconds(lambda loss=loss: torch.autograd.grad(loss(), (states, table))) for form, loss in forms.items()}
    floor = machine.floor(0, 3 * 2 * rows * classes * WIDTH)
    return _row(f"cross-entropy both, M={rows:,}, V={classes:,}", seconds, floor)


def step_row(mix: str, width: int, length: int = 1 << 16) -> dict[str, Any]:
    """One training step, one pass, through the front doors, in bfloat16."""
    mean, items = MIXES[mix]
    model = NextItemModel(SSD4Rec(SSD4RecConfig(width=width)), items).cuda()
    optimiser = torch.optim.Adam(model.parameters(), fused=True)
    boundaries = torch.tensor([0, *accumulate(lengths_of(mean, length))], device="cuda")
    drawn = torch.randint(1, items + 1, (2, length), device="cuda")
    batch = PackedBatch(drawn[0], boundaries, drawn[1])

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast("cuda", OPERAND):
            loss = next_item_loss(model, batch, TrainingConfig())
        loss.backward()
        optimiser.step()

    seconds = _seconds(step)
    shown = "-" if seconds is None else f"{length / seconds:,.0f}"
    return {**_row(f"training step, {mix}, T={length:,}, D={width}", {"front door": seconds}, None), "events/s": shown}


def lengths_of(mean: int, total: int) -> list[int]:
    """Lengths of about `mean` events, three at least, that fill a row of `total` positions."""
    random = torch.Generator().manual_seed(0)
    drawn = 3 + (torch.empty(total // 3 + 1).exponential_(generator=random) * (mean - 3)).long()
    ends = drawn.cumsum(0)
    kept = int((ends < total).sum())
    return [*drawn[:kept].tolist(), total - (int(ends[kept - 1]) if kept else 0)]


def scan_inputs(sizes: Sizes) -> list[Tensor]:
    """Values of a freshly initialised mixer: x, dt, A, B, C, D."""
    x = torch.randn(sizes, device="cuda", dtype=OPERAND)
    dt = torch.rand(sizes.length, sizes.heads, device="cuda") * 0.1 + 1e-3
    A = -1 - 15 * torch.rand(sizes.heads, device="cuda")
    B, C = (torch.randn(sizes.length, STATES, device="cuda", dtype=OPERAND) / 8 for _ in range(2))
    return [values.requires_grad_() for values in (x, dt, A, B, C, torch.ones(sizes.heads, device="cuda"))]


def _pass(scan: Callable[..., Tensor], inputs: list[Tensor], upstream: Tensor, *, backward: bool) -> Callable[[], None]:
    def forward() -> None:
        with torch.no_grad():
            scan(*inputs)

    def both() -> None:
        y = scan(*inputs)
        torch.autograd.grad(y, inputs, upstream.to(y.dtype).view_as(y))

    return both if backward else forward


def _seconds(work: Callable[[], Any]) -> float | None:
    """None: it does not fit into memory."""
    try:
        return measure(work, repeats=7, warm_up=3).median
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None


def _row(what: str, seconds: dict[str, float | None], floor: float | None) -> dict[str, Any]:
    row = {"what": what, **{form: "-" if taken is None else f"{taken * 1e3:.2f} ms" for form, taken in seconds.items()}}
    ours = seconds.get("triton")
    if floor is not None:
        row["floor"] = f"{floor * 1e3:.2f} ms"
    if ours is not None and floor is not None:
        row["of floor"] = f"{ours / floor:.1f}x"
    for other in ("torch", "mamba-ssm"):
        theirs = seconds.get(other)
        if ours is not None and theirs is not None:
            row[f"faster than {other}"] = f"{theirs / ours:.1f}x"
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
    history = layout.history.to(torch.int32)[None]

    def scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        out: Tensor = module.mamba_chunk_scan_combined(
            x[None], dt[None], A, B[None, :, None], C[None, :, None], chunk_size=256, D=D, seq_idx=history
        )
        return out

    return scan


def _copy_rate(size: int = 1 << 29) -> float:
    source = torch.empty(size, dtype=OPERAND, device="cuda")
    target = torch.empty_like(source)
    return 2 * size * source.element_size() / measure(lambda: target.copy_(source), repeats=9, warm_up=3).median


def _product_rate(size: int = 8192) -> float:
    left, right = (torch.randn(size, size, dtype=OPERAND, device="cuda") for _ in range(2))
    return 2 * size**3 / measure(lambda: left @ right, repeats=9, warm_up=3).median


if __name__ == "__main__":
    sys.exit(main())
