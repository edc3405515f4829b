"""Initialization that is left out before weights are loaded."""

import subprocess
import sys

import pytest
import torch

from ssd4rec.config import Config
from ssd4rec.layers.initialization import SkipRandomInitialization
from ssd4rec.models.next_item import build_model

LOAD = """
import sys
from ssd4rec.config import Config
from ssd4rec.layers.initialization import SkipRandomInitialization
from ssd4rec.models.next_item import build_model
with SkipRandomInitialization():
    build_model(Config().backbone, 5)
print([name for name in ("torch._dynamo", "sympy", "triton") if name in sys.modules])
"""


def test_no_random_number_is_drawn():
    before = torch.get_rng_state()
    with SkipRandomInitialization():
        model = build_model(Config().backbone, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.state_dict().keys() == build_model(Config().backbone, 5).state_dict().keys()


@pytest.mark.thorough
def test_the_compiler_of_torch_is_not_imported():
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
