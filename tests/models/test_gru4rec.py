"""GRU4Rec: torch's GRU over a packed batch."""

import torch

from packed import cu_seqlens_of, randomized, relative_error
from ssd4rec.config import GRU4RecConfig
from ssd4rec.layers.gru import PackedGRU
from ssd4rec.models.gru4rec import GRU4Rec
from ssd4rec.models.next_item import count_parameters
from ssd4rec.ops.attention import bucket_by_length


def test_equals_torch_gru() -> None:
    """Each sequence of the packed batch has the states of nn.GRU on it alone."""
    lengths = [2, 7, 1, 4]
    torch.manual_seed(0)
    layer = randomized(PackedGRU(4, 6, layers=2))
    row = torch.randn(14, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.cat([layer.gru(part)[0] for part in row.split(lengths)])
    assert relative_error(layer(row, bucket_by_length(cu_seqlens_of(lengths))), expected) < 1e-12


def test_long_sequences_are_encoded_in_windows() -> None:
    """With max_length 4, `encode` uses the last 4 items, and position 6 is the fourth of its window."""
    torch.manual_seed(0)
    backbone = randomized(GRU4Rec(GRU4RecConfig(width=4, hidden=6, max_length=4)))
    row = torch.randn(9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert relative_error(backbone.encode(row, cu_seqlens_of([9])), backbone.encode(row[5:], cu_seqlens_of([4]))) < 1e-12
    actual = backbone.encode_prefixes(row, cu_seqlens_of([9]))
    assert relative_error(actual[5:6], backbone.encode(row[2:6], cu_seqlens_of([4]))) < 1e-12  # windows 1-4, 3-6, 5-8, 7-9


def test_number_of_parameters() -> None:
    """3 h (D + h + 2) for the GRU and (h + 1) D for the output projection: h = 128, D = 64, 74,496 + 8,256."""
    assert count_parameters(GRU4Rec(GRU4RecConfig(width=64, hidden=128))) == 74_496 + 8_256
