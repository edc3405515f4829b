"""A forked process says why it cannot compute, instead of waiting forever."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

FORK = """
import os, sys
import worlds
from ssd4rec.errors import BackendError
from ssd4rec.models.next_item import make_model
import torch

pytestmark = pytest.mark.thorough
model = make_model(worlds.config(), 5).eval()
encode = lambda: model.encode(torch.tensor([1, 2]), torch.tensor([0, 2]))
if sys.argv[1] == "used":
    encode()
child = os.fork()
if not child:
    try:
        encode()
        os._exit(0)
    except BackendError as error:
        assert 'get_context("spawn")' in str(error)
        os._exit(3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(sys, "getdlopenflags"), reason="needs fork")
@pytest.mark.parametrize(("parent", "code"), [("used", 3), ("unused", 0)])
def test_a_fork_after_use_is_an_error(parent, code):
    done = subprocess.run(
        [sys.executable, "-c", FORK, parent],
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
    )
    assert done.returncode == code
