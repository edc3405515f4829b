"""The door to Triton opens for CUDA tensors only, and says what is missing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rows import boundaries_of, scan_inputs
from ssd4rec.errors import BackendError
from ssd4rec.ops import triton
from ssd4rec.ops.segments import Layout, make_layout


def test_a_cpu_tensor_is_not_served() -> None:
    """On a CPU torch's own form is used, whether Triton is installed or not."""
    inputs = scan_inputs([3], head_width=16, state_dim=16, dtype=torch.float32)
    assert not triton.serves(inputs.x)


def row(layout: Layout) -> Tensor:
    return torch.ones(len(layout.first), 4)


@pytest.mark.parametrize(
    "op",
    [
        lambda layout: triton.scan(*scan_inputs([3]), layout),
        lambda layout: triton.backward_prefix_readout(
            row(layout), *[torch.ones(4)] * 2, row(layout), *[torch.ones(4)] * 2, layout, 1
        ),
        lambda layout: triton.convolve(row(layout), torch.ones(4, 2), torch.ones(4), layout),
        lambda layout: triton.convolve_both_ways(row(layout), torch.ones(4, 2), torch.ones(4), layout),
        lambda layout: triton.linear_cross_entropy(row(layout), torch.ones(5, 4), torch.zeros(3, dtype=torch.int64)),
        lambda layout: triton.gated_norm(row(layout), row(layout), torch.ones(4), 1e-5),
    ],
    ids=["scan", "backward_prefix_readout", "convolve", "convolve_both_ways", "linear_cross_entropy", "gated_norm"],
)
def test_without_triton(op, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for by name without Triton, a kernel is an error that says what to install."""
    monkeypatch.setattr(triton, "available", lambda: False)
    assert triton.version() is None
    with pytest.raises(BackendError, match="need Triton, which is not installed: install torch for CUDA"):
        op(make_layout(boundaries_of([3])))


WITHOUT_INTERPRETER = """
import torch
from ssd4rec.ops import dispatch
from ssd4rec.ops.segments import make_layout
row = torch.ones(3, 4)
with dispatch.using("triton"):
    dispatch.convolve(row, torch.ones(4, 2), torch.ones(4), make_layout(torch.tensor([0, 3])))
"""


@pytest.mark.skipif(not triton.available() or torch.cuda.is_available(), reason="needs Triton and no GPU")
def test_a_cpu_without_the_interpreter() -> None:
    """Kernels asked for by hand on a CPU where nothing interprets them are an error that says what to do."""
    # Run apart: in this process the kernels may have been decorated for the interpreter.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_INTERPRETER], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 1
    assert "BackendError: Triton's kernels were asked for on a CPU tensor" in done.stderr
    assert "set TRITON_INTERPRET=1" in done.stderr


def test_one_door() -> None:
    """Outside ops/triton nothing imports Triton, and no kernel sums in the order in which programs happen to end."""
    source = Path(triton.__file__).parents[2]
    files = {path: path.read_text(encoding="utf-8") for path in source.rglob("*.py")}
    kernels = {path for path in files if path.parent == Path(triton.__file__).parent}
    direct = re.compile(r"^\s*(import triton\b|from triton\b)", re.MULTILINE)
    importing = {path for path, text in files.items() if direct.search(text)}
    assert importing
    assert importing < kernels
    assert not [path for path in kernels if "tl.atomic" in files[path]]
