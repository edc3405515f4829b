"""The door to Triton opens for CUDA tensors only, and says what is missing."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rows import boundaries_of, scan_inputs
from ssd4rec.errors import BackendError
from ssd4rec.ops import triton
from ssd4rec.ops.segments import Layout, lay_out


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
        lambda layout: triton.convolve(row(layout), torch.ones(4, 2), torch.ones(4), layout),
        lambda layout: triton.convolve_both_ways(row(layout), torch.ones(4, 2), torch.ones(4), layout),
        lambda layout: triton.linear_cross_entropy(row(layout), torch.ones(5, 4), torch.zeros(3, dtype=torch.int64)),
        lambda layout: triton.gated_norm(row(layout), row(layout), torch.ones(4), 1e-5),
    ],
    ids=["scan", "convolve", "convolve_both_ways", "linear_cross_entropy", "gated_norm"],
)
def test_without_triton(op, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for by name without Triton, a kernel is an error that says what to install."""
    monkeypatch.setattr(triton, "available", lambda: False)
    assert triton.version() is None
    with pytest.raises(BackendError, match="need Triton, which is not installed: install torch for CUDA"):
        op(lay_out(boundaries_of([3])))


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
