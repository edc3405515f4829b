"""The exception tree."""

import pytest

from ssd4rec import errors
from ssd4rec.errors import (
    ArtifactError,
    BackendError,
    ConfigError,
    DataError,
    DivergedError,
    ShapeError,
    SSD4RecError,
    StateError,
    first_line,
)


@pytest.mark.parametrize(
    ("error", "built_in"),
    [
        (ConfigError, ValueError),
        (DataError, ValueError),
        (ShapeError, ValueError),
        (DivergedError, ArithmeticError),
        (ArtifactError, RuntimeError),
        (StateError, ArtifactError),
        (BackendError, RuntimeError),
    ],
)
def test_every_error_is_ours_and_a_built_in(error: type[Exception], built_in: type[Exception]) -> None:
    """Each can be caught as SSD4RecError, or as the built-in that says the same."""
    assert issubclass(error, SSD4RecError)
    assert issubclass(error, built_in)


def test_a_broken_model_is_no_fault_of_the_data() -> None:
    """Who skips what cannot be read, with `except DataError` around `recommend`, does not skip a model that has diverged."""
    assert not issubclass(DivergedError, DataError)


def test_the_tree_is_complete() -> None:
    """The drawing at the top of the module names every exception, and nothing else raises on purpose."""
    ours = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, SSD4RecError)}
    seven = {"ConfigError", "DataError", "DivergedError", "ShapeError", "ArtifactError", "BackendError", "ProcessGroupError"}
    assert ours == {"SSD4RecError", *seven, "StateError"}
    assert all(name in (errors.__doc__ or "") for name in ours)


def test_the_base_is_no_error_of_python() -> None:
    """Catching SSD4RecError catches no mistake of our own."""
    assert SSD4RecError.__bases__ == (Exception,)


def test_another_library_s_error_is_quoted_in_one_line() -> None:
    """Its first line; where it says nothing, what it is."""
    assert first_line(ValueError("bad header\nbyte 17")) == "bad header"
    assert first_line(EOFError()) == "EOFError"
