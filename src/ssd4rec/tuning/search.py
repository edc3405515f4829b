"""Hyperparameter search with Optuna: stored in a folder, resumable, with pruning of poor trials.

Only the validation set is looked at.
"""

import hashlib
import json
import logging
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from ssd4rec._io import exclusive_lock, write_atomically
from ssd4rec.artifact import MANIFEST
from ssd4rec.config import Config, dump_config
from ssd4rec.errors import ArtifactError, ConfigError, DivergedError
from ssd4rec.models.next_item import make_model
from ssd4rec.pipeline import Prepared
from ssd4rec.training.callbacks import Callback
from ssd4rec.training.checkpoint import LAST
from ssd4rec.training.loop import TrainingLoop, fit
from ssd4rec.training.setup import automatic_input_dropout, interactions_per_item
from ssd4rec.tuning.space import Space, Value, describe_space, own_values, with_values

logger = logging.getLogger(__name__)

DATABASE, BEST, TRIALS = "search.db", "best.toml", "trials"
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
UNPRUNED_TRIALS, UNPRUNED_EPOCHS = 4, 2  # before them, too few values for a median
OF_THE_VALUES = (DivergedError, torch.OutOfMemoryError)  # with other values it may be learned; any other error ends the search


@dataclass(frozen=True)
class TrialResult:
    """One set of values and its outcome."""

    number: int  # 1 is the first that was finished or pruned; one that was cut off or failed has none
    values: dict[str, Value]
    ndcg: float | None  # best validation NDCG@10 of any epoch; None: never learned
    epochs: int
    pruned: bool
    refused: str | None = None  # why these values cannot be had together, or could not be learned with


@dataclass(frozen=True)
class SearchReport:
    """The outcome of a search so far, including earlier runs in the same folder."""

    trials: tuple[TrialResult, ...]  # best first
    importance: dict[str, float]  # share of the differences that a setting explains; empty below 4 finished trials
    best_file: Path | None  # None: no trial was finished
    stopped: str  # "trials" or "minutes"


def search(
    data: Prepared,
    config: Config,
    space: Space,
    folder: str | Path,
    *,
    trials: int = 30,
    minutes: float | None = None,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
) -> SearchReport:
    """Try settings until enough trials are finished, and write the best ones to `best.toml`; the test set is not used.

    The first trial has the values of `config`, or the nearest ones of an interval, as far as the space contains them.

    Args:
        data: from `prepare`.
        config: what every trial has where the space chooses nothing; trials have no teachers.
        space: from `make_space`.
        folder: where the search is kept; a search that is there already is resumed.
        trials: finished and pruned trials in all, those of earlier runs included.
        minutes: of this run; the trial that is under way is resumed by the next run.
        seed: of the choice of values; each trial's weights follow `training.seed`.
        callbacks: added to those of the search, e.g. a progress bar.

    Returns:
        All trials, the importance of each setting, where the best settings lie.

    Raises:
        ArtifactError: the folder or its database cannot be used, another search is kept there, or another process is at it.
        KeyboardInterrupt: interrupted; the same call goes on.
    """
    config = config.replaced("training", teachers=0)
    place = Path(folder)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    with _search_folder(place):
        study = _open_study(place, data, config, space)
        _requeue_interrupted(study)
        _write_best(study, config, place)  # an earlier run may have ended before it could
        stopped = "trials"
        while len(_counted(study)) < trials:
            if deadline is not None and time.monotonic() > deadline:
                stopped = "minutes"
                break
            study.sampler = _sampler(study, seed)
            trial = study.ask(dict(space))
            try:
                _run(study, trial, data, config, place, deadline, callbacks)
            except (_OutOfTimeError, KeyboardInterrupt) as error:
                _requeue_interrupted(study)
                if isinstance(error, KeyboardInterrupt):
                    raise
                stopped = "minutes"
                break
            except Exception as error:
                _end(study, trial, TrialState.FAIL, failed=repr(error))
                raise
            _write_best(study, config, place)
            logger.info(_line(study, trials))
        return _report(study, place, stopped)


@contextmanager
def _search_folder(place: Path) -> Iterator[None]:
    """Create and lock the folder of a search inside the block, where Optuna logs nothing.

    Raises:
        ArtifactError: it cannot be made or written, holds a finished model, another process holds it, or the block cannot use
            the database.
    """
    busy = ArtifactError(f"another search is running in {place}; wait for it, or choose another --out")

    def refused(why: str) -> ArtifactError:
        return ArtifactError(f"{place} cannot be the folder of a search: {why}; choose another --out")

    try:
        has_model = (place / MANIFEST).is_file()
    except OSError as error:  # a name that is too long
        raise refused(error.strerror or str(error)) from error
    if has_model:
        raise ArtifactError(f"{place} contains a finished model, not a search; choose another --out")
    level = optuna.logging.get_verbosity()
    with exclusive_lock(place / "lock", busy, refused):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            yield
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            why = str(getattr(error, "orig", None) or error.__cause__ or error).partition("\n")[0]
            raise ArtifactError(
                f"cannot use {place / DATABASE}: {why}; free some space if there is none; if it is damaged, choose another --out"
            ) from error
        finally:
            optuna.logging.set_verbosity(level)


def _open_study(place: Path, data: Prepared, config: Config, space: Space) -> optuna.Study:
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
    settings = {f"{group}.{key}": value for group, keys in config.model_dump(mode="json").items() for key, value in keys.items()}
    ours = {
        "data": data.histories.fingerprint(),
        **({} if data.features is None else {"features": data.features.fingerprint()}),
        "space": describe_space(space),
        "settings": {name: value for name, value in settings.items() if name not in space},
    }
    saved: Mapping[str, Any] | None = study.user_attrs.get("identity")
    if saved is None and (place / BEST).is_file():
        raise ArtifactError(
            f"{place} has {BEST} of an earlier search, but {DATABASE} has no trial of it; choose another --out, or remove {BEST}"
        )
    if saved is None:
        study.enqueue_trial(_first_values(data, config, space), skip_if_exists=True)
        study.set_user_attr("identity", ours)
    elif saved != ours:
        different = [key for key in {**ours, **saved} if saved.get(key) != ours.get(key)]
        raise ArtifactError(
            f"{place} has a search with other {' and '.join(different)}; use the same arguments, or choose another --out"
        )
    return study


def _first_values(data: Prepared, config: Config, space: Space) -> dict[str, Value]:
    """Return the values of the settings as far as the space contains them, with the input dropout that "auto" would choose."""
    own = own_values(config, space)
    name = "backbone.input_dropout"
    if config.backbone.input_dropout == "auto" and name in space and name not in own:
        per_item = interactions_per_item(data.histories, data.split, len(data.catalog))
        return own_values(with_values(config, {name: automatic_input_dropout(per_item)}), space)
    return own


def _requeue_interrupted(study: optuna.Study) -> None:
    """Queue an interrupted trial again with the same values; its training resumes."""
    waiting = [trial.system_attrs.get("fixed_params") for trial in study.get_trials(states=(TrialState.WAITING,))]
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        # killed before all values were chosen: nothing was trained
        if trial.params and trial.params not in waiting:
            study.enqueue_trial(trial.params)
        study.tell(trial.number, state=TrialState.FAIL)


def _counted(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count: completed or pruned."""
    return study.get_trials(deepcopy=False, states=COUNTED)


def _sampler(study: optuna.Study, seed: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of the next trial; its values depend on the seed and the earlier trials, not on interruptions."""
    # failed trials count too, or the same values would fail forever
    failed = [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)) if "failed" in trial.user_attrs]
    mixed = np.random.SeedSequence((seed, len(_counted(study)) + len(failed)))
    return optuna.samplers.TPESampler(seed=int(mixed.generate_state(1)[0]))


def _run(
    study: optuna.Study,
    trial: Trial,
    data: Prepared,
    config: Config,
    place: Path,
    deadline: float | None,
    callbacks: Sequence[Callback],
) -> None:
    """Train a model with the values of a trial, or resume it, and store the outcome."""
    same = next((each for each in _counted(study) if each.params == trial.params), None)
    if same is not None:  # never learned twice; counted, so that a small space comes to an end
        _end(study, trial, same.state, None if same.state is TrialState.PRUNED else same.value, **same.user_attrs)
        return
    try:
        trial_config = with_values(config, trial.params, source="not possible")
        model = make_model(trial_config, len(data.catalog), data.features)
    except ConfigError as error:
        _end(study, trial, TrialState.PRUNED, refused=str(error))
        return
    state = place / TRIALS / hashlib.sha256(json.dumps(trial.params, sort_keys=True).encode()).hexdigest()[:16]
    resume = (state / LAST).is_file()
    interrupted = [
        each.intermediate_values for each in study.get_trials(states=(TrialState.FAIL,)) if each.params == trial.params
    ]
    earlier = max(interrupted, key=len, default={}) if resume else {}
    for epoch, ndcg in earlier.items():
        trial.report(ndcg, epoch)
    try:
        report = fit(
            model,
            data.histories,
            data.split,
            trial_config.training,
            directory=state,
            resume=resume,
            callbacks=[*callbacks, _Pruning(trial, set(earlier), deadline)],
        )
    except optuna.TrialPruned:
        history = _validations(study, trial)
        _end(study, trial, TrialState.PRUNED, epochs=len(history), ndcg=max(history.values()))
    except OF_THE_VALUES as error:
        epochs = len(_validations(study, trial))
        what = "diverged" if isinstance(error, DivergedError) else "out of memory"
        _end(study, trial, TrialState.PRUNED, epochs=epochs, refused=f"not possible: {what} in epoch {epochs + 1}")
    else:
        _end(study, trial, TrialState.COMPLETE, report.best_ndcg, epochs=len(report.history), ndcg=report.best_ndcg)
    shutil.rmtree(state, ignore_errors=True)


def _validations(study: optuna.Study, trial: Trial) -> dict[int, float]:
    """Return the NDCG@10 that a running trial has reported so far, by epoch."""
    return study.get_trials(deepcopy=False)[trial.number].intermediate_values


def _end(study: optuna.Study, trial: Trial, state: TrialState, value: float | None = None, **attributes: Any) -> None:
    """Store the outcome of a trial, and as user attributes its epochs, NDCG@10, or why it failed or was refused."""
    for name, attribute in attributes.items():
        trial.set_user_attr(name, attribute)
    study.tell(trial, value, state)


class _OutOfTimeError(Exception):
    """The time limit was reached; the trial's checkpoint stays."""


@dataclass
class _Pruning(Callback):
    """Reports each epoch to the search; stops a trial below the median of the others, or at the time limit."""

    trial: Trial
    reported: set[int]  # epochs of an earlier run
    deadline: float | None

    def on_epoch_start(self, loop: TrainingLoop) -> None:  # noqa: ARG002 - a callback is given the loop
        """Stop if the time is over: at the start of an epoch, when the last one is in the checkpoint."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise _OutOfTimeError

    def on_epoch_end(self, loop: TrainingLoop) -> None:
        """Report the epoch, and stop a trial that is worse than the others."""
        last = loop.history[-1]
        if last.epoch not in self.reported:
            self.trial.report(last.ndcg, last.epoch)
        if last.epoch < loop.max_epochs and self.trial.should_prune():
            raise optuna.TrialPruned


def _write_best(study: optuna.Study, config: Config, place: Path) -> None:
    if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        best = study.best_trial
        number = 1 + [trial.number for trial in _counted(study)].index(best.number)
        text = f"# validation NDCG@10 {best.value:.4f}, trial {number}\n{dump_config(with_values(config, best.params))}"
        try:
            write_atomically(place / BEST, text)
        except OSError as error:
            raise ArtifactError(
                f"cannot write {place / BEST}: {error.strerror or error}; free some space and run the same command again"
            ) from error


def _line(study: optuna.Study, trials: int) -> str:
    counted = _counted(study)
    last = counted[-1]
    head = f"trial {len(counted)} of {trials}"
    if refused := last.user_attrs.get("refused"):
        return f"{head}: {refused}"
    best = max((trial.user_attrs["ndcg"] for trial in counted if trial.state is TrialState.COMPLETE), default=0.0)
    how = "pruned" if last.state is TrialState.PRUNED else "finished"
    epochs, ndcg = last.user_attrs["epochs"], last.user_attrs["ndcg"]
    return f"{head}: {how} after {epochs} epoch{'' if epochs == 1 else 's'}, validation NDCG@10 {ndcg:.4f}, best {best:.4f}"


def _report(study: optuna.Study, place: Path, stopped: str) -> SearchReport:
    results = [
        TrialResult(
            number=number,
            values=trial.params,
            ndcg=trial.user_attrs.get("ndcg"),
            epochs=trial.user_attrs.get("epochs", 0),
            pruned=trial.state is TrialState.PRUNED,
            refused=trial.user_attrs.get("refused"),
        )
        for number, trial in enumerate(_counted(study), start=1)
    ]
    results.sort(key=lambda result: (result.pruned, -(result.ndcg or 0.0)))
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    enough = len(complete) >= UNPRUNED_TRIALS and len({trial.value for trial in complete}) > 1
    importance = optuna.importance.get_param_importances(study) if enough else {}
    return SearchReport(tuple(results), importance, place / BEST if complete else None, stopped)
