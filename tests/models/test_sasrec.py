"""SASRec: long sequences and number of parameters."""

import pytest
import torch

from packed import cu_seqlens_of, randomized, relative_error
from ssd4rec.config import SASRecConfig, parse_config
from ssd4rec.errors import ConfigError
from ssd4rec.models.next_item import count_parameters
from ssd4rec.models.sasrec import SASRec


def small(max_length: int) -> SASRec:
    torch.manual_seed(0)
    return randomized(SASRec(SASRecConfig(width=8, max_length=max_length)))


def test_max_length() -> None:
    """With max_length 4, 9 items are encoded like their last 4."""
    row = torch.randn(9, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    backbone = small(4)
    assert relative_error(backbone.encode(row, cu_seqlens_of([9])), backbone.encode(row[5:], cu_seqlens_of([4]))) < 1e-12


@pytest.mark.parametrize("at", range(9))
def test_all_positions_of_a_long_sequence(at: int) -> None:
    """With max_length 4 the first 4 prefixes are exact; later ones are encoded from the last 3 or 4 items."""
    row = torch.randn(9, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    backbone = small(4)
    actual = backbone.encode_prefixes(row, cu_seqlens_of([9]))[at]
    # windows 1-4, 3-6, 5-8, 7-9
    context = {0: 1, 1: 2, 2: 3, 3: 4, 4: 3, 5: 4, 6: 3, 7: 4, 8: 3}[at]
    expected = backbone.encode(row[at + 1 - context : at + 1], cu_seqlens_of([context]))[0]
    assert relative_error(actual, expected) < 1e-12


def test_number_of_parameters() -> None:
    """12 D^2 + 13 D per layer, as RecBole with inner width 4D, plus the LayerNorm 2 D and D per position."""
    assert count_parameters(SASRec(SASRecConfig(width=64, layers=2, max_length=50))) == 2 * 49_984 + 128 + 50 * 64


def test_heads_divide_the_width() -> None:
    """64 is not divisible by three heads."""
    with pytest.raises(ConfigError, match=r"width = 64 is not a multiple of heads = 3"):
        parse_config('[backbone]\nname = "sasrec"\nheads = 3')
