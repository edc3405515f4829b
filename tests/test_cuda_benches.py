"""The benches of a GPU run, at tiny sizes and in Triton's interpreter; their figures mean nothing here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ssd4rec.ops import triton

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not triton.available() or torch.cuda.is_available(), reason="needs Triton, and no GPU"),
]


def run(bench: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, BENCHMARKS / bench, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize(("bench", "rows"), [("bench_cuda.py", 9), ("bench_cuda_training.py", 3)])
def test_a_smoke_run_writes_its_rows(bench: str, rows: int, tmp_path: Path) -> None:
    """Each row is there, its kernels agree with torch's form, and the file says that no GPU was measured."""
    done = run(bench, "--smoke", "--out", str(tmp_path / "result.json"), TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["device"] == "CPU, interpreter: times mean nothing"
    assert len(result["rows"]) == rows
    assert all("ms" in row["triton"] or " s" in row["triton"] for row in result["rows"])
    assert "NOT EQUAL" not in done.stdout


@pytest.mark.parametrize("bench", ["bench_cuda.py", "bench_cuda_training.py"])
def test_without_a_gpu_a_bench_refuses(bench: str) -> None:
    """Exit code 2 and one line that says what is missing."""
    done = run(bench)
    assert done.returncode == 2
    assert "needs a CUDA device and Triton, found none" in done.stderr
