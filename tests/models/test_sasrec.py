"""SASRec: long histories, and its size."""

import pytest
import torch

from rows import boundaries_of, relative_error, shaken
from ssd4rec.config import SASRecConfig, parse_config
from ssd4rec.errors import ConfigError
from ssd4rec.models.next_item import count_parameters
from ssd4rec.models.sasrec import SASRec


def small(max_length: int) -> SASRec:
    torch.manual_seed(0)
    return shaken(SASRec(SASRecConfig(width=8, max_length=max_length)))


def test_only_the_last_events_are_read() -> None:
    """Of 9 events with max_length 4, the state is that of the last 4 alone."""
    row = torch.randn(9, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    backbone = small(4)
    assert relative_error(backbone.encode(row, boundaries_of([9])), backbone.encode(row[5:], boundaries_of([4]))) < 1e-12


@pytest.mark.parametrize("at", range(9))
def test_one_pass_over_a_long_history(at: int) -> None:
    """With max_length 4 the first 4 prefixes are exact; after that the state is that of the last 3 or 4 events."""
    row = torch.randn(9, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    backbone = small(4)
    found = backbone.encode_prefixes(row, boundaries_of([9]))[at]
    # windows of events 1-4, 3-6, 5-8, 7-9
    read = {0: 1, 1: 2, 2: 3, 3: 4, 4: 3, 5: 4, 6: 3, 7: 4, 8: 3}[at]
    expected = backbone.encode(row[at + 1 - read : at + 1], boundaries_of([read]))[0]
    assert relative_error(found, expected) < 1e-12


def test_its_size() -> None:
    """12 D^2 + 13 D a layer, as RecBole's with an inner width of 4D; LayerNorm 2 D and a position a row beside them."""
    assert count_parameters(SASRec(SASRecConfig(width=64, layers=2, max_length=50))) == 2 * 49_984 + 128 + 50 * 64


def test_heads_divide_the_width() -> None:
    """Three heads of 64 do not come out even."""
    with pytest.raises(ConfigError, match=r"width = 64 is not a multiple of heads = 3"):
        parse_config('[backbone]\nname = "sasrec"\nheads = 3')
