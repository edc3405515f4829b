"""Reference implementation of the state space recurrence, position by position: slow, simple, and valid for any dtype."""

from itertools import pairwise

import torch

from ssd4rec.array_types import CuSeqlens, Rates, RecurrentStates, StateInputs, StateReads, StepSizes, Values


def scan(
    x: Values, dt: StepSizes, A: Rates, B: StateInputs, C: StateReads, D: Rates, cu_seqlens: CuSeqlens
) -> tuple[Values, RecurrentStates]:
    """Scan every sequence of a packed batch from a zero state.

    For each head: state_t = exp(dt_t A) state_{t-1} + dt_t x_t B_t^T and y_t = state_t C_t + D x_t.

    Args:
        x: [T, H, P] values.
        dt: [T, H] step sizes, positive.
        A: [H] decay rates, negative.
        B: [T, N] input projections of the state, shared by all heads.
        C: [T, N] output projections of the state, shared by all heads.
        D: [H] skip weights.
        cu_seqlens: [B + 1].

    Returns:
        y [T, H, P] and the state after the last position of each sequence [B, H, P, N].

    Source: Dao and Gu 2024, "Transformers are SSMs", section 3 (scalar A, one group).
    """
    outputs, states = [], []
    edges = cu_seqlens.tolist()
    for start, stop in pairwise(edges):
        state = x.new_zeros(*x.shape[1:], B.shape[-1])  # [H, P, N]
        for t in range(start, stop):
            decay = torch.exp(dt[t] * A)[:, None, None]
            state = decay * state + (dt[t, :, None] * x[t])[:, :, None] * B[t]
            outputs.append(state @ C[t] + D[:, None] * x[t])
        states.append(state)
    return torch.stack(outputs), torch.stack(states)
