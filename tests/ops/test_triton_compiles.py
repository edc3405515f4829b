"""Triton's compiler takes every kernel of the default tile for an H200 (sm_90), without a GPU.

The interpreter forgives what the compiler refuses (a loop that changes a variable's type), and knows no registers.
"""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed"),
]

# Run apart: in this process the kernels may have been decorated for the interpreter.
COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ssd4rec.ops.triton import convolution, gate, prefixes, prefixes_backward, prefixes_forward, segment_sums
from ssd4rec.ops.triton import softmax, ssd, ssd_backward, ssd_forward

OPERANDS = {"x", "B", "C", "dy", "y", "dx", "writes", "states", "table", "errors", "values", "grad", "gate", "out", "ahead",
            "back", "d_total", "d_ahead", "d_back", "d_values", "d_y", "d_gate"}
NUMBERS = {"T", "H", "SPLITS", "M", "V", "D", "PARTS", "E", "count", "channels", "stride", "K", "offset", "width",
           "before_totals", "before_carry"}

def build(kernel, kind, constants):
    def kind_of(name):
        if name in constants:
            return "constexpr"
        if name in {"first", "last", "edges", "targets", "history", "cu_seqlens"}:
            return "*i64"
        if name == "eps":
            return "fp32"
        if name == "D" and "log_sum" not in kernel.arg_names:  # of the scan: the skip weights
            return "*fp32"
        counted = name == "B" and "offset" in kernel.arg_names  # histories; of the scan: a matrix
        if name in NUMBERS or name.startswith("stride") or counted:
            return "i32"
        return "*" + (kind if name in OPERANDS else "fp32")
    source = ASTSource(kernel, {name: kind_of(name) for name in kernel.arg_names}, constexprs=constants)
    warps = prefixes.DEFAULT.warps if "prefixes" in kernel.__module__ else 4
    triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "num_stages": 2})
    print(kernel.__name__, kind)

kind, group, precision = sys.argv[1], *{"bf16": (4, "ieee"), "fp32": (2, "tf32x3")}[sys.argv[1]]  # HG, forwards
for reverse in (False, True):
    of_scan = {"HG": group, "P": 16, "N": 64, "Q": ssd.DEFAULT.length, "G": ssd.DEFAULT.chunks,
               "REVERSE": reverse, "PRECISION": precision}
    build(ssd_forward.sum_decays, kind, {"HEADS": 16, "Q": ssd.DEFAULT.length, "REVERSE": reverse})
    build(ssd_backward.decays_backward, kind, {"HEADS": 16, "Q": ssd.DEFAULT.length, "REVERSE": reverse})
    for adjoint in (False, True):
        build(ssd_forward.hand_on, kind, of_scan | {"ADJOINT": adjoint})
    build(ssd_forward.read, kind, of_scan | {"RANGE": 40.0})
    for kernel in (ssd_backward.reads_backward, ssd_backward.writes_backward):
        build(kernel, kind, of_scan | {"RANGE": 40.0, "HG": group // 2})
    build(ssd_backward.pass_backward, kind, of_scan | {"HG": group // 2})
    build(convolution._before, kind, {"K": 4, "BACK": reverse, "ROWS": convolution.ROWS, "COLUMNS": convolution.COLUMNS,
                                      "BLOCKS": convolution.BLOCKS_A_PROGRAM})
    build(segment_sums.carry_on, kind, {"COLUMNS": 128, "Q": prefixes.DEFAULT.length, "REVERSE": reverse})
for kernel in (convolution._forward, convolution._spread):
    build(kernel, kind, {"K": 4, "AHEAD": True, "BACK": True, "ROWS": convolution.ROWS, "COLUMNS": convolution.COLUMNS})
build(gate._forward, kind, {"ROWS": 8, "COLUMNS": 512})
build(gate._backward, kind, {"ROWS": 8, "COLUMNS": 512, "BLOCKS": gate.BLOCKS_A_PROGRAM})
for kernel in (segment_sums.decay_totals, segment_sums.decays_before, segment_sums.decays_before_backward):
    build(kernel, kind, {"HEADS": prefixes.HEADS_AT_ONCE, "Q": prefixes.DEFAULT.length})
of_values = {"HG": 4, "P": 16, "K": 4, "Q": prefixes.DEFAULT.length}
build(prefixes_forward.settled_totals, kind, of_values)
build(prefixes_forward.read_prefixes, kind, of_values)
build(prefixes_backward.values_backward, kind, of_values | {"HG": 2, "BLOCKS": prefixes.DEFAULT.blocks})
build(prefixes_backward.strengths_backward, kind, of_values | {"HG": 2})
build(prefixes_backward.gradient_totals, kind, {"COLUMNS": 64, "K": 4, "Q": prefixes.DEFAULT.length})
of_states = {"K": 4, "N": 64, "Q": prefixes.DEFAULT.length}
build(prefixes_forward.first_reads, kind, {"K": 4, "N": 64, "ROWS": prefixes.DEFAULT.length})
build(prefixes_forward.matches, kind, of_states)
for kernel in (prefixes_backward.writes_backward, prefixes_backward.reads_backward):
    build(kernel, kind, of_states | {"COLUMNS": 64, "BLOCKS": prefixes.DEFAULT.blocks})
of_loss = softmax._constants(softmax.DEFAULT) | {"PRECISION": precision}
build(softmax._forward, kind, of_loss)
build(softmax._errors, kind, of_loss)
"""
KERNELS = 2 * 10 + 6 + 12


@pytest.mark.parametrize("kind", ["bf16", "fp32"])
def test_every_kernel_compiles(kind: str) -> None:
    """Forwards and backwards, in bfloat16 and float32 at P=16, N=64."""
    # The environment of this process may ask for the interpreter.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, kind], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == KERNELS
