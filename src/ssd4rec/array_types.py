"""The vocabulary: one name and one letter for each kind of tensor.

    T  positions in the packed row          B  histories in the row
    D  model width                          V  items in the catalog (numbers 1 … V; number 0 is the mask)
    E  inner width = expand * D             H  heads = E / P
    P  head width                           N  state size
    K  convolution width                    Q  chunk length

The names are executed in the tests (jaxtyping and beartype) and cost nothing in use.
"""

from jaxtyping import Float, Int
from torch import Tensor

# A history's boundary is one tensor: history u owns positions cu_seqlens[u]:cu_seqlens[u+1]. It is what flash-attention and
# mamba-ssm call cu_seqlens.
CuSeqlens = Int[Tensor, "histories_and_1"]
Items = Int[Tensor, "T"]  # item numbers, 0 = masked
Targets = Int[Tensor, "T"]  # item number that follows position t; 0 = nothing is asked there
Positions = Int[Tensor, "T"]  # an index into the row, or a 0-based place in a history

Packed = tuple[Tensor, Tensor]  # items and cu_seqlens that lie beside others: neither T nor B need be theirs

Hidden = Float[Tensor, "T D"]  # one vector a position
States = Float[Tensor, "B D"]  # one vector a history: what the model knows at the read-out
Scores = Float[Tensor, "B V"]  # column j scores item number j + 1

Channels = Float[Tensor, "T channels"]  # what the convolution reads: [x, B, C]
Values = Float[Tensor, "T H P"]  # x, and y
LastValues = Float[Tensor, "B H P"]  # y at the read-out
StepSizes = Float[Tensor, "T H"]  # dt > 0
Rates = Float[Tensor, "H"]  # A < 0; also D, the skip weight of each head
StateInputs = Float[Tensor, "T N"]  # B: how an event writes into the state
StateReads = Float[Tensor, "T N"]  # C: how an event reads the state
RecurrentStates = Float[Tensor, "B H P N"]  # the recurrent state after a history's last event
