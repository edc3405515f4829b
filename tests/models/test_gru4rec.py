"""GRU4Rec: torch's GRU over the packed row, and its size."""

import torch

from rows import boundaries_of, relative_error, shaken
from ssd4rec.config import GRU4RecConfig
from ssd4rec.layers.gru import PackedGRU
from ssd4rec.models.gru4rec import GRU4Rec
from ssd4rec.models.next_item import count_parameters
from ssd4rec.ops.attention import lay_in_tables


def test_it_is_torchs_own_gru() -> None:
    """Each history of the row has the states that nn.GRU gives it alone."""
    lengths = [2, 7, 1, 4]
    torch.manual_seed(0)
    layer = shaken(PackedGRU(4, 6, layers=2))
    row = torch.randn(14, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.cat([layer.gru(part)[0] for part in row.split(lengths)])
    assert relative_error(layer(row, lay_in_tables(boundaries_of(lengths))), expected) < 1e-12


def test_a_long_history_is_read_in_windows() -> None:
    """With max_length 4: `encode` reads the last 4 events; one pass answers the sixth event from the fourth of its window."""
    torch.manual_seed(0)
    backbone = shaken(GRU4Rec(GRU4RecConfig(width=4, hidden=6, max_length=4)))
    row = torch.randn(9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert relative_error(backbone.encode(row, boundaries_of([9])), backbone.encode(row[5:], boundaries_of([4]))) < 1e-12
    found = backbone.encode_prefixes(row, boundaries_of([9]))
    assert relative_error(found[5:6], backbone.encode(row[2:6], boundaries_of([4]))) < 1e-12  # windows 1-4, 3-6, 5-8, 7-9


def test_its_size() -> None:
    """3 h (D + h + 2) for the GRU and (h + 1) D for the way back: 128 wide over 64, 74,496 + 8,256."""
    assert count_parameters(GRU4Rec(GRU4RecConfig(width=64, hidden=128))) == 74_496 + 8_256
