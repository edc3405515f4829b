"""Test metrics of a model next to those of simpler ones, after its training and on other data."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ssd4rec._csr import IntArray
from ssd4rec.artifact import Artifact
from ssd4rec.baselines.personal_popularity import PersonalPopularity
from ssd4rec.baselines.popularity import Popularity
from ssd4rec.config import Baseline, Config, value_of
from ssd4rec.data.catalog import Catalog, as_type
from ssd4rec.data.interactions import Interactions
from ssd4rec.data.request_times import REQUEST_TIMES, RequestTime
from ssd4rec.data.sequences import Sequences, build_sequences
from ssd4rec.data.split import KnownTargets, Split, drop_unknown_items, make_split
from ssd4rec.data.summary import describe
from ssd4rec.distributed import current_world
from ssd4rec.errors import DataError
from ssd4rec.evaluation.baselines import fit_baseline
from ssd4rec.evaluation.evaluate import Progress, Ranking
from ssd4rec.evaluation.evaluate import evaluate as rank_and_measure
from ssd4rec.evaluation.scoring import Ranker, Scorer, reads_request_times
from ssd4rec.evaluation.tune_fusion import ZeroScorer
from ssd4rec.fusion import ScoreFusion
from ssd4rec.models.next_item import NextItemModel, count_parameters
from ssd4rec.pipeline.preparation import Prepared, no_known_items

logger = logging.getLogger(__name__)
SPLIT_SETTINGS = ("data.split", "data.validation_from", "data.test_from")


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

    `misses` targets cannot be ranked, and count as misses; the baselines are fitted on the training set. Where users repeat
    items, personal popularity is among them.
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
    if PersonalPopularity.name not in baselines and data.has_repeats and not config.evaluation.exclude_seen:
        rankings[PersonalPopularity.name] = ranking_of(PersonalPopularity(counts))
    for baseline in baselines:
        logger.info("fitting %s", baseline)
        rankings[baseline] = ranking_of(fit_baseline(baseline, data.histories, data.split.train, len(data.catalog), progress))
    return Comparison(test, popularity, fusion, alone, fusion_alone, by_request_time, rankings)


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
        raise no_known_items(
            interactions.read.items, artifact.catalog, "use interactions with its items, or train a model on these"
        )
    split = make_split(sequences, config.data, learned=False)
    data, known_targets, misses = known_part(sequences, artifact.catalog, split, config)
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
        "model": describe_model(artifact.model, artifact.config),
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


def known_part(sequences: Sequences, catalog: Catalog, split: Split, config: Config) -> tuple[Prepared, KnownTargets, int]:
    """Return the data without unknown items, what was left out, and how many targets count as misses."""
    known_targets = drop_unknown_items(sequences, split.test)
    misses = known_targets.unranked if config.evaluation.unknown_targets == "miss" else 0
    return Prepared(known_targets.sequences, catalog, replace(split, test=known_targets.targets), {}), known_targets, misses


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


def describe_model(model: NextItemModel, config: Config) -> dict[str, Any]:
    """Return the `model` part of a report."""
    return {"parameters": count_parameters(model), "backbone": config.backbone.model_dump(mode="json")}
