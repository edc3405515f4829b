"""Caser: its filters compared with their definition."""

import torch
from torch import Tensor

from packed import cu_seqlens_of, randomized, relative_error
from ssd4rec.config import CaserConfig
from ssd4rec.models.caser import Caser
from ssd4rec.models.next_item import count_parameters


def definition(backbone: Caser, image: Tensor) -> Tensor:
    """Compute the output for one window [L, D], filter by filter."""
    window, width = image.shape
    along = [
        sum(filters[0, row] * image[row] for row in range(window)) + bias
        for filters, bias in zip(backbone.vertical.weight, backbone.vertical.bias, strict=True)
    ]
    across = []
    for height, layer in enumerate(backbone.horizontal, start=1):
        for filters, bias in zip(layer.weight, layer.bias, strict=True):
            responses = [torch.relu((filters.T * image[at : at + height]).sum() + bias) for at in range(window - height + 1)]
            across.append(torch.stack(responses).max())
    assert len(along[0]) == width
    # the linear layer expects the vertical filters channel by channel
    features = torch.cat([torch.stack(along, dim=1).flatten(), *(each[None] for each in across)])
    return backbone.out(torch.relu(backbone.mix(features)))


def test_every_prefix_equals_the_definition() -> None:
    """Lengths 1, 6 and 2 with windows of 3, which start with zeros and contain no other sequence."""
    torch.manual_seed(0)
    backbone = randomized(Caser(CaserConfig(width=4, window=3, horizontal=2, vertical=2)))
    row = torch.randn(9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = []
    for part in row.split([1, 6, 2]):
        padded = torch.cat([torch.zeros(2, 4, dtype=torch.float64), part])
        expected += [definition(backbone, padded[end : end + 3]) for end in range(len(part))]
    assert relative_error(backbone.encode_prefixes(row, cu_seqlens_of([1, 6, 2])), torch.stack(expected)) < 1e-12


def test_window() -> None:
    """With a window of 3, earlier interactions do not change the result."""
    torch.manual_seed(0)
    backbone = randomized(Caser(CaserConfig(width=4, window=3)))
    row = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert relative_error(backbone.encode(row, cu_seqlens_of([6])), backbone.encode(row[3:], cu_seqlens_of([3]))) < 1e-12


def test_number_of_parameters() -> None:
    """L = 5, D = 64, 16 filters of each height: 16 (64 h + 1) for h = 1 … 5; 4 (5 + 1); (4 * 64 + 16 * 5 + 1) 64; 65 * 64."""
    assert count_parameters(Caser(CaserConfig(width=64))) == 15_440 + 24 + 21_568 + 4_160
