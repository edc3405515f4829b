"""Budgets of a study, and the recipe that trains each model where the paper's own settings do not apply: see studies.toml."""

import tomllib
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from pydantic import TypeAdapter

from ssd4rec._suggestions import find
from ssd4rec.config import load_config, presets

TABLES: dict[str, dict[str, Any]] = tomllib.loads(
    resources.files("ssd4rec.paper").joinpath("studies.toml").read_text(encoding="utf-8")
)


@dataclass(frozen=True)
class Budget:
    """Cost limits of a study, and the settings that go with them.

    `paper` uses the presets of the paper unchanged, `paper-one-pass` trains all positions of a sequence at once, and
    `default-preset` gives every model the settings of the default preset; the others use the recipe of each model.
    """

    name: str
    width: int
    epochs: int
    seeds: int
    trials: int = 0  # of the search for the settings of each network; 0: none

    @property
    def follows_paper(self) -> bool:
        """Whether the presets apply."""
        return self.name in ("paper", "paper-one-pass")

    @property
    def follows_default(self) -> bool:
        """Whether every model has the settings of the default preset."""
        return self.name == "default-preset"

    @property
    def cooccurrence_model(self) -> str:
        """What score fusion adds: by the validation set, as in the default preset, and rules with the other budgets."""
        return "auto" if self.follows_default else "sequential-rules"

    @property
    def one_pass(self) -> bool:
        """Whether the presets apply, with all-positions training."""
        return self.name == "paper-one-pass"

    def options(self) -> list[str]:
        """Return the command-line options that give this budget."""
        standard = BUDGETS[self.name]
        changed = [name for name in ("epochs", "seeds", "width", "trials") if getattr(self, name) != getattr(standard, name)]
        return ["--budget", self.name, *(word for name in changed for word in (f"--{name}", str(getattr(self, name))))]


BUDGETS = {name: Budget(name, **values) for name, values in TABLES["budgets"].items()}


def make_budget(
    name: str, epochs: int | None = None, seeds: int | None = None, width: int | None = None, trials: int | None = None
) -> Budget:
    """Return a named budget with the given values, 1 or more, replaced.

    Raises:
        ConfigError: The name is unknown.
    """
    budget = BUDGETS[find(name, tuple(BUDGETS), "budget")]
    return replace(
        budget,
        epochs=epochs or budget.epochs,
        seeds=seeds or budget.seeds,
        width=width or budget.width,
        trials=trials or budget.trials,
    )


@dataclass(frozen=True)
class Recipe:
    """Training settings of one model."""

    learning_rate: float
    dropout: float  # replaced by the preset's dropout on data that have a preset
    mask_ratio: float
    source: str  # how the values were found
    layers: int | None = None  # None: the default of the preset


RECIPES = TypeAdapter(dict[str, Recipe]).validate_python(TABLES["recipes"])


def recipe_settings(model: str, known: str | None) -> list[str]:
    """Return a recipe as settings `group.key=value`; on data with a preset, every model uses the preset's dropout."""
    recipe = RECIPES[model]
    dropout = load_config(known).backbone.dropout if known is not None and known in presets() else recipe.dropout
    settings = [
        f"training.learning_rate={recipe.learning_rate}",
        f"training.mask_ratio={recipe.mask_ratio}",
        f"backbone.dropout={dropout}",
    ]
    return settings if recipe.layers is None else [*settings, f"backbone.layers={recipe.layers}"]
