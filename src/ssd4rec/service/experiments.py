"""Experiments on live traffic: who is given which model, and team-draft interleaving of two lists."""

import hashlib
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Engine

from ssd4rec.service.answering import LoadedModel
from ssd4rec.service.lifecycle import Models
from ssd4rec.service.store.connect import reading
from ssd4rec.service.store.experiments import Experiment, running_experiment

CONTROL, TREATMENT, INTERLEAVED = "control", "treatment", "interleaved"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arm:
    """The model, or the two models, that answer a user of an experiment."""

    variant: str  # name of the experiment / name of the arm
    versions: tuple[str, ...]  # two are interleaved; none: the active one


EVERYBODY = Arm("default", ())  # outside of experiments


class Pair(NamedTuple):
    """The two models of an experiment, which rank the same events."""

    experiment: str  # its name
    control: LoadedModel
    treatment: LoadedModel


def position_of(experiment: str, user_id: str) -> float:
    """Return the place of a user in [0, 1): the same in every process, independent between experiments."""
    digest = hashlib.sha256(f"{experiment}\0{user_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def arm_of(experiment: Experiment, user_id: str) -> Arm | None:
    """Return what an experiment gives to a user; None: what everybody is given."""
    is_treated = position_of(experiment.name, user_id) < experiment.share
    if experiment.kind == "ab":
        arm = TREATMENT if is_treated else CONTROL
        return Arm(f"{experiment.name}/{arm}", (experiment.treatment if is_treated else experiment.control,))
    if experiment.kind == "interleaving" and is_treated:
        return Arm(f"{experiment.name}/{INTERLEAVED}", (experiment.control, experiment.treatment))
    return None


def team_draft(first: Sequence[str], second: Sequence[str], k: int, chance: random.Random) -> list[tuple[str, int]]:
    """Interleave two rankings (Radlinski, Kurup and Joachims, 2008).

    In each round a coin decides which team picks first; each team adds its best item that is not in the list yet.

    Returns:
        At most k item ids, each with its team: 0 or 1.
    """
    drafted: list[tuple[str, int]] = []
    taken: set[str] = set()
    waiting = (iter(first), iter(second))
    exhausted = [False, False]
    while len(drafted) < k and not all(exhausted):
        order = (0, 1) if chance.random() < 0.5 else (1, 0)
        for team in order:
            pick = next((item for item in waiting[team] if item not in taken), None)
            exhausted[team] = pick is None
            if pick is not None and len(drafted) < k:
                taken.add(pick)
                drafted.append((pick, team))
    return drafted


class Experiments:
    """The running experiment, as the store says; its models are loaded next to the active one."""

    def __init__(self, engine: Engine, models: Models) -> None:
        self._engine, self._models = engine, models
        self._running: Experiment | None = None  # once both of its models are loaded
        self._failed: str | None = None

    def refresh(self) -> None:
        """Read which experiment runs, and load its models."""
        with reading(self._engine) as connection:
            experiment = running_experiment(connection)
        if experiment == self._running or (experiment is not None and experiment.name == self._failed):
            return
        self._running = None
        try:
            self._models.require(() if experiment is None else (experiment.control, experiment.treatment))
        except Exception as error:  # noqa: BLE001 - the service answers without the experiment
            self._failed = None if experiment is None else experiment.name
            log.warning("the experiment %s does not run in this process: %s", self._failed, error)
            return
        self._failed, self._running = None, experiment
        if experiment is not None:
            log.info(
                "experiment %s (%s): %s against %s", experiment.name, experiment.kind, experiment.control, experiment.treatment
            )

    def arm_of(self, user_id: str | None) -> Arm | None:
        """Return what a user is given; None: the active model."""
        experiment = self._running
        return None if experiment is None or user_id is None else arm_of(experiment, user_id)

    def pair(self) -> Pair | None:
        """Return the models of the running experiment."""
        if (experiment := self._running) is None:
            return None
        control, treatment = self._models.is_loaded(experiment.control), self._models.is_loaded(experiment.treatment)
        return None if control is None or treatment is None else Pair(experiment.name, control, treatment)
