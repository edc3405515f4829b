"""A short run of the fuzz campaign; `make fuzz` runs 10,000 cases."""

import pytest

from fuzz.campaign import run

pytestmark = pytest.mark.thorough


def test_damaged_inputs_never_raise_foreign_exceptions():
    outcomes, failures = run(cases=150, seed=7, seconds=120)
    assert failures == []
    assert outcomes["file read"] > 20
    assert outcomes["file refused"] > 20
