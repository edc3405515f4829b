"""The reference recurrence, by hand and compared with the dual form."""

import math

import torch

from packed import cu_seqlens_of, scan_inputs
from ssd4rec.ops.ssd.reference import scan

HALVE = torch.tensor([-math.log(2.0)], dtype=torch.float64)  # with dt = 1 the state halves at each position


def column(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def test_state_decays_and_adds_the_input() -> None:
    """Decay 1/2, x = 8, 4, 2: states 8, 4 + 4, 4 + 2."""
    y, state = scan(
        column(8, 4, 2)[..., None], column(1, 1, 1), HALVE, column(1, 1, 1), column(1, 1, 1), column(0)[0], cu_seqlens_of([3])
    )
    torch.testing.assert_close(y.flatten(), torch.tensor([8.0, 8.0, 6.0], dtype=torch.float64))
    torch.testing.assert_close(state.flatten(), torch.tensor([6.0], dtype=torch.float64))


def test_each_sequence_starts_from_zero() -> None:
    """Decay 1/2, x = 8 | 4, 2: states 8, then 4, 2 + 2."""
    y, state = scan(
        column(8, 4, 2)[..., None], column(1, 1, 1), HALVE, column(1, 1, 1), column(1, 1, 1), column(0)[0], cu_seqlens_of([1, 2])
    )
    torch.testing.assert_close(y.flatten(), torch.tensor([8.0, 4.0, 4.0], dtype=torch.float64))
    torch.testing.assert_close(state.flatten(), torch.tensor([8.0, 4.0], dtype=torch.float64))


def test_step_size_scales_input_and_decay() -> None:
    """dt = 2 doubles the input and squares the decay: x = 8, 4 -> 16, 16/4 + 8."""
    y, _ = scan(column(8, 4)[..., None], column(2, 2), HALVE, column(1, 1), column(1, 1), column(0)[0], cu_seqlens_of([2]))
    torch.testing.assert_close(y.flatten(), torch.tensor([16.0, 12.0], dtype=torch.float64))


def test_input_and_output_projection() -> None:
    """x = 3 with B = (1, 2) and C = (5, 7): 3 (1 * 5 + 2 * 7) = 57."""
    one = torch.ones(1, 1, dtype=torch.float64)
    B, C = torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.tensor([[5.0, 7.0]], dtype=torch.float64)
    y, state = scan(3 * one[..., None], one, HALVE, B, C, column(0)[0], cu_seqlens_of([1]))
    torch.testing.assert_close(y.flatten(), torch.tensor([57.0], dtype=torch.float64))
    torch.testing.assert_close(state, torch.tensor([[[[3.0, 6.0]]]], dtype=torch.float64))


def test_skip_weight() -> None:
    """With C = 0, y is D x."""
    one = torch.ones(1, 1, dtype=torch.float64)
    y, _ = scan(3 * one[..., None], one, HALVE, one, 0 * one, column(10)[0], cu_seqlens_of([1]))
    torch.testing.assert_close(y.flatten(), torch.tensor([30.0], dtype=torch.float64))


def test_shapes() -> None:
    """Two sequences, 2 heads of width 3, state 4: y [T, H, P], states [B, H, P, N]."""
    y, state = scan(*scan_inputs([2, 5]), cu_seqlens_of([2, 5]))
    assert y.shape == (7, 2, 3)
    assert state.shape == (2, 2, 3, 4)


def test_equals_the_dual_form() -> None:
    """Y = (L o C B^T) dt X + D X with L the lower-triangular matrix of decay products, head by head."""
    x, dt, A, B, C, D = scan_inputs([9])
    y, _ = scan(x, dt, A, B, C, D, cu_seqlens_of([9]))
    for head in range(2):
        L = torch.zeros(9, 9, dtype=torch.float64)
        for i in range(9):
            for j in range(i + 1):
                L[i, j] = torch.exp(A[head] * dt[j + 1 : i + 1, head].sum())
        dual = (L * (C @ B.T)) @ (dt[:, head, None] * x[:, head]) + D[head] * x[:, head]
        torch.testing.assert_close(y[:, head], dual, rtol=1e-12, atol=1e-12)
