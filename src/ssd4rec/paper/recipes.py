"""Budgets of a study, and the recipe that trains each model where the paper's own settings do not apply.

The recipes were searched with `ssd4rec tune ml-100k --trials 10 --minutes 9` for each model: learning rate 5e-4 to 5e-3,
mask ratio 0 to 0.4, dropout 0.1 to 0.5, width 64, cosine schedule over 20 epochs, 2,048 positions a batch, seed 2024, by
validation NDCG@10. Most searches ended after two or three trials (Mamba4Rec: ten; BERT4Rec and SIGMA: none). The recipes of
SASRec, GRU4Rec and Caser were then improved by a few trials by hand. They are sound settings, not the best ones, and were
not searched again on other data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ssd4rec._suggestions import find
from ssd4rec.config import load_config, presets
from ssd4rec.errors import ConfigError

SEARCHED = "searched on ml-100k"
BY_HAND = "chosen by hand"
IMPROVED = "searched on ml-100k, then improved by hand there"


@dataclass(frozen=True)
class Budget:
    """Cost limits of a study. `paper` uses the presets unchanged, `paper-one-pass` trains all positions of a sequence at once."""

    name: str
    width: int
    epochs: int
    seeds: int

    @property
    def follows_paper(self) -> bool:
        """Whether the presets apply."""
        return self.name in ("paper", "paper-one-pass")

    @property
    def one_pass(self) -> bool:
        """Whether the presets apply, with all-positions training."""
        return self.name == "paper-one-pass"

    def options(self) -> list[str]:
        """Return the command-line options that give this budget."""
        standard = BUDGETS[self.name]
        changed = [name for name in ("epochs", "seeds", "width") if getattr(self, name) != getattr(standard, name)]
        return ["--budget", self.name, *(word for name in changed for word in (f"--{name}", str(getattr(self, name))))]


BUDGETS: Mapping[str, Budget] = {
    "small": Budget("small", width=32, epochs=3, seeds=1),
    "medium": Budget("medium", width=64, epochs=30, seeds=3),
    "paper": Budget("paper", width=256, epochs=300, seeds=3),
    "paper-one-pass": Budget("paper-one-pass", width=256, epochs=300, seeds=3),
}


def make_budget(name: str, epochs: int | None = None, seeds: int | None = None, width: int | None = None) -> Budget:
    """Return a named budget with the given values replaced.

    Raises:
        ConfigError: The name is unknown, or a value is below 1.
    """
    budget = BUDGETS[find(name, tuple(BUDGETS), "budget")]
    for option, value in (("epochs", epochs), ("seeds", seeds), ("width", width)):
        if value is not None and value < 1:
            raise ConfigError(f"--{option} must be 1 or more, found {value}")
    return replace(budget, epochs=epochs or budget.epochs, seeds=seeds or budget.seeds, width=width or budget.width)


@dataclass(frozen=True)
class Recipe:
    """Training settings of one model."""

    learning_rate: float
    dropout: float  # replaced by the preset's dropout on data that have a preset
    mask_ratio: float
    layers: int | None = None  # None: the default of the preset
    token_budget: int = 2048
    source: str = SEARCHED


RECIPES: Mapping[str, Recipe] = {
    "ssd4rec": Recipe(learning_rate=1.4e-3, dropout=0.32, mask_ratio=0.01),
    "sasrec": Recipe(learning_rate=1e-3, dropout=0.5, mask_ratio=0.1, layers=2, source=IMPROVED),
    "bert4rec": Recipe(learning_rate=1e-3, dropout=0.2, mask_ratio=0.2, layers=2, source=BY_HAND),
    "gru4rec": Recipe(learning_rate=1.8e-3, dropout=0.34, mask_ratio=0.01, layers=1, source=IMPROVED),
    "caser": Recipe(learning_rate=1.8e-3, dropout=0.34, mask_ratio=0.01, source=IMPROVED),
    "mamba4rec": Recipe(learning_rate=1.4e-3, dropout=0.32, mask_ratio=0.01),
    "sigma": Recipe(learning_rate=1e-3, dropout=0.3, mask_ratio=0.0, source=BY_HAND),
}


def recipe_settings(model: str, known: str | None) -> list[str]:
    """Return a recipe as settings `group.key=value`.

    Args:
        model: Name of a network.
        known: Named data set. Where it has a preset, every model uses the preset's dropout.
    """
    recipe = RECIPES[model]
    dropout = load_config(known).backbone.dropout if known is not None and known in presets() else recipe.dropout
    settings = [
        f"training.learning_rate={recipe.learning_rate}",
        f"training.mask_ratio={recipe.mask_ratio}",
        f"backbone.dropout={dropout}",
    ]
    return settings if recipe.layers is None else [*settings, f"backbone.layers={recipe.layers}"]
