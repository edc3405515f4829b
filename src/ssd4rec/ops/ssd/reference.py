"""The definition: the state space recurrence, event by event. Slow, obvious, any dtype; everything fast is held to it."""

from itertools import pairwise

import torch

from ssd4rec.array_types import CuSeqlens, Rates, RecurrentStates, StateInputs, StateReads, StepSizes, Values


def scan(
    x: Values, dt: StepSizes, A: Rates, B: StateInputs, C: StateReads, D: Rates, cu_seqlens: CuSeqlens
) -> tuple[Values, RecurrentStates]:
    """Read every history of a packed row from a state of zero.

    state_t = exp(dt_t A) state_{t-1} + dt_t x_t B_t^T        y_t = state_t C_t + D x_t        (a head at a time)

    Args:
        x: [T, H, P] values.
        dt: [T, H] step sizes, positive.
        A: [H] decay rates, negative.
        B: [T, N] how an event writes into the state, shared by all heads.
        C: [T, N] how an event reads the state, shared by all heads.
        D: [H] skip weights.
        cu_seqlens: [B + 1].

    Returns:
        y [T, H, P] and the state after each history's last event [B, H, P, N].

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
