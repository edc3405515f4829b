"""Triton compiles every kernel with the default tile for an H200 (sm_90), without a GPU.

The interpreter accepts some code that the compiler rejects, such as a loop that changes the type of a variable.
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

# Runs in a subprocess, because the kernels of this process may have been decorated for the interpreter.
COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ssd4rec.ops.triton import convolution, cross_entropy, gated_norm, prefix_readout
from ssd4rec.ops.triton import prefix_readout_backward, prefix_readout_forward, segment_sums, ssd, ssd_backward, ssd_forward

OPERANDS = {"x", "B", "C", "dy", "y", "dx", "projection", "table", "errors", "values", "grad", "gate", "out", "forward_out",
            "backward_out", "d_total", "d_forward", "d_backward", "d_values", "d_y", "d_gate"}
NUMBERS = {"T", "H", "SPLITS", "M", "V", "D", "PARTS", "E", "count", "channels", "stride", "K", "offset", "width",
           "totals_column", "offsets_column"}

def build(kernel, kind, constants):
    def kind_of(name):
        if name in constants:
            return "constexpr"
        if name in {"seq_starts", "seq_ends", "edges", "targets", "seq_idx", "cu_seqlens"}:
            return "*i64"
        if name == "eps":
            return "fp32"
        if name == "D" and "log_sum" not in kernel.arg_names:  # the skip weights of the scan
            return "*fp32"
        is_count = name == "B" and "offset" in kernel.arg_names  # number of sequences; in the scan, a matrix
        if name in NUMBERS or name.startswith("stride") or is_count:
            return "i32"
        is_operand = name in OPERANDS or (name == "states" and "table" in kernel.arg_names)  # in the scan: float32 states
        return "*" + (kind if is_operand else "fp32")
    source = ASTSource(kernel, {name: kind_of(name) for name in kernel.arg_names}, constexprs=constants)
    warps = prefix_readout.DEFAULT.warps if "prefix_readout" in kernel.__module__ else 4
    triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "num_stages": 2})
    print(kernel.__name__, kind)

kind, group, precision = sys.argv[1], *{"bf16": (4, "ieee"), "fp32": (2, "tf32x3")}[sys.argv[1]]  # HG of the forward pass
for reverse in (False, True):
    scan_sizes = {"HG": group, "P": 16, "N": 64, "Q": ssd.DEFAULT.length, "G": ssd.DEFAULT.chunks,
               "REVERSE": reverse, "PRECISION": precision}
    build(ssd_forward.cumulate_decays, kind, {"HEADS": 16, "Q": ssd.DEFAULT.length, "REVERSE": reverse})
    build(ssd_backward.decays_backward, kind, {"HEADS": 16, "Q": ssd.DEFAULT.length, "REVERSE": reverse})
    for adjoint in (False, True):
        build(ssd_forward.pass_states, kind, scan_sizes | {"ADJOINT": adjoint})
    build(ssd_forward.scan_output, kind, scan_sizes | {"RANGE": 40.0})
    for kernel in (ssd_backward.output_backward, ssd_backward.input_backward):
        build(kernel, kind, scan_sizes | {"RANGE": 40.0, "HG": group // 2})
    build(ssd_backward.state_decay_backward, kind, scan_sizes | {"HG": group // 2})
    build(convolution._pre_activation_backward, kind, {"K": 4, "BACKWARD": reverse, "ROWS": convolution.ROWS,
          "COLUMNS": convolution.COLUMNS, "BLOCKS": convolution.BLOCKS_A_PROGRAM})
    build(segment_sums.scan_block_totals, kind, {"COLUMNS": 128, "Q": prefix_readout.DEFAULT.length, "REVERSE": reverse})
for kernel in (convolution._forward, convolution._input_backward):
    build(kernel, kind, {"K": 4, "FORWARD": True, "BACKWARD": True, "ROWS": convolution.ROWS, "COLUMNS": convolution.COLUMNS})
build(gated_norm._forward, kind, {"ROWS": 8, "COLUMNS": 512})
build(gated_norm._backward, kind, {"ROWS": 8, "COLUMNS": 512, "BLOCKS": gated_norm.BLOCKS_A_PROGRAM})
for kernel in (segment_sums.decay_totals, segment_sums.exclusive_decay, segment_sums.exclusive_decay_backward):
    build(kernel, kind, {"HEADS": prefix_readout.HEADS_PER_PROGRAM, "Q": prefix_readout.DEFAULT.length})
head_sizes = {"HG": 4, "P": 16, "K": 4, "Q": prefix_readout.DEFAULT.length}
build(prefix_readout_forward.complete_totals, kind, head_sizes)
build(prefix_readout_forward.prefix_output, kind, head_sizes)
build(prefix_readout_backward.x_backward, kind, head_sizes | {"HG": 2, "BLOCKS": prefix_readout.DEFAULT.blocks})
build(prefix_readout_backward.decayed_dt_backward, kind, head_sizes | {"HG": 2})
build(prefix_readout_backward.gradient_totals, kind, {"COLUMNS": 64, "K": 4, "Q": prefix_readout.DEFAULT.length})
state_sizes = {"K": 4, "N": 64, "Q": prefix_readout.DEFAULT.length}
build(prefix_readout_forward.compute_first_C, kind, {"K": 4, "N": 64, "ROWS": prefix_readout.DEFAULT.length})
build(prefix_readout_forward.compute_cb, kind, state_sizes)
for kernel in (prefix_readout_backward.B_backward, prefix_readout_backward.C_backward):
    build(kernel, kind, state_sizes | {"COLUMNS": 64, "BLOCKS": prefix_readout.DEFAULT.blocks})
loss_sizes = cross_entropy._constants(cross_entropy.DEFAULT) | {"PRECISION": precision}
build(cross_entropy._forward, kind, loss_sizes)
build(cross_entropy._errors, kind, loss_sizes)
"""
KERNELS = 2 * 10 + 6 + 12


@pytest.mark.parametrize("kind", ["bf16", "fp32"])
def test_every_kernel_compiles(kind: str) -> None:
    """Forward and backward kernels, in bfloat16 and float32, P = 16 and N = 64."""
    # The environment of this process may enable the interpreter.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", COMPILE, kind], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(result.stdout.splitlines()) == KERNELS
