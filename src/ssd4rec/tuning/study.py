"""The trials of a search as Optuna keeps them, in a database in the search's folder."""

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

from ssd4rec.config import Config
from ssd4rec.errors import ArtifactError
from ssd4rec.pipeline import Prepared
from ssd4rec.tuning.folder import BEST, DATABASE, identity
from ssd4rec.tuning.space import Dimension, Value

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
FAILED = "failed"  # what is kept of a trial that an error ended
UNPRUNED_TRIALS, UNPRUNED_EPOCHS = 4, 2  # a median needs something to be the median of


@contextmanager
def readable(database: Path) -> Iterator[None]:
    """What the database cannot do is an `ArtifactError` that names it."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        why = str(getattr(error, "orig", None) or error.__cause__ or error).partition("\n")[0]
        raise ArtifactError(
            f"cannot use {database}: {why}; free some space if there is none; if it is damaged, give another --out"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing of Optuna's own on the screen."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def open_study(place: Path, data: Prepared, config: Config, space: Sequence[Dimension]) -> optuna.Study:
    """The study in a folder, made there if there is none.

    Raises:
        ArtifactError: what is kept there is another search.
    """
    # by a function: in a URL a folder named q?a=1 would be another one
    connect = partial(sqlite3.connect, place / DATABASE, check_same_thread=False)
    study = optuna.create_study(
        storage=optuna.storages.RDBStorage(f"sqlite:///{DATABASE}", engine_kwargs={"creator": connect}),
        study_name="search",
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS, n_warmup_steps=UNPRUNED_EPOCHS),
        load_if_exists=True,
    )
    ours = identity(data, config, space)
    found: Mapping[str, Any] | None = study.user_attrs.get("identity")
    if found is None and (place / BEST).is_file():
        raise ArtifactError(
            f"{place} holds {BEST} of an earlier search, but {DATABASE} knows no trial of it; give another --out, or "
            f"remove {BEST}"
        )
    if found is None:
        study.set_user_attr("identity", ours)
    elif found != ours:
        different = [key for key in ours if found.get(key) != ours[key]]
        raise ArtifactError(
            f"{place} holds a search with other {' and '.join(different)}; go on with the same arguments, or give another --out"
        )
    return study


def take_up(study: optuna.Study) -> None:
    """A trial that was cut off is the next one again, with the same values; its training goes on where it was."""
    waiting = [trial.system_attrs.get("fixed_params") for trial in study.get_trials(states=(TrialState.WAITING,))]
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        # killed before all values were chosen: none of it was learned
        if trial.params and trial.params not in waiting:
            study.enqueue_trial(trial.params)
        study.tell(trial.number, state=TrialState.FAIL)


def reported_before(study: optuna.Study, trial: Trial) -> dict[int, float]:
    """Validation NDCG@10 by epoch, as far as a trial of the same values was learned before it was cut off."""
    histories = [each.intermediate_values for each in study.get_trials(states=(TrialState.FAIL,)) if each.params == trial.params]
    return max(histories, key=len, default={})


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count: learned to their end, or pruned."""
    return study.get_trials(deepcopy=False, states=DONE)


def frozen(study: optuna.Study, trial: Trial) -> FrozenTrial:
    """A trial under way, with what it has reported so far."""
    return study.get_trials(deepcopy=False)[trial.number]


def sampler(study: optuna.Study, seed: int) -> optuna.samplers.BaseSampler:
    """Of the next trial: its values follow from the seed and the trials before it, however often the search was stopped."""
    # one that failed counts, or the same values would fail for ever
    failed = [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)) if FAILED in trial.user_attrs]
    mixed = np.random.SeedSequence((seed, len(finished(study)) + len(failed)))
    return optuna.samplers.TPESampler(seed=int(mixed.generate_state(1)[0]))


def suggest(trial: Trial, dimension: Dimension) -> Value:
    """A value for one setting, between its ends or among its choices."""
    if dimension.choices:
        chosen: Any = trial.suggest_categorical(dimension.name, dimension.choices)
        return cast("Value", chosen)
    if dimension.whole:
        return trial.suggest_int(dimension.name, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(dimension.name, dimension.low, dimension.high, log=dimension.log)
