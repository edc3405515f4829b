"""Which device is meant, and what it is good at."""

import pytest
import torch

from ssd4rec import diagnostics
from ssd4rec.config import TrainingConfig
from ssd4rec.errors import BackendError, ConfigError


@pytest.mark.parametrize(
    ("accelerator", "without", "with_gpu"), [("auto", "cpu", "cuda"), ("cpu", "cpu", "cpu"), ("gpu", None, "cuda")]
)
def test_resolve_device(accelerator, without, with_gpu, monkeypatch):
    """Without and with a GPU; a missing one is an error that says what to use."""
    assert TrainingConfig(accelerator=accelerator).accelerator == accelerator
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert diagnostics.resolve_device(accelerator) == with_gpu
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if without is not None:
        assert diagnostics.resolve_device(accelerator) == without
        return
    with pytest.raises(BackendError, match=r'accelerator = "gpu" is not available .* no CUDA device; use "auto" or "cpu"'):
        diagnostics.resolve_device(accelerator)


def test_a_word_that_is_no_accelerator_is_an_error():
    """torch's own name of the device too: the setting has three words."""
    with pytest.raises(ConfigError, match='accelerator = "cuda" is not one of "auto", "cpu" and "gpu"'):
        diagnostics.resolve_device("cuda")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (1.0, "matrix products are 2.0 times as fast as in float32; --set training.precision=bf16-mixed uses it"),
        (8.0, "matrix products are 0.2 times as fast as in float32: nothing to gain by it"),
    ],
)
def test_whether_bfloat16_is_worth_having(seconds, expected, monkeypatch):
    """`doctor` times a product in both types: 2 seconds in float32 and so many in bfloat16."""
    monkeypatch.setattr(diagnostics, "_seconds_of_product", {torch.float32: 2.0, torch.bfloat16: seconds}.__getitem__)
    assert diagnostics.bfloat16_here() == expected


@pytest.mark.parametrize(
    ("capabilities", "expected"), [({}, "32-true"), ({"amx_bf16": True}, "bf16-mixed"), ({"avx512_bf16": True}, "bf16-mixed")]
)
def test_automatic_precision_depends_on_the_processor(capabilities, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert diagnostics.resolve_precision("auto", "cpu") == expected
    assert diagnostics.resolve_precision("64-true", "cpu") == "64-true"


@pytest.mark.parametrize(("limit", "threads"), [("", 4), ("2", 2), ("8", 4), ("0", 1), ("many", 4)])
def test_usable_threads(monkeypatch, limit, threads):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(4), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert diagnostics.usable_threads() == threads
