"""Tensor types: one name and one letter for each kind of tensor.

    T  positions in the packed batch        B  sequences in the packed batch
    D  model width                          V  items in the catalog (indices 1 … V; index 0 is the mask)
    E  inner width = expand * D             H  heads = E / P
    P  head width                           N  state size
    K  convolution width                    Q  chunk size

jaxtyping and beartype check these shapes in the tests; outside the tests they cost nothing.
"""

from jaxtyping import Float, Int
from torch import Tensor

# Cumulative sequence lengths, as in FlashAttention and mamba-ssm: sequence b owns positions cu_seqlens[b]:cu_seqlens[b + 1].
CuSeqlens = Int[Tensor, "B_plus_1"]
Items = Int[Tensor, "T"]  # item indices, 0 = masked
Targets = Int[Tensor, "T"]  # index of the item that follows each position; 0 = not a target position
Positions = Int[Tensor, "T"]  # an index into the packed batch, or a 0-based position within a sequence

RequestTimes = Int[Tensor, "B 2"]  # gap since the last event and moment of each request, in seconds; gap -1 = not known

Packed = tuple[Tensor, Tensor]  # items and cu_seqlens of a second packed batch: T and B may differ from the first

Hidden = Float[Tensor, "T D"]  # one vector per position
States = Float[Tensor, "B D"]  # one vector per sequence: its representation at the last position
Scores = Float[Tensor, "B V"]  # column j scores item j + 1

Channels = Float[Tensor, "T channels"]  # input of the convolution: [x, B, C]
Values = Float[Tensor, "T H P"]  # x, and y
LastValues = Float[Tensor, "B H P"]  # y at the last position of each sequence
StepSizes = Float[Tensor, "T H"]  # dt > 0
Rates = Float[Tensor, "H"]  # A < 0; also D, the skip weight of each head
StateInputs = Float[Tensor, "T N"]  # B: projects the input into the state
StateReads = Float[Tensor, "T N"]  # C: projects the state to the output
RecurrentStates = Float[Tensor, "B H P N"]  # the recurrent state after the last position of each sequence
