"""Hyperparameter search with Optuna: stored in a folder, resumable, with pruning of poor trials.

Only the validation set is looked at.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
import torch
from optuna.trial import Trial, TrialState

from ssd4rec._io import write_atomically
from ssd4rec.config import Config, dump_config
from ssd4rec.errors import ArtifactError, ConfigError, DivergedError
from ssd4rec.models.next_item import make_model
from ssd4rec.pipeline import Prepared
from ssd4rec.training.callbacks import Callback
from ssd4rec.training.checkpoint import LAST
from ssd4rec.training.loop import TrainingLoop, fit
from ssd4rec.tuning.space import Dimension, Value, with_values
from ssd4rec.tuning.study import (
    BEST,
    DATABASE,
    FAILED,
    TRIALS,
    UNPRUNED_TRIALS,
    alone_in,
    finished,
    frozen,
    open_study,
    quiet,
    readable,
    reported_before,
    requeue_interrupted,
    sampler,
    suggest,
)

logger = logging.getLogger(__name__)

REFUSED = "refused"  # what is kept of a trial that its settings ended
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


class _OutOfTimeError(Exception):
    """The time limit was reached; the trial's checkpoint stays."""


class _Pruning(Callback):
    """Reports each epoch to the search; stops a trial below the median of the others, or at the time limit."""

    def __init__(self, trial: Trial, reported: set[int], deadline: float | None) -> None:
        self._trial = trial
        self._reported = reported
        self._deadline = deadline

    def on_epoch_start(self, loop: TrainingLoop) -> None:
        """Stop if the time is over: at the start of an epoch, when the last one is in the checkpoint."""
        del loop
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise _OutOfTimeError

    def on_epoch_end(self, loop: TrainingLoop) -> None:
        """Report the epoch, and stop a trial that is worse than the others."""
        last = loop.history[-1]
        if last.epoch not in self._reported:
            self._trial.report(last.ndcg, last.epoch)
        if last.epoch < loop.max_epochs and self._trial.should_prune():
            raise optuna.TrialPruned


def search(
    data: Prepared,
    config: Config,
    space: Sequence[Dimension],
    folder: str | Path,
    *,
    trials: int = 30,
    minutes: float | None = None,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
) -> SearchReport:
    """Try settings until enough trials are finished, and write the best ones to `best.toml`; the test set is not used.

    Args:
        data: from `prepare`.
        config: what every trial has where the space chooses nothing.
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
    place = Path(folder)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    with alone_in(place), readable(place / DATABASE), quiet():
        study = open_study(place, data, config, space)
        requeue_interrupted(study)
        _write_best(study, config, place)  # an earlier run may have ended before it could
        stopped = "trials"
        while len(finished(study)) < trials:
            if deadline is not None and time.monotonic() > deadline:
                stopped = "minutes"
                break
            study.sampler = sampler(study, seed)
            trial = study.ask()
            try:
                _run(study, trial, data, config, space, place, deadline, callbacks)
            except (_OutOfTimeError, KeyboardInterrupt) as error:
                requeue_interrupted(study)
                if isinstance(error, KeyboardInterrupt):
                    raise
                stopped = "minutes"
                break
            except Exception as error:
                trial.set_user_attr(FAILED, repr(error))
                study.tell(trial, state=TrialState.FAIL)
                raise
            _write_best(study, config, place)
            logger.info(_line(study, len(finished(study)), trials))
        return _report(study, place, stopped)


def _run(
    study: optuna.Study,
    trial: Trial,
    data: Prepared,
    config: Config,
    space: Sequence[Dimension],
    place: Path,
    deadline: float | None,
    callbacks: Sequence[Callback],
) -> None:
    values = {dimension.name: suggest(trial, dimension) for dimension in space}
    same = next((each for each in finished(study) if each.params == trial.params), None)
    if same is not None:  # never learned twice; counted, so that a small space comes to an end
        for name, value in same.user_attrs.items():
            trial.set_user_attr(name, value)
        study.tell(trial, None if same.state is TrialState.PRUNED else same.value, state=same.state)
        return
    try:
        trial_config = with_values(config, values, source="not possible")
        model = make_model(trial_config, len(data.catalog), data.features)
    except ConfigError as error:
        _refuse(study, trial, str(error))
        return
    state = place / TRIALS / hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
    resume = (state / LAST).is_file()
    earlier = reported_before(study, trial) if resume else {}
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
        history = frozen(study, trial).intermediate_values
        trial.set_user_attr("epochs", len(history))
        trial.set_user_attr("ndcg", max(history.values()))
        study.tell(trial, state=TrialState.PRUNED)
    except OF_THE_VALUES as error:
        epochs = len(frozen(study, trial).intermediate_values)
        trial.set_user_attr("epochs", epochs)
        what = "diverged" if isinstance(error, DivergedError) else "out of memory"
        _refuse(study, trial, f"not possible: {what} in epoch {epochs + 1}")
    else:
        trial.set_user_attr("epochs", len(report.history))
        trial.set_user_attr("ndcg", report.best_ndcg)
        study.tell(trial, report.best_ndcg)
    shutil.rmtree(state, ignore_errors=True)


def _refuse(study: optuna.Study, trial: Trial, why: str) -> None:
    trial.set_user_attr(REFUSED, why)
    study.tell(trial, state=TrialState.PRUNED)


def _write_best(study: optuna.Study, config: Config, place: Path) -> None:
    if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        best = study.best_trial
        number = 1 + [trial.number for trial in finished(study)].index(best.number)
        text = f"# validation NDCG@10 {best.value:.4f}, trial {number}\n{dump_config(with_values(config, best.params))}"
        try:
            write_atomically(place / BEST, text)
        except OSError as error:
            raise ArtifactError(
                f"cannot write {place / BEST}: {error.strerror or error}; free some space and run the same command again"
            ) from error


def _line(study: optuna.Study, done: int, trials: int) -> str:
    last = finished(study)[-1]
    if refused := last.user_attrs.get(REFUSED):
        return f"trial {done} of {trials}: {refused}"
    best = max((trial.user_attrs["ndcg"] for trial in finished(study) if trial.state is TrialState.COMPLETE), default=0.0)
    how = "pruned" if last.state is TrialState.PRUNED else "finished"
    epochs, ndcg = last.user_attrs["epochs"], last.user_attrs["ndcg"]
    return f"trial {done} of {trials}: {how} after {epochs} epochs, validation NDCG@10 {ndcg:.4f}, best {best:.4f}"


def _report(study: optuna.Study, place: Path, stopped: str) -> SearchReport:
    results = [
        TrialResult(
            number=number,
            values=trial.params,
            ndcg=trial.user_attrs.get("ndcg"),
            epochs=trial.user_attrs.get("epochs", 0),
            pruned=trial.state is TrialState.PRUNED,
            refused=trial.user_attrs.get(REFUSED),
        )
        for number, trial in enumerate(finished(study), start=1)
    ]
    results.sort(key=lambda result: (result.pruned, -(result.ndcg or 0.0)))
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    enough = len(complete) >= UNPRUNED_TRIALS and len({trial.value for trial in complete}) > 1
    importance = optuna.importance.get_param_importances(study) if enough else {}
    return SearchReport(tuple(results), importance, place / BEST if complete else None, stopped)
