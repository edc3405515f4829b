"""A name that is wrong is answered with the one that was meant."""

import pytest

from ssd4rec._suggestions import find, nearest
from ssd4rec.errors import ConfigError


def test_the_nearest_name_or_none():
    """A slip finds its name; another word finds nothing, and neither does any word among no names."""
    assert nearest("widht", ["layers", "width"]) == "width"
    assert nearest("color", ["layers", "width"]) is None
    assert nearest("width", []) is None


def test_a_name_that_is_not_there_is_refused_with_all_that_are():
    assert find("beta", ("rho", "beta"), "study") == "beta"
    with pytest.raises(ConfigError, match=r"^unknown study 'betta'; did you mean 'beta'\? Choose from rho, beta$"):
        find("betta", ("rho", "beta"), "study")
    with pytest.raises(ConfigError, match=r"^unknown study 'x'\. Choose from rho, beta$"):
        find("x", ("rho", "beta"), "study")
