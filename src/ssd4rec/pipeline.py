"""The whole path on one page: from a table of interactions to an evaluated model.

    data = prepare(interactions, titles, config)
    fitted = fit(data, config)
    fusion = tune(fitted.model, data, config)
    ranking = evaluate(fitted.model, data, config, fitted.counts, fusion)
    save_artifact(out, ...)

`train` composes the stages. Each stage returns a value and writes nothing but checkpoints and log messages.
"""

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from ssd4rec._csr import IntArray
from ssd4rec.artifact import Artifact, TrainedFeatures, append_new_items, check_writable
from ssd4rec.baselines.item_pairs import ItemPairs
from ssd4rec.baselines.popularity import Popularity
from ssd4rec.baselines.sequential_rules import SequentialRules
from ssd4rec.config import FULL_SOFTMAX_MAX_ITEMS, Baseline, Config, PairModel, TrainingConfig, value_of
from ssd4rec.data.catalog import Catalog, as_type
from ssd4rec.data.folder import open_folder
from ssd4rec.data.interactions import Interactions, ReadReport
from ssd4rec.data.io import Source
from ssd4rec.data.item_features import ItemFeatures, encode_item_features
from ssd4rec.data.item_table import read_item_table
from ssd4rec.data.parts import join_parts
from ssd4rec.data.request_times import REQUEST_TIMES, RequestTime, check_clock
from ssd4rec.data.sequences import Sequences, build_sequences
from ssd4rec.data.split import (
    Examples,
    KnownTargets,
    Split,
    all_events,
    drop_unknown_items,
    limit_length,
    make_split,
    split_by_parts,
    training_counts,
    training_interactions,
)
from ssd4rec.data.summary import describe, describe_split
from ssd4rec.diagnostics import resolve_device, versions
from ssd4rec.distributed import current_world, process_group
from ssd4rec.errors import ConfigError, DataError, StateError
from ssd4rec.evaluation.baselines import PAIR_MODELS, fit_baseline
from ssd4rec.evaluation.evaluate import EvaluationProtocol, Progress, Ranking, make_protocol
from ssd4rec.evaluation.evaluate import evaluate as rank_and_measure
from ssd4rec.evaluation.metrics import MONITORED_METRIC
from ssd4rec.evaluation.scoring import Ranker, Scorer, reads_request_times
from ssd4rec.evaluation.tune_fusion import REPEAT_BIASES, WEIGHTS, TunedFusion, ZeroScorer, tune_fusion
from ssd4rec.fusion import ScoreFusion
from ssd4rec.models.next_item import NextItemModel, count_parameters, fingerprint, fold_features, make_model
from ssd4rec.ops import numba
from ssd4rec.training import loop
from ssd4rec.training.callbacks import Callback
from ssd4rec.training.checkpoint import LAST, LockedFolder, lock_folder, training_folder
from ssd4rec.training.continuation import check_same_backbone, grow
from ssd4rec.training.loop import FixedSteps, TrainingReport
from ssd4rec.training.objective import PassCost, cut_batches, pass_cost, plan_pass

logger = logging.getLogger(__name__)

FINAL = "final"  # folder of the checkpoints of a final fit, inside of that of the selection run
FINAL_FIT_NOTE = (
    "the saved model was trained on all interactions, the test set too (training.final_fit); "
    "its metrics are those of the selection run, which was trained on the training set alone"
)
SPLIT_SETTINGS = ("data.split", "data.validation_from", "data.test_from")


@dataclass(frozen=True)
class Prepared:
    """A data set, ready for training."""

    histories: Sequences
    catalog: Catalog
    split: Split
    description: dict[str, Any]  # the `data` part of the report
    features: ItemFeatures | None = None  # of the items of the catalog, and of new items


@dataclass(frozen=True)
class Fitted:
    """A trained model."""

    model: NextItemModel  # on the device of the training
    training: TrainingReport
    counts: IntArray  # [V + 1] training events of each item index
    protocol: EvaluationProtocol  # of the validation metric
    cost: PassCost
    features: TrainedFeatures | None = None  # the item table of the model contains them already


@dataclass(frozen=True)
class Comparison:
    """Test metrics of a model next to those of simpler ones."""

    model: Ranking  # with its fusion, if it has one
    popularity: Ranking
    fusion: ScoreFusion | None = None
    model_alone: Ranking | None = None
    fusion_alone: Ranking | None = None
    by_request_time: Mapping[str, Ranking] = field(default_factory=dict)  # of a model that reads it: known, unknown, shuffled
    baselines: Mapping[str, Ranking] = field(default_factory=dict)  # by name

    def as_dict(self) -> dict[str, Any]:
        """Return this part of a report for JSON."""
        simpler = {
            name: {"test": ranking.as_dict(), **ranking.report_lists()}
            for name, ranking in {"popularity": self.popularity, **self.baselines}.items()
        }
        report: dict[str, Any] = {**self.model.report(), "popularity": simpler.pop("popularity")}
        if simpler:
            report["baselines"] = simpler
        if self.fusion is not None and self.model_alone is not None:
            report["fusion"] = {
                "cooccurrence": self.fusion.weight,
                "cooccurrence_model": self.fusion.pairs.name,
                "repeat_bias": self.fusion.repeat_bias,
                "model_alone": self.model_alone.as_dict(),
                **({"fusion_alone": self.fusion_alone.as_dict()} if self.fusion_alone else {}),
            }
        if self.by_request_time:
            report["request_time"] = {name: ranking.as_dict() for name, ranking in self.by_request_time.items()}
        parts = {
            "model": self.model,
            "model_alone": self.model_alone,
            "fusion_alone": self.fusion_alone,
            "popularity": self.popularity,
            **self.baselines,
        }
        report["intervals"] = {name: part.intervals() for name, part in parts.items() if part is not None}
        return report


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


def _check_common_items(sequences: Sequences, catalog: Catalog, base: Catalog | None) -> None:
    if base is not None and not (sequences.items <= len(base)).any():
        advice = "continue with interactions with its items, or train a new model"
        raise _no_known_items(len(catalog) - len(base), base, advice)


def _no_known_items(items: int, catalog: Catalog, advice: str) -> DataError:
    return DataError(
        f"none of the {items:,} items is in the catalog of the model, which was trained on {len(catalog):,} others, such as "
        f"{catalog.ids[0]!r}; {advice}"
    )


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


def _prepared(
    source: ReadReport, sequences: Sequences, catalog: Catalog, split: Split, titles: pl.DataFrame | None, config: Config
) -> Prepared:
    """Add the titles and the description of the data."""
    described_split = describe_split(sequences, split, len(catalog), final_fit=config.training.final_fit)
    description = {**describe(source, sequences), "split": described_split}
    return Prepared(sequences, catalog if titles is None else catalog.with_titles(titles), split, description)


def train(
    data: Prepared,
    config: Config,
    out: str | Path | None = None,
    *,
    start: Artifact | None = None,
    resume: bool | Literal["auto"] = False,
    callbacks: Sequence[Callback] = (),
    progress: Progress | None = None,
) -> Artifact:
    """Train a model, compare it with baselines on the test set, and save it.

    In a process group all processes call this together; only the first one writes.

    Args:
        data: from `prepare`.
        config: all settings.
        out: folder of the model; checkpoints are written to `OUT.training`, which is removed at the end. None: nothing is
            written.
        start: continue with the weights of this model; `data` was prepared with its catalog.
        resume: continue from the checkpoint in `OUT.training`; "auto": if there is one of the same training.
        callbacks: called during the training, e.g. a progress bar.
        progress: called with (test targets ranked, all) during the evaluation.

    Returns:
        The model with its report: data, model, protocol, validation, test, popularity, training, seconds.

    Raises:
        ArtifactError: `out` cannot be written, there is nothing to resume, or another training writes there.
        BackendError: the accelerator is not available.
    """
    with ExitStack() as stack:
        is_first = stack.enter_context(process_group()).is_first
        began = time.monotonic()
        if out is not None and is_first:
            check_writable(out)
        resolve_device(config.training.accelerator)  # before anything is written
        initial = initial_model(data, config, start)
        checkpoints = None if out is None else training_folder(out)
        # locked to the end: the folder is removed there, and another training would lose its own
        folder = stack.enter_context(lock_folder(checkpoints)) if checkpoints and is_first else checkpoints
        fitted = fit(data, config, initial, folder=folder, resume=resume, callbacks=callbacks)
        trained = time.monotonic()
        tuned = tune(fitted.model, data, config, progress)
        fusion, baselines = tuned.fusion if tuned else None, config.evaluation.baselines
        comparison = compare(fitted.model, data, config, fitted.counts, fusion, progress, baselines=baselines)
        seconds = {
            "training": fitted.training.seconds,
            "evaluation": time.monotonic() - trained,
            "total": time.monotonic() - began,
        }
        artifact = _as_artifact(data, config, fitted, tuned, comparison, seconds)
        if config.training.final_fit:
            path = folder.folder if isinstance(folder, LockedFolder) else folder
            artifact = final_fit(artifact, data, config, fitted, initial, folder=path, resume=bool(resume), callbacks=callbacks)
        if start is not None:
            artifact = _continued(artifact, data, start, initial, progress)
        if data.features is not None:
            artifact = append_new_items(artifact, data.features)
        if out is not None and is_first:
            artifact = replace(artifact, report={**artifact.report, "artifact": str(out)})
            artifact.save(out)
        if checkpoints is not None and is_first:
            shutil.rmtree(checkpoints, ignore_errors=True)
    return artifact


@dataclass(frozen=True)
class InitialModel:
    """The model that a training starts with: that of the seed, or a finished model with rows for new items."""

    make: Callable[[], NextItemModel]  # returns a new copy
    fingerprint: str | None = None  # of the weights of the finished model; None: those of the seed
    without_neighbors: int = 0  # new items that occur next to no item that the finished model knows


def initial_model(data: Prepared, config: Config, start: Artifact | None = None) -> InitialModel:
    """Return the model of the seed, or the finished model `start` with rows for new items.

    Raises:
        ConfigError: the finished model has another backbone.
    """
    if start is None:
        world = current_world() if config.training.shard_item_table and data.features is None else None
        return InitialModel(lambda: make_model(config, len(data.catalog), data.features, world))
    check_same_backbone(config.backbone, start.config.backbone)
    if data.features is not None or start.features is not None:
        raise ConfigError("a model with item features cannot be continued; train a new model on all interactions")
    grown, without_neighbors = grow(start.model, config, len(data.catalog), count_sequential_rules(data))
    return InitialModel(lambda: deepcopy(grown), fingerprint(grown), without_neighbors)


def fit(
    data: Prepared,
    config: Config,
    initial: InitialModel | None = None,
    *,
    folder: str | Path | LockedFolder | None = None,
    resume: bool | Literal["auto"] = False,
    callbacks: Sequence[Callback] = (),
) -> Fitted:
    """Train a model.

    Args:
        data: from `prepare`.
        config: all settings.
        initial: the model to start with; None: that of the seed.
        folder: where checkpoints are written; None: nowhere.
        resume: continue from the checkpoint in `folder`; "auto": if there is one of the same training.
        callbacks: called during the training, e.g. a progress bar.

    Raises:
        ArtifactError: the folder cannot be written, there is nothing to resume, or another training writes there.
        BackendError: the accelerator is not available.
        ConfigError: the model reads the times of requests, and the data have none.
    """
    if config.backbone.request_time:
        check_clock(data.histories.clock)
    cost = pass_cost(data.split.train, config.training)
    _log_plan(data, config, cost)
    path = folder.folder if isinstance(folder, LockedFolder) else None if folder is None else Path(folder)
    has_checkpoint = path is not None and (path / LAST).is_file()
    if has_checkpoint and not resume:
        logger.warning("%s holds an interrupted training; starting over (to continue it: Ctrl-C, and add --resume)", path)
    initial = initial or initial_model(data, config)
    model, training = _run_loop(
        initial,
        data.histories,
        data.split,
        config.training,
        resume=has_checkpoint if resume == "auto" else resume,
        restart="starting over" if resume == "auto" else None,
        directory=folder,
        callbacks=callbacks,
    )
    features = _fold_features(model, data)
    model.to(resolve_device(config.training.accelerator))
    counts = training_counts(data.histories, data.split.train, len(data.catalog))
    protocol = make_protocol(data.histories, data.split.validation, len(data.catalog), split=data.split.protocol)
    return Fitted(model, training, counts, protocol, cost, features)


def _run_loop(
    initial: InitialModel,
    sequences: Sequences,
    split: Split,
    config: TrainingConfig,
    *,
    resume: bool,
    restart: str | None,
    **options: Any,
) -> tuple[NextItemModel, TrainingReport]:
    """Call `loop.fit`; if the checkpoint cannot be used, log `restart` and train from the beginning. None: raise."""
    model = initial.make()
    try:
        return model, loop.fit(model, sequences, split, config, resume=resume, start=initial.fingerprint, **options)
    except StateError as error:
        if restart is None:
            raise
        logger.warning("%s: %s", restart, error)
    model = initial.make()
    return model, loop.fit(model, sequences, split, config, start=initial.fingerprint, **options)


def _fold_features(model: NextItemModel, data: Prepared) -> TrainedFeatures | None:
    """Fold the projection of item features into the item table, and return it; None without features."""
    if model.features is None or data.features is None:
        return None
    categories, numbers = (each.detach().float().cpu().numpy() for each in (model.features.categories, model.features.numbers))
    fold_features(model)
    return TrainedFeatures(data.features.columns, categories, numbers, data.features.trained)


def _log_plan(data: Prepared, config: Config, cost: PassCost) -> None:
    logger.info("one pass: %s targets, %s tokens (%s)", f"{cost.targets:,}", f"{cost.tokens:,}", config.training.objective)
    if config.training.samples(len(data.catalog)):
        logger.info(_describe_sampling(config, len(data.catalog)))
    if advice := cost.advice(config.training):
        logger.info(advice)
    if cut := cut_batches(data.split.train, config.training):
        logger.warning(cut)
    if resolve_device(config.training.accelerator) == "cpu" and not numba.available():
        logger.info("training on a CPU is up to twice as fast with numba: pip install 'ssd4rec[fast]'")


def _describe_sampling(config: Config, catalog_size: int) -> str:
    settings, negatives = config.training, min(config.training.negatives, catalog_size)
    reason = ""
    if settings.softmax == "auto":
        reason = f" as there are more than {FULL_SOFTMAX_MAX_ITEMS:,}; training.softmax=full scores all"
    return (
        f"softmax: sampled, {negatives:,} of {catalog_size:,} items per batch, drawn by training counts to the power "
        f"{settings.negative_power:g}{reason}; ranking is over all items"
    )


def tune(model: NextItemModel, data: Prepared, config: Config, progress: Progress | None = None) -> TunedFusion | None:
    """Tune the score fusion that the settings ask for on the validation set; None: they ask for none."""
    cooccurrence, repeat_bias = config.fusion.cooccurrence, config.fusion.repeat_bias
    if not cooccurrence and not repeat_bias:
        return None
    if cooccurrence:
        name = config.fusion.cooccurrence_model
        logger.info("fitting the co-occurrence model, %s", name)
        pairs = fit_pairs(name, data, data.split.train, progress)
    else:
        pairs = SequentialRules.nothing(model.catalog_size)
    tuned = tune_fusion(
        model,
        pairs,
        data.histories,
        data.split.validation,
        weights=WEIGHTS if cooccurrence == "tuned" else (cooccurrence,),
        repeat_bias=REPEAT_BIASES if repeat_bias == "tuned" else (repeat_bias,),
        exclude_seen=config.evaluation.exclude_seen,
        token_budget=config.evaluation.token_budget,
        progress=progress,
        world=current_world(),
    )
    logger.info(
        "fusion.cooccurrence = %g, fusion.repeat_bias = %g: validation ndcg@10 %.4f, the model alone %.4f",
        tuned.fusion.weight,
        tuned.fusion.repeat_bias,
        tuned.ndcg,
        tuned.alone,
    )
    if tuned.fusion.repeat_bias > 0:
        logger.info("repeat consumption detected; pass --keep-seen to `ssd4rec recommend` to allow repeats")
    return tuned


def fit_pairs(name: PairModel, data: Prepared, train: Examples, progress: Progress | None = None) -> ItemPairs:
    """Fit a co-occurrence model on a training set."""
    return PAIR_MODELS[name](*training_interactions(data.histories, train), len(data.catalog), progress=progress)


def count_sequential_rules(data: Prepared, progress: Progress | None = None) -> SequentialRules:
    """Count the sequential-rules baseline on the training set."""
    return SequentialRules.count(*training_interactions(data.histories, data.split.train), len(data.catalog), progress)


def evaluate(
    model: Ranker | Scorer,
    data: Prepared,
    config: Config,
    counts: IntArray,
    progress: Progress | None = None,
    fusion: ScoreFusion | None = None,
    request_time: RequestTime | None = None,
) -> Ranking:
    """Rank the test set under the protocol of the settings; `request_time` replaces that of the settings."""
    return rank_and_measure(
        model,
        data.histories,
        data.split.test,
        cutoffs=config.evaluation.cutoffs,
        exclude_seen=config.evaluation.exclude_seen,
        token_budget=config.evaluation.token_budget,
        split=data.split.protocol,
        training_counts=counts,
        progress=progress,
        fusion=fusion,
        world=current_world(),
        request_time=request_time or config.evaluation.request_time,
    )


def compare(
    model: NextItemModel,
    data: Prepared,
    config: Config,
    counts: IntArray,
    fusion: ScoreFusion | None = None,
    progress: Progress | None = None,
    *,
    misses: int = 0,
    baselines: Sequence[Baseline] = (),
) -> Comparison:
    """Evaluate a model with its fusion, popularity, the model alone, the fusion alone and baselines on the test set.

    `misses` targets cannot be ranked, and count as misses; the baselines are fitted on the training set.
    """

    def ranking_of(scorer: Ranker | Scorer, **options: Any) -> Ranking:
        return evaluate(scorer, data, config, counts, **options).with_misses(misses)

    logger.info("ranking the whole catalog for the test set")
    test = ranking_of(model, progress=progress, fusion=fusion)
    popularity = ranking_of(Popularity(counts))
    by_request_time: dict[str, Ranking] = {}
    if reads_request_times(model) and data.histories.clock.ticks_per_second is not None:
        logger.info("ranking again without the times of the requests, and with those of others")
        for name in REQUEST_TIMES:
            is_done = name == config.evaluation.request_time
            by_request_time[name] = test if is_done else ranking_of(model, progress=progress, fusion=fusion, request_time=name)
    alone = fusion_alone = None
    if fusion is not None:
        alone = ranking_of(model) if fusion else test
        fusion_alone = ranking_of(ZeroScorer(model.catalog_size), fusion=fusion) if fusion.weight else None
    rankings: dict[str, Ranking] = {}
    for baseline in baselines:
        logger.info("fitting %s", baseline)
        rankings[baseline] = ranking_of(fit_baseline(baseline, data.histories, data.split.train, len(data.catalog), progress))
    return Comparison(test, popularity, fusion, alone, fusion_alone, by_request_time, rankings)


def final_fit(
    artifact: Artifact,
    data: Prepared,
    config: Config,
    fitted: Fitted,
    initial: InitialModel | None = None,
    *,
    folder: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Artifact:
    """Train a new model on all events, see `training.final_fit`; the metrics in the report remain those of the selection run.

    The number of steps and, with a cosine schedule, the learning rate of each step are those of the selection run up to its
    best epoch. A pass over all events has more batches, so the same steps are fewer epochs. Fusion weights remain too;
    co-occurrences are counted again, on all events. `folder`, of the selection run's checkpoints, is locked by the caller.

    Raises:
        ArtifactError: a checkpoint cannot be written to `folder`.
        DivergedError: the loss is not finite.
    """
    initial = initial or initial_model(data, config)
    split = all_events(data.histories, config.data.max_length)
    steps = fitted.training.best_steps
    logger.info("final fit: training on all %s interactions for %s steps", f"{len(data.histories.items):,}", f"{steps:,}")
    directory = None if folder is None else folder / FINAL
    model, training = _run_loop(
        initial,
        data.histories,
        split,
        config.training,
        resume=resume and directory is not None and (directory / LAST).is_file(),
        restart="the final fit starts over",  # the checkpoint is damaged, or of a selection run that ended elsewhere
        directory=directory,
        callbacks=callbacks,
        fixed=FixedSteps(steps, steps / fitted.training.best_epoch * config.training.max_epochs),
    )
    counts = training_counts(data.histories, split.train, len(data.catalog))
    features = _fold_features(model, data)
    model.to(resolve_device(config.training.accelerator))
    fusion = artifact.fusion
    if fusion is not None and fusion.weight:
        fusion = replace(fusion, pairs=fit_pairs(config.fusion.cooccurrence_model, data, split.train))
    final = {
        "note": FINAL_FIT_NOTE,
        "targets": split.train.targets,
        "steps": training.history[-1].step,
        "losses": [epoch.loss for epoch in training.history],
        "seconds": training.seconds,
    }
    seconds = artifact.report["seconds"]
    seconds = {**seconds, "final_fit": training.seconds, "total": seconds["total"] + training.seconds}
    report = {**artifact.report, "final_fit": final, "seconds": seconds}
    return replace(artifact, model=model, report=report, training_counts=counts, fusion=fusion, features=features)


def _continued(artifact: Artifact, data: Prepared, start: Artifact, initial: InitialModel, progress: Progress | None) -> Artifact:
    """Add what the model was before to the report, and keep its items recommendable."""
    known_items = len(start.catalog)
    only_known = replace(data.histories, items=np.where(data.histories.items > known_items, 0, data.histories.items))
    old_data, known_targets, misses = _known_part(only_known, start.catalog, data.split, artifact.config)
    before: dict[str, float] | None = None
    if len(known_targets.targets):
        ranking = evaluate(start.model, old_data, artifact.config, start.training_counts, progress, start.fusion)
        before = ranking.with_misses(misses).as_dict()
    counts = artifact.training_counts.copy()
    counts[: known_items + 1] = np.maximum(counts[: known_items + 1], start.training_counts)
    continued = {
        "from": fingerprint(start.model),
        "items": {
            "before": known_items,
            "new": len(data.catalog) - known_items,
            "without_neighbors": initial.without_neighbors,
        },
        "test": {"before": before, "after": artifact.report["test"]},
        "unknown_targets": known_targets.unranked,
    }
    return replace(artifact, report={**artifact.report, "continued": continued}, training_counts=counts)


def _known_part(sequences: Sequences, catalog: Catalog, split: Split, config: Config) -> tuple[Prepared, KnownTargets, int]:
    """Return the data without unknown items, what was left out, and how many targets count as misses."""
    known_targets = drop_unknown_items(sequences, split.test)
    misses = known_targets.unranked if config.evaluation.unknown_targets == "miss" else 0
    return Prepared(known_targets.sequences, catalog, replace(split, test=known_targets.targets), {}), known_targets, misses


def _as_artifact(
    data: Prepared,
    config: Config,
    fitted: Fitted,
    tuned: TunedFusion | None,
    comparison: Comparison,
    seconds: dict[str, float],
) -> Artifact:
    measured = comparison.as_dict()
    if tuned:
        measured["fusion"]["validation"] = tuned.as_dict()
    report = {
        "data": {**data.description, "fingerprint": data.histories.fingerprint()},
        "model": _describe_model(fitted.model, config),
        "validation": {MONITORED_METRIC: fitted.training.best_ndcg, "protocol": fitted.protocol.as_dict()},
        **measured,
        "training": fitted.training.as_dict(),
        "pass": {"objective": config.training.objective, "tokens": fitted.cost.tokens, "targets": fitted.cost.targets},
        "seconds": seconds,
        "versions": versions(),
    }
    return Artifact(fitted.model, data.catalog, config, report, fitted.counts, comparison.fusion, fitted.features)


def _describe_model(model: NextItemModel, config: Config) -> dict[str, Any]:
    return {"parameters": count_parameters(model), "backbone": config.backbone.model_dump(mode="json")}


def evaluate_artifact(
    artifact: Artifact, interactions: Interactions, config: Config, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure a finished model on the test targets of some interactions.

    The model's own catalog decides which items count; nothing is filtered by the k-core, unless these are the data that the
    model was trained on. Targets that are unknown items are misses, or left out with `evaluation.unknown_targets = "skip"`.

    Raises:
        DataError: the model knows no item, or no target with a known item before it.
    """
    began = time.monotonic()
    sequences = _as_in_training(artifact, interactions, config)
    same_data = sequences is not None
    if sequences is None:
        sequences, _ = build_sequences(interactions, tie_order=config.data.tie_order, catalog=artifact.catalog)
    if not sequences.items.any():
        raise _no_known_items(
            interactions.read.items, artifact.catalog, "use interactions with its items, or train a model on these"
        )
    split = make_split(sequences, config.data, learned=False)
    data, known_targets, misses = _known_part(sequences, artifact.catalog, split, config)
    if not len(known_targets.targets):
        raise DataError(
            f"all {known_targets.unranked:,} test targets are unknown items or follow unknown items only; use interactions with "
            "more items of the model, or train a model on these"
        )
    baselines = config.evaluation.baselines if same_data else ()
    comparison = compare(
        artifact.model, data, config, artifact.training_counts, artifact.fusion, progress, misses=misses, baselines=baselines
    )
    return {
        "data": describe(interactions.read, known_targets.sequences),
        "model": _describe_model(artifact.model, artifact.config),
        **comparison.as_dict(),
        "unknown": {
            "interactions": known_targets.unknown_events,
            "targets": known_targets.unknown_targets,
            "without_known_history": known_targets.without_known_history,
            "counted_as": config.evaluation.unknown_targets,
        },
        "seconds": {"total": time.monotonic() - began},
        "notes": _evaluation_notes(artifact, config, known_targets, same_data=same_data),
    }


def _as_in_training(artifact: Artifact, interactions: Interactions, config: Config) -> Sequences | None:
    """Return the sequences of the training if these interactions are the ones that the model was trained on."""
    fingerprint = artifact.report.get("data", {}).get("fingerprint")  # none in a report written by hand
    if fingerprint is None:
        return None
    continued = artifact.report.get("continued")
    base = artifact.catalog.head(continued["items"]["before"]) if continued else None
    try:
        sequences, catalog = build_sequences(
            interactions, config.data.min_interactions, tie_order=config.data.tie_order, base=base
        )
    except DataError:
        return None
    ids = as_type(catalog.ids, artifact.catalog.ids.dtype)  # text ids of a CSV file may be the numbers of a frame
    trained = artifact.catalog.ids if artifact.features is None else artifact.catalog.ids.head(artifact.features.trained)
    return sequences if sequences.fingerprint() == fingerprint and ids.equals(trained) else None


def _evaluation_notes(artifact: Artifact, config: Config, known_targets: KnownTargets, *, same_data: bool) -> list[str]:
    notes = []
    if known_targets.unknown_events:
        notes.append(
            f"{known_targets.unknown_events:,} interactions with items outside of the model's catalog were removed "
            f"from the sequences"
        )
    counted = "counted as misses" if config.evaluation.unknown_targets == "miss" else "left out (evaluation.unknown_targets)"
    if known_targets.unknown_targets:
        notes.append(
            f"{known_targets.unknown_targets:,} test targets are items outside of the model's catalog; they are {counted}"
        )
    if known_targets.without_known_history:
        notes.append(f"{known_targets.without_known_history:,} test targets follow unknown items only; they are {counted}")
    is_final = "final_fit" in artifact.report
    if same_data and is_final:
        notes.append(
            "the model was trained on all of these interactions (training.final_fit), so the test targets are training targets "
            "and the metrics are too high; `ssd4rec evaluate DIR` without data shows those of the selection run"
        )
    if not same_data:
        is_recorded = artifact.report.get("data", {}).get("fingerprint") is not None
        origin = "these are not the data that the model was trained on" if is_recorded else "the model has no record of its data"
        notes.append(f"{origin}; test targets may be training targets")
        if config.evaluation.baselines:
            notes.append(f"{', '.join(config.evaluation.baselines)} were not fitted: they need the training data of the model")
    elif moved := [name for name in SPLIT_SETTINGS if value_of(config, name) != value_of(artifact.config, name)]:
        notes.append(f"the model was trained with another split ({', '.join(moved)}); test targets may be training targets")
    return notes


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
