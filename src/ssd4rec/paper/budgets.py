"""How much a study may cost, so that it fits a machine."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ssd4rec._suggestions import find
from ssd4rec.errors import ConfigError


@dataclass(frozen=True)
class Budget:
    """How much a study may cost; `paper` takes the presets as they are, `paper-one-pass` reads each history once."""

    name: str  # of those below; the numbers may be others than its own
    width: int
    epochs: int
    seeds: int

    @property
    def follows_paper(self) -> bool:
        """Whether the presets rule."""
        return self.name in ("paper", "paper-one-pass")

    @property
    def one_pass(self) -> bool:
        """Whether the presets rule, but for how a history is read."""
        return self.name == "paper-one-pass"

    @property
    def label(self) -> str:
        """What a report calls it."""
        return self.name if self == BUDGETS[self.name] else f"{self.name}, changed"


BUDGETS: Mapping[str, Budget] = {
    "small": Budget("small", width=32, epochs=3, seeds=1),
    "medium": Budget("medium", width=64, epochs=30, seeds=3),
    "paper": Budget("paper", width=256, epochs=300, seeds=3),
    "paper-one-pass": Budget("paper-one-pass", width=256, epochs=300, seeds=3),
}


def make_budget(name: str, epochs: int | None = None, seeds: int | None = None, width: int | None = None) -> Budget:
    """A named budget with what was asked for instead.

    Raises:
        ConfigError: no such budget, or less than one of something.
    """
    budget = BUDGETS[find(name, tuple(BUDGETS), "budget")]
    for what, value in (("epochs", epochs), ("seeds", seeds), ("width", width)):
        if value is not None and value < 1:
            raise ConfigError(f"--{what} must be 1 or more, found {value}")
    return replace(budget, epochs=epochs or budget.epochs, seeds=seeds or budget.seeds, width=width or budget.width)


def as_options(budget: Budget) -> list[str]:
    """What the command line makes a budget of: the counterpart of `make_budget`."""
    found = ["--budget", budget.name]
    for what in ("epochs", "seeds", "width"):
        if (value := getattr(budget, what)) != getattr(BUDGETS[budget.name], what):
            found += [f"--{what}", str(value)]
    return found
