"""Continue the training of a model with new items: its weights, and rows for items that it does not know."""

import numpy as np
import torch
from torch.nn import functional as F

from ssd4rec.baselines.sequential_rules import SequentialRules
from ssd4rec.config import Config
from ssd4rec.config.backbones import BackboneSettings
from ssd4rec.errors import ConfigError
from ssd4rec.layers.initialization import SkipRandomInitialization
from ssd4rec.models.next_item import NextItemModel, build_model

FREE = ("dropout", "input_dropout")  # settings of a backbone that may change: they do not change what its weights mean


def check_same_backbone(config: BackboneSettings, start: BackboneSettings) -> None:
    """Check that the weights of a model fit the settings.

    Raises:
        ConfigError: the backbones differ in more than their dropout.
    """
    now, before = config.model_dump(mode="json"), start.model_dump(mode="json")
    differences = [
        f"backbone.{name} is {now.get(name)!r}, the model has {before.get(name)!r}"
        for name in dict.fromkeys([*now, *before])
        if name not in FREE and now.get(name) != before.get(name)
    ]
    if differences:
        raise ConfigError(
            f"training cannot continue with another network: {'; '.join(differences[:4])}; remove these settings (without "
            "--config, those of the model are used), or train a new model"
        )


def grow(start: NextItemModel, config: Config, catalog_size: int, rules: SequentialRules) -> tuple[NextItemModel, int]:
    """Return a copy of a model for a catalog that begins with its items, and how many new ones occur next to none of them.

    All weights are those of the model. The row of a new item is the mean of the rows of the known items that co-occur with it,
    weighted by the co-occurrence score; without such an item, the mean of all rows. To repeat logits, it is as popular as an
    item on average.

    Args:
        start: a model of `V_old` items, which is not changed.
        config: the settings of the new model; its backbone fits.
        catalog_size: V, at least V_old.
        rules: the co-occurrences of the V items in the training set.
    """
    with SkipRandomInitialization():  # all weights are replaced below
        model = build_model(config.backbone, catalog_size)
    weights = {name: tensor.detach().cpu() for name, tensor in start.state_dict().items()}
    old_vectors = weights["table.weight"][1:].double()
    rows = old_vectors.mean(0, keepdim=True).repeat(catalog_size - len(old_vectors), 1)
    without_neighbors = 0
    for place in range(len(rows)):
        edges = slice(*rules.edges[len(old_vectors) + place : len(old_vectors) + place + 2])
        neighbors, strengths = rules.columns[edges], rules.weights[edges]
        is_known = neighbors < len(old_vectors)
        if not is_known.any():
            without_neighbors += 1
            continue
        shares = torch.from_numpy(strengths[is_known].astype(np.float64))
        rows[place] = shares @ old_vectors[torch.from_numpy(neighbors[is_known].astype(np.int64))] / shares.sum()
    weights["table.weight"] = torch.cat([weights["table.weight"], rows.to(weights["table.weight"].dtype)])
    if (popularity := weights.get("repeat_logits.log_popularity")) is not None:
        weights["repeat_logits.log_popularity"] = F.pad(popularity, (0, len(rows)))
    model.load_state_dict(weights)
    return model, without_neighbors
