"""Train a model: its selection run, score fusion, and the final fit on all events."""

import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from ssd4rec._csr import IntArray
from ssd4rec.artifact import Artifact, TrainedFeatures, append_new_items, check_writable
from ssd4rec.baselines.closed_form import MAX_ITEMS
from ssd4rec.baselines.item_pairs import ItemPairs
from ssd4rec.baselines.sequential_rules import SequentialRules
from ssd4rec.config import FULL_SOFTMAX_MAX_ITEMS, TEACHING, Config, PairModel, TrainingConfig
from ssd4rec.data.request_times import check_clock
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Examples, Split, all_events, training_counts, training_interactions
from ssd4rec.diagnostics import resolve_device, versions
from ssd4rec.distributed import current_world, process_group
from ssd4rec.errors import ConfigError, StateError
from ssd4rec.evaluation.evaluate import EvaluationProtocol, Progress, make_protocol
from ssd4rec.evaluation.metrics import MONITORED_METRIC
from ssd4rec.evaluation.tune_fusion import REPEAT_BIASES, WEIGHTS, TunedFusion, tune_fusion
from ssd4rec.fusion import PAIR_MODELS
from ssd4rec.models.next_item import NextItemModel, fingerprint, fold_features, make_model
from ssd4rec.ops import numba
from ssd4rec.pipeline.measurement import Comparison, compare, describe_model, evaluate, known_part
from ssd4rec.pipeline.preparation import Prepared
from ssd4rec.training import loop
from ssd4rec.training.callbacks import Callback
from ssd4rec.training.checkpoint import LAST, lock_folder, training_folder
from ssd4rec.training.continuation import check_same_backbone, grow
from ssd4rec.training.loop import FixedSteps, TrainingReport
from ssd4rec.training.objective import PassCost, cut_batches, pass_cost
from ssd4rec.training.setup import choose_teachers
from ssd4rec.training.teacher import LEFT_OUT, LeftOut, Teacher

logger = logging.getLogger(__name__)
Pairs = TypeVar("Pairs", bound=ItemPairs)
FINAL = "final"  # folder of the checkpoints of a final fit, inside of that of the selection run
TEACHERS = "teachers"  # the same for the training of teachers
AUTOMATIC_SHARE = 0.95  # of the interactions with items that take part in a regression, for it to be tried
FINAL_FIT_NOTE = (
    "the saved model was trained on all interactions, the test set too (training.final_fit); "
    "its metrics are those of the selection run, which was trained on the training set alone"
)


@dataclass(frozen=True)
class Fitted:
    """A trained model."""

    model: NextItemModel  # on the device of the training
    training: TrainingReport
    counts: IntArray  # [V + 1] training events of each item index
    protocol: EvaluationProtocol  # of the validation metric
    cost: PassCost
    features: TrainedFeatures | None = None  # the item table of the model contains them already
    teacher: Teacher | None = None  # without its regression, which takes much memory
    training_of_teachers: TrainingReport | None = None  # None: no teacher, or a finished model that teaches its continuation
    pairs: tuple[ItemPairs, ...] = ()  # of the training set, that were fitted for the teacher

    @property
    def seconds_before_resume(self) -> float:
        """What earlier processes took for the epochs that this one did not repeat."""
        of_teachers = self.training_of_teachers.seconds_before_resume if self.training_of_teachers else 0.0
        return self.training.seconds_before_resume + of_teachers


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
        progress: called with (steps done, all) while a co-occurrence model is fitted, and with (targets ranked, all) during the
            evaluation.

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
        folder = None if out is None else training_folder(out)
        if folder is not None and is_first:  # locked to the end: the folder is removed there, and another training would lose it
            stack.enter_context(lock_folder(folder))
        fitted = fit(
            data,
            config,
            initial,
            folder=folder,
            is_locked=folder is not None,
            resume=resume,
            callbacks=callbacks,
            progress=progress,
        )
        trained = time.monotonic()
        tuned = tune(fitted.model, data, config, progress, fitted.pairs)
        fusion, baselines = tuned.fusion if tuned else None, config.evaluation.baselines
        comparison = compare(fitted.model, data, config, fitted.counts, fusion, progress, baselines=baselines)
        seconds = {
            **({"teachers": fitted.training_of_teachers.seconds} if fitted.training_of_teachers else {}),
            "training": fitted.training.seconds,
            "evaluation": time.monotonic() - trained,
            "total": time.monotonic() - began + fitted.seconds_before_resume,
        }
        artifact = _as_artifact(data, config, fitted, tuned, comparison, seconds)
        if config.training.final_fit:
            artifact = final_fit(
                artifact,
                data,
                config,
                fitted,
                initial,
                folder=folder,
                resume=bool(resume),
                callbacks=callbacks,
                progress=progress,
            )
        if start is not None:
            artifact = _continued(artifact, data, start, initial, progress, fitted.teacher)
        if data.features is not None:
            artifact = append_new_items(artifact, data.features)
        if out is not None and is_first:
            artifact = replace(artifact, report={**artifact.report, "artifact": str(out)})
            artifact.save(out)
        if folder is not None and is_first:
            shutil.rmtree(folder, ignore_errors=True)
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
    folder: Path | None = None,
    is_locked: bool = False,
    resume: bool | Literal["auto"] = False,
    callbacks: Sequence[Callback] = (),
    progress: Progress | None = None,
) -> Fitted:
    """Train a model from `initial`, by default that of the seed, with checkpoints in `folder`; other arguments as in `train`.

    Raises:
        ArtifactError: the folder cannot be written, there is nothing to resume, or another training writes there.
        BackendError: the accelerator is not available.
        ConfigError: the model reads the times of requests, and the data have none.
    """
    if config.backbone.request_time:
        check_clock(data.histories.clock)
    cost = pass_cost(data.split.train, config.training)
    _log_plan(data, config, cost)
    has_checkpoint = folder is not None and (folder / LAST).is_file()
    if not resume and folder is not None and any(folder.rglob(LAST)):
        logger.warning("%s holds an interrupted training; starting over (to continue it: Ctrl-C, and add --resume)", folder)
    initial = initial or initial_model(data, config)
    networks, of_teachers = _fit_teachers(data, config, initial, folder, resume=resume, callbacks=callbacks)
    teacher: Teacher | None = None
    pairs: tuple[ItemPairs, ...] = ()
    if networks is not None:
        teacher, pairs = _with_regression(networks, data, config, progress)
        logger.info("training the model with their predictions (training.teacher_weight = %g)", config.training.teacher_weight)
    model, training = _run_loop(
        initial,
        data.histories,
        data.split,
        config.training,
        # an interrupted training of teachers has no checkpoint of the model yet
        resume=bool(resume and has_checkpoint) if resume == "auto" or of_teachers else resume,
        restart="starting over" if resume == "auto" or _is_older(folder) else None,
        directory=folder,
        is_locked=is_locked,
        callbacks=callbacks,
        teacher=teacher,
    )
    features = _fold_features(model, data)
    model.to(resolve_device(config.training.accelerator))
    counts = training_counts(data.histories, data.split.train, len(data.catalog))
    protocol = make_protocol(data.histories, data.split.validation, len(data.catalog), split=data.split.protocol)
    teacher = teacher and replace(teacher, pairs=None)
    return Fitted(model, training, counts, protocol, cost, features, teacher, of_teachers, pairs)


def _is_older(folder: Path | None) -> bool:
    """Return whether the checkpoint of a model is older than that of its teachers: it is left from an earlier training."""
    if folder is None:
        return False
    of_model, of_teachers = folder / LAST, folder / TEACHERS / LAST
    return of_model.is_file() and of_teachers.is_file() and of_model.stat().st_mtime_ns < of_teachers.stat().st_mtime_ns


def _fit_teachers(
    data: Prepared,
    config: Config,
    initial: InitialModel,
    folder: Path | None,
    *,
    resume: bool | Literal["auto"],
    callbacks: Sequence[Callback],
) -> tuple[NextItemModel | None, TrainingReport | None]:
    """Train the networks whose predictions the model will learn, or take the finished model; None: the settings ask for none."""
    continues = initial.fingerprint is not None
    count = choose_teachers(config, data.histories, data.split, len(data.catalog), continues=continues)
    if not count:
        return None, None
    if continues and config.training.teachers == "auto":
        return initial.make(), None
    if config.training.samples(len(data.catalog)):
        raise ConfigError(
            f"training.teachers = {count} needs the scores of all items, but the softmax is sampled, as there are "
            f"{len(data.catalog):,} items; set training.softmax=full or training.teachers=0"
        )
    alone = {key: TrainingConfig.model_fields[key].default for key in TEACHING}
    of_teachers = config.replaced("backbone", members=count).replaced("training", **alone)
    logger.info("training the teachers: %d networks side by side", count)
    directory = None if folder is None else folder / TEACHERS
    if resume is True and folder is not None and (folder / LAST).is_file() and not (folder / TEACHERS / LAST).is_file():
        raise StateError(
            f"{folder} is the checkpoint of a training without teachers; continue it with --set training.teachers=0, or train "
            f"without --resume"
        )
    model, training = _run_loop(
        initial_model(data, of_teachers),
        data.histories,
        data.split,
        of_teachers.training,
        resume=directory is not None and (directory / LAST).is_file() if resume == "auto" else resume,
        restart="starting over" if resume == "auto" else None,
        directory=directory,
        callbacks=[each for each in callbacks if each.follows_teachers],
    )
    _fold_features(model, data)
    return model, training


def _with_regression(
    model: NextItemModel, data: Prepared, config: Config, progress: Progress | None
) -> tuple[Teacher, tuple[ItemPairs, ...]]:
    """Return the networks as a teacher, with the regression that the settings ask for, and all regressions that were fitted."""
    weight, kind = config.training.teacher_cooccurrence, config.training.teacher_cooccurrence_model
    if weight == "tuned" and config.training.objective == "masked-item":
        logger.info("training.teacher_cooccurrence = 0, as a regression does not read what follows a masked item")
        weight = 0.0
    if weight == "tuned" and not _most_take_part(data):
        logger.info("training.teacher_cooccurrence = 0, as a regression has room for %s items only", f"{MAX_ITEMS:,}")
        weight = 0.0
    if not weight:
        return Teacher(model), ()
    kinds = tuple(LEFT_OUT) if kind == "auto" else (kind,)
    model.to(resolve_device(config.training.accelerator))
    teacher, gain, fitted = Teacher(model), -math.inf, []
    for name in kinds:
        logger.info("fitting %s, whose scores are added to those of the teachers (training.teacher_cooccurrence)", name)
        left_out, pairs = fit_left_out(name, data, data.split.train, progress)
        fitted.append(pairs)
        if weight != "tuned" and len(kinds) == 1:
            return Teacher(model, left_out, weight, name), (pairs,)
        tuned = _tune_with(pairs, model, data, config, WEIGHTS if weight == "tuned" else (weight,), (0.0,), progress)
        logger.info(
            "%s, weight %g: validation ndcg@10 of the teachers %.4f without it, %.4f with it",
            name,
            tuned.fusion.weight,
            tuned.alone,
            tuned.ndcg,
        )
        if tuned.fusion.weight and tuned.gain[0] > gain:
            teacher, gain = Teacher(model, left_out, tuned.fusion.weight, name), tuned.gain[0]
    chosen = f", training.teacher_cooccurrence_model = {teacher.cooccurrence_model}" if teacher.weight else ""
    logger.info("training.teacher_cooccurrence = %g%s", teacher.weight, chosen)
    return teacher, tuple(fitted)


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


def tune(
    model: NextItemModel,
    data: Prepared,
    config: Config,
    progress: Progress | None = None,
    fitted: Sequence[ItemPairs] = (),
) -> TunedFusion | None:
    """Tune the score fusion that the settings ask for on the validation set; None: they ask for none.

    `fitted` has the co-occurrence models of the training set that were fitted before.
    """
    cooccurrence, repeat_bias = config.fusion.cooccurrence, config.fusion.repeat_bias
    if not cooccurrence and not repeat_bias:
        return None

    def tuned_with(pairs: ItemPairs) -> TunedFusion:
        weights = WEIGHTS if cooccurrence == "tuned" else (cooccurrence,)
        repeat_biases = REPEAT_BIASES if repeat_bias == "tuned" else (repeat_bias,)
        return _tune_with(pairs, model, data, config, weights, repeat_biases, progress)

    if not cooccurrence:
        tuned = tuned_with(SequentialRules.nothing(model.catalog_size))
    else:
        candidates: dict[str, TunedFusion] = {}
        known = {pairs.name: pairs for pairs in fitted}
        for name in _pair_models(config, data):
            if name not in known:
                logger.info("fitting the co-occurrence model, %s", name)
            candidates[name] = tuned_with(known.get(name) or fit_pairs(name, data, data.split.train, progress))
        gains = {name: each.gain[0] for name, each in candidates.items()}
        best = max(gains, key=gains.__getitem__)  # of equally good ones the first, which is the cheaper one
        tuned = candidates[best]
        if len(gains) > 1:
            tuned = replace(tuned, by_pairs=gains)
            shown = ", ".join(f"{name} {gain:.4f}" for name, gain in gains.items())
            logger.info("fusion.cooccurrence_model = %s, by its gain on the validation set: %s", best, shown)
    logger.info(
        "fusion.cooccurrence = %g, fusion.repeat_bias = %g: validation ndcg@10 %.4f, the model alone %.4f",
        tuned.fusion.weight,
        tuned.fusion.repeat_bias,
        tuned.ndcg,
        tuned.alone,
    )
    return tuned


def _tune_with(
    pairs: ItemPairs,
    model: NextItemModel,
    data: Prepared,
    config: Config,
    weights: Sequence[float],
    repeat_biases: Sequence[float],
    progress: Progress | None,
) -> TunedFusion:
    return tune_fusion(
        model,
        pairs,
        data.histories,
        data.split.validation,
        weights=weights,
        repeat_bias=repeat_biases,
        exclude_seen=config.evaluation.exclude_seen,
        token_budget=config.evaluation.token_budget,
        progress=progress,
        world=current_world(),
    )


def _pair_models(config: Config, data: Prepared) -> tuple[PairModel, ...]:
    """Return the co-occurrence models to choose from, the cheaper one first."""
    if config.fusion.cooccurrence_model != "auto":
        return (config.fusion.cooccurrence_model,)
    return ("sequential-rules", "sequential-ridge", "ease") if _most_take_part(data) else ("sequential-rules",)


def _most_take_part(data: Prepared) -> bool:
    """Return whether the items that take part in a regression have most of the interactions: it is tried only then."""
    if len(data.catalog) <= MAX_ITEMS:  # all items take part
        return True
    counts = np.sort(training_counts(data.histories, data.split.train, len(data.catalog)))
    return bool(counts[-MAX_ITEMS:].sum() >= AUTOMATIC_SHARE * max(counts.sum(), 1))


def fit_pairs(name: str, data: Prepared, train: Examples, progress: Progress | None = None) -> ItemPairs:
    """Fit a co-occurrence model on a training set; in a process group the first process does, and the others receive it."""
    world, catalog_size = current_world(), len(data.catalog)
    if world.is_first:
        pairs: ItemPairs = PAIR_MODELS[name].fit(*training_interactions(data.histories, train), catalog_size, progress=progress)
    else:
        pairs = PAIR_MODELS[name].nothing(catalog_size)
    return _shared(pairs)


def fit_left_out(name: PairModel, data: Prepared, train: Examples, progress: Progress | None = None) -> tuple[LeftOut, ItemPairs]:
    """Fit a regression on a training set, with and without each sequence; in a process group the first process does."""
    world, catalog_size = current_world(), len(data.catalog)
    left_out = LEFT_OUT[name].prepare(data.histories.items.astype(np.int64), train.start, train.stop, catalog_size)
    pairs: ItemPairs = left_out.solve(progress) if world.is_first else PAIR_MODELS[name].nothing(catalog_size)
    world.broadcast_(left_out.tensors)
    return left_out, _shared(pairs)


def _shared(pairs: Pairs) -> Pairs:
    """Return the co-occurrence model of the first process of a group."""
    world = current_world()
    count = torch.tensor(len(pairs.columns))
    world.broadcast_([count])
    if not world.is_first:
        pairs = type(pairs)(pairs.edges, np.zeros(int(count), np.int32), np.zeros(int(count), np.float32))
    world.broadcast_([torch.from_numpy(each) for each in (pairs.edges, pairs.columns, pairs.weights)])
    return pairs


def count_sequential_rules(data: Prepared, progress: Progress | None = None) -> SequentialRules:
    """Count the sequential-rules baseline on the training set."""
    return SequentialRules.fit(*training_interactions(data.histories, data.split.train), len(data.catalog), progress)


def final_fit(  # noqa: PLR0913 - the selection run, and the arguments of `fit`
    artifact: Artifact,
    data: Prepared,
    config: Config,
    fitted: Fitted,
    initial: InitialModel | None = None,
    *,
    folder: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: Progress | None = None,
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
    teacher = fitted.teacher
    pairs: ItemPairs | None = None
    if teacher is not None and teacher.cooccurrence_model:
        left_out, pairs = fit_left_out(teacher.cooccurrence_model, data, split.train, progress)
        teacher = replace(teacher, pairs=left_out)
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
        teacher=teacher,
    )
    counts = training_counts(data.histories, split.train, len(data.catalog))
    features = _fold_features(model, data)
    model.to(resolve_device(config.training.accelerator))
    fusion = artifact.fusion
    if fusion is not None and fusion.weight:
        if pairs is None or pairs.name != fusion.pairs.name:
            pairs = fit_pairs(fusion.pairs.name, data, split.train, progress)
        fusion = replace(fusion, pairs=pairs)
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


def _continued(
    artifact: Artifact,
    data: Prepared,
    start: Artifact,
    initial: InitialModel,
    progress: Progress | None,
    teacher: Teacher | None,
) -> Artifact:
    """Add what the model was before to the report, and keep its items recommendable."""
    known_items = len(start.catalog)
    only_known = replace(data.histories, items=np.where(data.histories.items > known_items, 0, data.histories.items))
    old_data, known_targets, misses = known_part(only_known, start.catalog, data.split, artifact.config)
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
        "is_taught": teacher is not None,
        "teacher_cooccurrence": teacher.weight if teacher else 0.0,
        "test": {"before": before, "after": artifact.report["test"]},
        "unknown_targets": known_targets.unranked,
    }
    return replace(artifact, report={**artifact.report, "continued": continued}, training_counts=counts)


def _describe_teachers(fitted: Fitted) -> dict[str, Any]:
    if fitted.teacher is None or fitted.training_of_teachers is None:
        return {}
    of_regression = {"cooccurrence": fitted.teacher.weight, "cooccurrence_model": fitted.teacher.cooccurrence_model}
    return {"teachers": {**asdict(fitted.training_of_teachers), **of_regression}}


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
        "model": describe_model(fitted.model, config),
        "validation": {MONITORED_METRIC: fitted.training.best_ndcg, "protocol": fitted.protocol.as_dict()},
        **measured,
        **_describe_teachers(fitted),
        "training": asdict(fitted.training),
        "pass": {"objective": config.training.objective, "tokens": fitted.cost.tokens, "targets": fitted.cost.targets},
        "seconds": seconds,
        "versions": versions(),
    }
    return Artifact(fitted.model, data.catalog, config, report, fitted.counts, comparison.fusion, fitted.features)
