"""Triton is imported for CUDA tensors only, and errors say what is missing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from packed import scan_inputs
from ssd4rec.errors import BackendError
from ssd4rec.ops import triton


def test_kernels_do_not_run_on_cpu_tensors() -> None:
    """PyTorch runs on a CPU, whether Triton is installed or not."""
    inputs = scan_inputs([3], head_width=16, state_dim=16, dtype=torch.float32)
    assert not triton.can_run(inputs.x)


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Triton, loading the kernels fails with an error that says what to install."""
    monkeypatch.setattr(triton, "available", lambda: False)
    assert triton.version() is None
    with pytest.raises(BackendError, match="need Triton, which is not installed: install torch for CUDA"):
        triton.load_kernels(torch.ones(1))


WITHOUT_INTERPRETER = """
import torch
from ssd4rec.ops import dispatch
from ssd4rec.ops.segments import make_layout
row = torch.ones(3, 4)
with dispatch.use_backend("triton"):
    dispatch.convolve(row, torch.ones(4, 2), torch.ones(4), make_layout(torch.tensor([0, 3])))
"""


@pytest.mark.thorough
@pytest.mark.skipif(not triton.available() or torch.cuda.is_available(), reason="needs Triton and no GPU")
def test_cpu_tensor_without_interpreter() -> None:
    """Selecting the Triton backend for a CPU tensor without the interpreter fails with an error that says what to do."""
    # In a subprocess, because the kernels of this process may have been decorated for the interpreter.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_INTERPRETER], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 1
    assert "BackendError: Triton kernels were requested for a CPU tensor" in done.stderr
    assert "set TRITON_INTERPRET=1" in done.stderr


def test_only_ops_triton_imports_triton() -> None:
    """No other package imports Triton, and no kernel uses atomics."""
    source = Path(triton.__file__).parents[2]
    files = {path: path.read_text(encoding="utf-8") for path in source.rglob("*.py")}
    kernels = {path for path in files if path.parent == Path(triton.__file__).parent}
    direct = re.compile(r"^\s*(import triton\b|from triton\b)", re.MULTILINE)
    importing = {path for path, text in files.items() if direct.search(text)}
    assert importing
    assert importing < kernels
    assert not [path for path in kernels if "tl.atomic" in files[path]]
