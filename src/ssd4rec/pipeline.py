"""The whole path on one page: from a table of interactions to a measured model on disk."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from lightning.pytorch import Callback

from ssd4rec._csr import IntArray
from ssd4rec.artifact import Artifact, check_writable, save_artifact
from ssd4rec.baselines.popularity import Popularity
from ssd4rec.baselines.sequential_rules import SequentialRules
from ssd4rec.config import FULL_SOFTMAX_MAX_ITEMS, Config, value_of
from ssd4rec.data.catalog import Catalog, as_type
from ssd4rec.data.folder import open_folder
from ssd4rec.data.interactions import Interactions
from ssd4rec.data.sequences import Sequences, build_sequences
from ssd4rec.data.split import KnownTargets, Split, drop_unknown_items, make_split, training_counts, training_interactions
from ssd4rec.data.summary import describe
from ssd4rec.diagnostics import resolve_device, versions
from ssd4rec.errors import ConfigError, DataError, StateError
from ssd4rec.evaluation.evaluate import Progress, Ranker, Ranking, Scorer, evaluate, make_protocol
from ssd4rec.evaluation.metrics import MONITORED_METRIC
from ssd4rec.evaluation.tune_fusion import REPEAT_BIASES, WEIGHTS, TunedFusion, ZeroScorer, tune_fusion
from ssd4rec.fusion import ScoreFusion
from ssd4rec.models.next_item import NextItemModel, count_parameters, make_model
from ssd4rec.training.fit import fit
from ssd4rec.training.objective import PassCost, cut_batches, pass_cost, plan_pass
from ssd4rec.training.state import LAST, hold, training_folder

Say = Callable[[str], None]
SPLIT_SETTINGS = ("data.split", "data.validation_from", "data.test_from")


@dataclass(frozen=True)
class Prepared:
    """A data set, ready to learn from."""

    histories: Sequences
    catalog: Catalog
    split: Split
    description: dict[str, Any]  # the `data` part of the report


def prepare(interactions: Interactions, titles: pl.DataFrame | None, config: Config) -> Prepared:
    """Interactions -> histories, catalog, split.

    Raises:
        DataError: nothing is left after the k-core, or a part of the split is empty.
    """
    histories, catalog = build_sequences(interactions, config.data.min_interactions, tie_order=config.data.tie_order)
    if titles is not None:
        catalog = catalog.with_titles(titles)
    split = make_split(histories, config.data)
    return Prepared(histories, catalog, split, describe(interactions, histories))


def prepare_folder(directory: str | Path, titles: pl.DataFrame | None, config: Config) -> Prepared:
    """A folder that `ssd4rec data build` wrote -> sequences that stay on disk, catalog, split.

    Raises:
        DataError: the folder is damaged, or a part of the split is empty.
        ConfigError: it was built with other settings.
    """
    sequences, catalog, read = open_folder(directory)
    built = {"data.min_interactions": sequences.filtering.k, "data.tie_order": sequences.tie_order}
    for name, value in built.items():
        if value_of(config, name) != value:
            raise ConfigError(
                f"{directory} was built with {name} = {value}, the settings have {value_of(config, name)}; "
                f"add --set {name}={value}"
            )
    if titles is not None:
        catalog = catalog.with_titles(titles)
    description = describe(Interactions(pl.DataFrame(), read), sequences)
    return Prepared(sequences, catalog, make_split(sequences, config.data), description)


def train(
    data: Prepared,
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    say: Say = lambda _: None,
    callbacks: Sequence[Callback] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train, measure on the test part beside popularity, and write the artifact.

    Args:
        data: from `prepare`.
        config: all settings.
        out: folder of the artifact. While training, the state of it is kept beside it in `OUT.training`.
        resume: go on with what `OUT.training` holds.
        say: receives one line for each stage.
        callbacks: Lightning callbacks, e.g. a progress bar.
        progress: called with (test targets ranked, all) while the model is measured.

    Returns:
        The report: data, model, protocol, validation, test, popularity, seconds, artifact.

    Raises:
        ArtifactError: `out` cannot be written, there is nothing to resume, or another training for it is at work.
        BackendError: the accelerator that was asked for is not there.
    """
    began = time.monotonic()
    check_writable(out)
    device = resolve_device(config.training.accelerator)
    cost = pass_cost(data.split.train, config.training)
    _announce(data, config, cost, say)
    model = make_model(config, len(data.catalog))
    with hold(training_folder(out)) as state:  # to the end: it is removed there, and another training would lose its own
        if not resume and (state.folder / LAST).exists():
            say(f"{state.folder} holds an interrupted training; starting over (to continue it: Ctrl-C, and add --resume)")
        training = fit(model, data.histories, data.split, config.training, directory=state, resume=resume, callbacks=callbacks)

        trained = time.monotonic()
        model.to(device)  # fit leaves it on the CPU
        counts = training_counts(data.histories, data.split.train, len(data.catalog))
        chosen = make_fusion(model, data, config, say, progress)
        fusion = chosen.fusion if chosen else None
        say("ranking the whole catalog for the test part")
        measured = _measure_beside(model, data, config, counts, fusion, progress)
        if chosen:
            measured["fusion"]["validation"] = chosen.as_dict()
        watched_under = make_protocol(data.histories, data.split.validation, len(data.catalog), split=data.split.protocol)
        report = {
            "data": {**data.description, "fingerprint": data.histories.fingerprint()},
            "model": _describe_model(model, config),
            "validation": {MONITORED_METRIC: training.best_ndcg, "protocol": watched_under.as_dict()},
            **measured,
            "training": training.as_dict(),
            "pass": {"objective": config.training.objective, "tokens": cost.tokens, "targets": cost.targets},
            "seconds": {
                "training": training.seconds,
                "evaluation": time.monotonic() - trained,
                "total": time.monotonic() - began,
            },
            "versions": versions(),
            "artifact": str(out),
        }
        save_artifact(out, model, data.catalog, config, report, counts, fusion)
        shutil.rmtree(state.folder, ignore_errors=True)
    return report


def train_or_resume(
    data: Prepared,
    config: Config,
    out: str | Path,
    *,
    say: Say = lambda _: None,
    callbacks: Sequence[Callback] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """`train`, from where the same training was cut off; a state that cannot be resumed is said why, and goes.

    For a command that is to be given again as it was. Arguments, report and errors are those of `train`.
    """
    options: dict[str, Any] = {"say": say, "callbacks": callbacks, "progress": progress}
    last = training_folder(out) / LAST
    try:
        return train(data, config, out, resume=last.is_file(), **options)
    except StateError as error:
        say(f"training begins anew: {error}")
        last.unlink(missing_ok=True)
        return train(data, config, out, **options)


def _announce(data: Prepared, config: Config, cost: PassCost, say: Say) -> None:
    """What a person should know before a training begins."""
    say(f"one pass: {cost.targets:,} targets, {cost.tokens:,} tokens ({config.training.objective})")
    if config.training.samples(len(data.catalog)):
        say(_describe_sampling(config, len(data.catalog)))
    if advice := cost.advice(config.training):
        say(advice)
    if cut := cut_batches(data.split.train, config.training):
        say(f"warning: {cut}")


def _describe_sampling(config: Config, catalog_size: int) -> str:
    chosen, sampled = config.training, min(config.training.negatives, catalog_size)
    why = (
        f" as there are more than {FULL_SOFTMAX_MAX_ITEMS:,}; training.softmax=full scores all"
        if chosen.softmax == "auto"
        else ""
    )
    return (
        f"softmax: sampled, {sampled:,} of {catalog_size:,} items a batch, drawn by training counts to the power "
        f"{chosen.negative_power:g}{why}; ranking is over all items"
    )


def _describe_model(model: NextItemModel, config: Config) -> dict[str, Any]:
    return {"parameters": count_parameters(model), "backbone": config.backbone.model_dump(mode="json")}


def measure(
    model: Ranker | Scorer,
    data: Prepared,
    config: Config,
    counts: IntArray,
    progress: Progress | None = None,
    fusion: ScoreFusion | None = None,
) -> Ranking:
    """Rank the test part under the protocol of the settings."""
    return evaluate(
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
    )


def count_sequential_rules(data: Prepared, progress: Progress | None = None) -> SequentialRules:
    """The baseline that counts what followed what in the training part."""
    return SequentialRules.count(*training_interactions(data.histories, data.split.train), len(data.catalog), progress)


def make_fusion(
    model: NextItemModel, data: Prepared, config: Config, say: Say, progress: Progress | None = None
) -> TunedFusion | None:
    """What `fusion.cooccurrence` and `fusion.repeat_bias` ask for, measured on the validation part; None: nothing."""
    asked = config.fusion
    if not asked.cooccurrence and not asked.repeat_bias:
        return None
    if asked.cooccurrence:
        say("counting what came soon after what")
        rules = count_sequential_rules(data, progress)
    else:
        rules = SequentialRules.nothing(model.catalog_size)
    chosen = tune_fusion(
        model,
        rules,
        data.histories,
        data.split.validation,
        weights=WEIGHTS if asked.cooccurrence == "tuned" else (asked.cooccurrence,),
        repeat_bias=REPEAT_BIASES if asked.repeat_bias == "tuned" else (asked.repeat_bias,),
        exclude_seen=config.evaluation.exclude_seen,
        token_budget=config.evaluation.token_budget,
        progress=progress,
    )
    fusion = chosen.fusion
    say(
        f"fusion.cooccurrence = {fusion.weight:g}, fusion.repeat_bias = {fusion.repeat_bias:g}: "
        f"validation ndcg@10 {chosen.ndcg:.4f}, the model alone {chosen.alone:.4f}"
    )
    if fusion.repeat_bias > 0:
        say("items recur in these data: `ssd4rec recommend --keep-seen` recommends them again")
    return chosen


def _measure_beside(
    model: NextItemModel,
    data: Prepared,
    config: Config,
    counts: IntArray,
    fusion: ScoreFusion | None,
    progress: Progress | None,
    misses: int = 0,
) -> dict[str, Any]:
    """Return the metrics of a report: of the model with its fusion, popularity, the model alone and the fusion alone.

    `misses` targets cannot be ranked, and count as misses.
    """
    test = measure(model, data, config, counts, progress, fusion).with_misses(misses)
    popularity = measure(Popularity(counts), data, config, counts).with_misses(misses)
    found: dict[str, Any] = {**test.report(), "popularity": {"test": popularity.as_dict()}}
    if fusion is not None:
        alone = measure(model, data, config, counts).with_misses(misses) if fusion else test
        found["fusion"] = {"cooccurrence": fusion.weight, "repeat_bias": fusion.repeat_bias, "model_alone": alone.as_dict()}
        if fusion.weight:
            zero = ZeroScorer(model.catalog_size)
            found["fusion"]["fusion_alone"] = measure(zero, data, config, counts, fusion=fusion).with_misses(misses).as_dict()
    return found


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
        raise DataError(
            f"none of the {interactions.read.items:,} items is in the catalog of the model, which was trained on "
            f"{len(artifact.catalog):,} others, such as {artifact.catalog.ids[0]!r}; use interactions with its items, or train a "
            f"model on these"
        )
    split = make_split(sequences, config.data, learned=False)
    known = drop_unknown_items(sequences, split.test)
    unranked = known.unknown_targets + known.without_known_history
    if not len(known.targets):
        raise DataError(
            f"all {unranked:,} test targets are unknown items or follow unknown items only; use interactions with more items "
            "of the model, or train a model on these"
        )
    data = Prepared(
        known.sequences, artifact.catalog, replace(split, test=known.targets), describe(interactions, known.sequences)
    )
    misses = unranked if config.evaluation.unknown_targets == "miss" else 0
    return {
        "data": data.description,
        "model": _describe_model(artifact.model, artifact.config),
        **_measure_beside(artifact.model, data, config, artifact.training_counts, artifact.fusion, progress, misses),
        "unknown": {
            "interactions": known.unknown_events,
            "targets": known.unknown_targets,
            "without_known_history": known.without_known_history,
            "counted_as": config.evaluation.unknown_targets,
        },
        "seconds": {"total": time.monotonic() - began},
        "notes": _evaluation_notes(artifact, config, known, same_data=same_data),
    }


def _as_in_training(artifact: Artifact, interactions: Interactions, config: Config) -> Sequences | None:
    """Return the sequences of the training if these interactions are the ones that the model was trained on."""
    fingerprint = artifact.report.get("data", {}).get("fingerprint")  # none in a report written by hand
    if fingerprint is None:
        return None
    try:
        sequences, catalog = build_sequences(interactions, config.data.min_interactions, tie_order=config.data.tie_order)
    except DataError:
        return None
    ids = as_type(catalog.ids, artifact.catalog.ids.dtype)  # text ids of a CSV file may be the numbers of a frame
    return sequences if sequences.fingerprint() == fingerprint and ids.equals(artifact.catalog.ids) else None


def _evaluation_notes(artifact: Artifact, config: Config, known: KnownTargets, *, same_data: bool) -> list[str]:
    notes = []
    if known.unknown_events:
        notes.append(
            f"{known.unknown_events:,} interactions with items outside of the model's catalog were removed from the sequences"
        )
    counted = "counted as misses" if config.evaluation.unknown_targets == "miss" else "left out (evaluation.unknown_targets)"
    if known.unknown_targets:
        notes.append(f"{known.unknown_targets:,} test targets are items outside of the model's catalog; they are {counted}")
    if known.without_known_history:
        notes.append(f"{known.without_known_history:,} test targets follow unknown items only; they are {counted}")
    if not same_data:
        notes.append("these are not the data that the model was trained on; test targets may be training targets")
    elif moved := [name for name in SPLIT_SETTINGS if value_of(config, name) != value_of(artifact.config, name)]:
        notes.append(f"the model was trained with another split ({', '.join(moved)}); test targets may be training targets")
    return notes


def describe_pass(data: Prepared, config: Config) -> dict[str, float]:
    """What a pass over the training part costs under each objective, and how full its batches are."""
    plan = plan_pass(data.split.train, config.training, epoch=0)
    sizes = sum(batch.size for batch in plan.batches)
    return {
        "targets": data.split.train.targets,
        "one_pass_tokens": data.split.train.tokens_one_pass,
        "prefix_tokens": data.split.train.tokens_prefix,
        "batches": len(plan.batches),
        "fill": float(plan.examples.lengths.sum() / sizes),
    }
