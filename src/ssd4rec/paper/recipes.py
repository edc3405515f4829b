"""How each model is trained where the paper's own settings are not asked for: one recipe a model, each searched for alike.

The search: `ssd4rec tune ml-100k --trials 10 --minutes 9` for each model over learning rate 5e-4 … 5e-3, mask ratio 0 … 0.4
and dropout 0.1 … 0.5; D = 64, cosine schedule over 20 epochs, 2,048 positions a batch, seed 2024, by validation NDCG@10.
On a busy machine the minutes were over after two or three trials (Mamba4Rec: ten, six of them pruned; BERT4Rec and SIGMA: none
ended). What it found for SASRec, GRU4Rec and Caser had a mask of .29; a few more trials by hand gave all three something better
(docs/log.md). So these are sound settings, not the best ones. They were not searched for again on other data.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ssd4rec.config import load_config, presets

SEARCHED = "searched on ml-100k, alike for each model (docs/guides/reproduce.md)"
BY_HAND = "chosen by hand"
IMPROVED = "searched on ml-100k, then improved by hand there (docs/guides/reproduce.md)"


@dataclass(frozen=True)
class Recipe:
    """What was found for one model."""

    learning_rate: float
    dropout: float  # where the data have no preset
    mask_ratio: float
    layers: int | None = None  # None: as many as SSD4Rec has
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


def settings_of(model: str, known: str | None) -> list[str]:
    """A recipe as settings `group.key=value`.

    Args:
        model: a backbone's name.
        known: the named data set; where it has a preset, the preset's dropout holds for every model alike.
    """
    recipe = RECIPES[model]
    dropout = load_config(known).backbone.dropout if known is not None and known in presets() else recipe.dropout
    found = [
        f"training.learning_rate={recipe.learning_rate}",
        f"training.mask_ratio={recipe.mask_ratio}",
        f"backbone.dropout={dropout}",
    ]
    return found if recipe.layers is None else [*found, f"backbone.layers={recipe.layers}"]
