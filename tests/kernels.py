"""What tests do to Triton's interpreter."""

import pytest


def run_programs_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the interpreter runs the programs of a kernel from the last to the first."""
    from triton.runtime.interpreter import interpreter_builder as builder  # noqa: PLC0415 - Triton is optional

    place = builder.set_grid_idx

    def from_the_end(*index: int) -> None:
        place(*(count - 1 - at for count, at in zip(builder.grid_dim, index, strict=True)))

    monkeypatch.setattr(builder, "set_grid_idx", from_the_end)
