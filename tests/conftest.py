"""Runs before any test module is imported, so that the shapes in the signatures are executed."""

import gc
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

import ssd4rec

# A shell starts a job in the background deaf to SIGINT, and so would be every process that a test starts to interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if not torch.cuda.is_available():  # a GPU runs the kernels themselves: tests/gpu
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported and when a kernel is decorated

# `models.next_item` is left out: it checks shapes itself, and its tests expect its own errors.
ENCODERS = ("bert4rec", "caser", "gru4rec", "mamba4rec", "sasrec", "sigma", "ssd4rec")
# numba and Triton compile the functions themselves, not a wrapper that checks their arguments.
COMPILED = {"numba", "triton", "__init__.py"}
OPS = [path.stem for path in Path(ssd4rec.__file__).with_name("ops").iterdir() if path.name not in COMPILED]
install_import_hook(
    ["ssd4rec.layers", *(f"ssd4rec.ops.{name}" for name in OPS), *(f"ssd4rec.models.{name}" for name in ENCODERS)],
    "beartype.beartype",
)
# The tensors of a test are tiny: on two busy cores a second thread is waited for (96 s against 24 s for the layers).
torch.set_num_threads(1)

# No deadline: a busy machine is not a wrong answer. Derandomized: a red test is red again.
settings.register_profile("quick", deadline=None, derandomize=True, max_examples=10)
settings.register_profile("thorough", deadline=None, derandomize=True)  # --hypothesis-profile=thorough
settings.load_profile("quick")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import modules whose `pytestmark` leaves out all of their tests: browsers and peers take seconds to import."""
    unwanted = {each.removeprefix("not ") for each in config.option.markexpr.split(" and ") if each.startswith("not ")}
    modules = list(collection_path.glob("test_*.py")) if collection_path.is_dir() else [collection_path]
    modules = [module for module in modules if module.match("test_*.py")]
    marks = (re.search(r"^pytestmark = (\[[^\]]*\]|[^\n]*)", module.read_text(), re.MULTILINE) for module in modules)
    if modules and all(mark and unwanted & set(re.findall(r"pytest\.mark\.(\w+)", mark[1])) for mark in marks):
        return True
    return None


def pytest_collection_finish() -> None:
    """Leave modules and collected tests out of the collections of garbage to come: they live to the end."""
    gc.freeze()
