"""The folder of a search: its lock, its identity, and the trials that Optuna stores there in a database."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from ssd4rec._io import exclusive_lock
from ssd4rec.artifact import MANIFEST
from ssd4rec.config import Config
from ssd4rec.errors import ArtifactError
from ssd4rec.pipeline import Prepared
from ssd4rec.tuning.space import Dimension, Value

DATABASE, BEST, TRIALS = "search.db", "best.toml", "trials"
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
FAILED = "failed"  # user attribute of a trial that ended with an error
UNPRUNED_TRIALS, UNPRUNED_EPOCHS = 4, 2  # before them, too few values for a median


@contextmanager
def alone_in(place: Path) -> Iterator[None]:
    """Create the folder of a search and lock it inside the block.

    Raises:
        ArtifactError: it cannot be made or written, holds a finished model, or another process holds it.
    """
    busy = ArtifactError(f"another search is running in {place}; wait for it, or choose another --out")

    def refused(why: str) -> ArtifactError:
        return ArtifactError(f"{place} cannot be the folder of a search: {why}; choose another --out")

    try:
        finished = (place / MANIFEST).is_file()
    except OSError as error:  # a name that is too long
        raise refused(error.strerror or str(error)) from error
    if finished:
        raise ArtifactError(f"{place} contains a finished model, not a search; choose another --out")
    with exclusive_lock(place / "lock", busy, refused):
        yield


@contextmanager
def readable(database: Path) -> Iterator[None]:
    """Raise errors of the database as an `ArtifactError` with its path."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        why = str(getattr(error, "orig", None) or error.__cause__ or error).partition("\n")[0]
        raise ArtifactError(
            f"cannot use {database}: {why}; free some space if there is none; if it is damaged, choose another --out"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's own log messages."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def _identity(data: Prepared, config: Config, space: Sequence[Dimension]) -> dict[str, Any]:
    """Return the settings and data that all trials of a search share."""
    searched = {dimension.name for dimension in space}
    settings = {
        f"{group}.{key}": value
        for group, keys in config.model_dump(mode="json").items()
        for key, value in keys.items()
        if f"{group}.{key}" not in searched
    }
    features = {} if data.features is None else {"features": data.features.fingerprint()}
    space_of = [str(dimension) for dimension in space]
    return {"data": data.histories.fingerprint(), **features, "space": space_of, "settings": settings}


def open_study(place: Path, data: Prepared, config: Config, space: Sequence[Dimension]) -> optuna.Study:
    """Open the study in a folder, or create it.

    Raises:
        ArtifactError: the folder belongs to another search.
    """
    # a function instead of a URL, in which a folder named q?a=1 would be misread
    connect = partial(sqlite3.connect, place / DATABASE, check_same_thread=False)
    study = optuna.create_study(
        storage=optuna.storages.RDBStorage(f"sqlite:///{DATABASE}", engine_kwargs={"creator": connect}),
        study_name="search",
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS, n_warmup_steps=UNPRUNED_EPOCHS),
        load_if_exists=True,
    )
    ours = _identity(data, config, space)
    saved: Mapping[str, Any] | None = study.user_attrs.get("identity")
    if saved is None and (place / BEST).is_file():
        raise ArtifactError(
            f"{place} has {BEST} of an earlier search, but {DATABASE} has no trial of it; choose another --out, or remove {BEST}"
        )
    if saved is None:
        study.set_user_attr("identity", ours)
    elif saved != ours:
        different = [key for key in {**ours, **saved} if saved.get(key) != ours.get(key)]
        raise ArtifactError(
            f"{place} has a search with other {' and '.join(different)}; use the same arguments, or choose another --out"
        )
    return study


def requeue_interrupted(study: optuna.Study) -> None:
    """Queue an interrupted trial again with the same values; its training resumes."""
    waiting = [trial.system_attrs.get("fixed_params") for trial in study.get_trials(states=(TrialState.WAITING,))]
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        # killed before all values were chosen: nothing was trained
        if trial.params and trial.params not in waiting:
            study.enqueue_trial(trial.params)
        study.tell(trial.number, state=TrialState.FAIL)


def reported_before(study: optuna.Study, trial: Trial) -> dict[int, float]:
    """Return validation NDCG@10 by epoch of an interrupted trial with the same values."""
    histories = [each.intermediate_values for each in study.get_trials(states=(TrialState.FAIL,)) if each.params == trial.params]
    return max(histories, key=len, default={})


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count: completed or pruned."""
    return study.get_trials(deepcopy=False, states=DONE)


def frozen(study: optuna.Study, trial: Trial) -> FrozenTrial:
    """Return a running trial with its reports so far."""
    return study.get_trials(deepcopy=False)[trial.number]


def sampler(study: optuna.Study, seed: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of the next trial; its values depend on the seed and the earlier trials, not on interruptions."""
    # failed trials count too, or the same values would fail forever
    failed = [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)) if FAILED in trial.user_attrs]
    mixed = np.random.SeedSequence((seed, len(finished(study)) + len(failed)))
    return optuna.samplers.TPESampler(seed=int(mixed.generate_state(1)[0]))


def suggest(trial: Trial, dimension: Dimension) -> Value:
    """Suggest a value for one setting, from its interval or its choices."""
    if dimension.choices:
        choice: Any = trial.suggest_categorical(dimension.name, dimension.choices)
        return cast("Value", choice)
    if dimension.whole:
        return trial.suggest_int(dimension.name, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(dimension.name, dimension.low, dimension.high, log=dimension.log)
