"""Interactions as sequences, a catalog and a split, ready for training."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from ssd4rec.config import Config, load_config, value_of
from ssd4rec.configs import DEFAULT_PRESET, DENSE_PRESET
from ssd4rec.data.catalog import Catalog
from ssd4rec.data.folder import open_folder
from ssd4rec.data.interactions import Interactions, ReadReport
from ssd4rec.data.io import Source
from ssd4rec.data.item_features import ItemFeatures, encode_item_features
from ssd4rec.data.item_table import read_item_table
from ssd4rec.data.sequences import Sequences, build_sequences, join_parts
from ssd4rec.data.split import Split, limit_length, make_split, split_by_parts
from ssd4rec.data.summary import describe, describe_split
from ssd4rec.errors import ConfigError, DataError
from ssd4rec.training.objective import plan_pass
from ssd4rec.training.setup import interactions_per_item

DENSE = 150.0  # training interactions of an item, on average
REPEATED = 0.1  # share of interactions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A data set, ready for training."""

    histories: Sequences
    catalog: Catalog
    split: Split
    description: dict[str, Any]  # the `data` part of the report
    features: ItemFeatures | None = None  # of the items of the catalog, and of new items

    @property
    def has_repeats(self) -> bool:
        """Whether users repeat items, in a tenth of their interactions or more."""
        return self.histories.repeated >= REPEATED * max(len(self.histories.items), 1)


def prepare(interactions: Interactions, titles: pl.DataFrame | None, config: Config, base: Catalog | None = None) -> Prepared:
    """Make sequences, catalog and split of interactions.

    Args:
        interactions: from `read_interactions`.
        titles: from `read_titles`.
        config: all settings.
        base: of the model whose training continues: its items are first in the catalog, and never filtered.

    Raises:
        DataError: nothing is left after the k-core, a part of the split is empty, or no item is in `base`.
    """
    sequences, catalog = build_sequences(interactions, config.data.min_interactions, tie_order=config.data.tie_order, base=base)
    _check_common_items(sequences, catalog, base)
    return _prepared(interactions.read, sequences, catalog, make_split(sequences, config.data), titles, config)


def prepare_parts(
    train: Interactions,
    validation: Interactions,
    test: Interactions,
    titles: pl.DataFrame | None,
    config: Config,
    base: Catalog | None = None,
) -> Prepared:
    """Prepare separate files for training, validation and test; nothing is filtered by the k-core.

    Raises:
        DataError: the files do not fit each other, one of them gives no targets, or no item is in `base`.
    """
    interactions, sequences, catalog, parts = join_parts(train, validation, test, config.data.tie_order, base)
    _check_common_items(sequences, catalog, base)
    split = limit_length(split_by_parts(sequences, parts), config.data.max_length)
    return _prepared(interactions.read, sequences, catalog, split, titles, config)


def prepare_folder(directory: str | Path, titles: pl.DataFrame | None, config: Config) -> Prepared:
    """Make catalog and split of a folder that `ssd4rec data build` wrote; its sequences stay on disk.

    Raises:
        DataError: the folder is damaged, or a part of the split is empty.
        ConfigError: it was built with other settings.
    """
    sequences, catalog, source = open_folder(directory)
    built = {"data.min_interactions": sequences.filtering.k, "data.tie_order": sequences.tie_order}
    for name, value in built.items():
        if value_of(config, name) != value:
            raise ConfigError(
                f"{directory} was built with {name} = {value}, the settings have {value_of(config, name)}; "
                f"add --set {name}={value}"
            )
    return _prepared(source, sequences, catalog, make_split(sequences, config.data), titles, config)


def _check_common_items(sequences: Sequences, catalog: Catalog, base: Catalog | None) -> None:
    if base is not None and not (sequences.items <= len(base)).any():
        advice = "continue with interactions with its items, or train a new model"
        raise no_known_items(len(catalog) - len(base), base, advice)


def no_known_items(items: int, catalog: Catalog, advice: str) -> DataError:
    """Return the error for interactions with items that are all missing in the catalog of a model."""
    return DataError(
        f"none of the {items:,} items is in the catalog of the model, which was trained on {len(catalog):,} others, such as "
        f"{catalog.ids[0]!r}; {advice}"
    )


def _prepared(
    source: ReadReport, sequences: Sequences, catalog: Catalog, split: Split, titles: pl.DataFrame | None, config: Config
) -> Prepared:
    """Add the titles and the description of the data."""
    described_split = describe_split(sequences, split, len(catalog), final_fit=config.training.final_fit)
    description = {**describe(source, sequences), "split": described_split}
    return Prepared(sequences, catalog if titles is None else catalog.with_titles(titles), split, description)


def add_features(data: Prepared, items: Source, config: Config) -> Prepared:
    """Add the features of items, and the items that have no interactions; see `Artifact.features`.

    Raises:
        DataError: the file cannot be read, or does not fit the interactions.
    """
    table = read_item_table(items, config.features)
    features = encode_item_features(table, data.catalog, config.features)
    catalog = data.catalog
    if catalog.titles is None and table.titles is not None:
        catalog = catalog.with_titles(pl.DataFrame({"id": table.ids, "title": table.titles}))
    if features.without_row:
        logger.warning("%s has no row for %s of %s items", table.source, f"{features.without_row:,}", f"{len(catalog):,}")
    return replace(data, catalog=catalog, features=features, description={**data.description, "features": features.describe()})


def describe_pass(data: Prepared, config: Config) -> dict[str, float]:
    """Return the cost of a pass over the training set under each objective, and how full its batches are."""
    plan = plan_pass(data.split.train, config.training, epoch=0)
    sizes = sum(batch.size for batch in plan.batches)
    return {
        "targets": data.split.train.targets,
        "all_positions_tokens": data.split.train.tokens_one_pass,
        "per_prefix_tokens": data.split.train.tokens_prefix,
        "batches": len(plan.batches),
        "fill": float(plan.examples.lengths.sum() / sizes),
    }


def default_config(data: Prepared, changes: Sequence[str] = ()) -> Config:
    """Return the settings of the preset that suits the data, with changes, and log which one it is unless it is the usual one.

    On dense data, where an item has DENSE training interactions or more on average, a wider network is more accurate: on
    MovieLens-1M, with 289, but not on MovieLens-100K, with 72; see docs/research-log/2026-12.md.

    Args:
        data: prepared with the settings of the usual preset and the same changes.
        changes: `group.key=value`.
    """
    usual = load_config(DEFAULT_PRESET, changes)
    per_item = interactions_per_item(data.histories, data.split, len(data.catalog))
    if per_item < DENSE:
        return usual
    dense = load_config(DENSE_PRESET, changes)
    if dense != usual:
        logger.info(
            "preset: %s (width %d), as an item has %.0f training interactions on average, %g or more; --config %s has width %d",
            DENSE_PRESET,
            dense.backbone.width,
            per_item,
            DENSE,
            DEFAULT_PRESET,
            usual.backbone.width,
        )
    return dense
