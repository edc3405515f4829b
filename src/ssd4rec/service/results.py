"""Results of an experiment: click-through and hit rates of its arms, wins of an interleaving, the paired comparison."""

import json
from dataclasses import dataclass, field

from sqlalchemy import Connection

from ssd4rec.service.experiments import CONTROL, INTERLEAVED, TREATMENT
from ssd4rec.service.intervals import Interval, Paired, newcombe, paired, wilson
from ssd4rec.service.live import DIFFERENCE, RANKED, SQUARES
from ssd4rec.service.store.experiments import Experiment, clicks, exposures, next_events
from ssd4rec.service.store.live import experiment_sums


@dataclass
class ArmResult:
    """What became of the answers of one arm."""

    arm: str
    answers: int = 0
    users: int = 0
    clicked: int = 0  # answers with an event of one of their items that names the answer
    followed: int = 0  # answers after which the user had another event
    hits: int = 0  # of them: the next event was of one of the items

    @property
    def click_through_interval(self) -> Interval:
        """Wilson interval of clicked / answers."""
        return wilson(self.clicked, self.answers)

    @property
    def hit_rate_interval(self) -> Interval:
        """Wilson interval of hits / followed."""
        return wilson(self.hits, self.followed)


@dataclass
class Interleaving:
    """Answers that one team won: with more of its items clicked."""

    control_wins: int = 0
    treatment_wins: int = 0
    ties: int = 0  # of answers with a click

    @property
    def interval(self) -> Interval:
        """Wilson interval of the share of the treatment among the answers that one team won."""
        return wilson(self.treatment_wins, self.control_wins + self.treatment_wins)


@dataclass
class ExperimentResult:
    """Everything that is known about an experiment."""

    arms: list[ArmResult] = field(default_factory=list)
    difference: Interval | None = None  # of the click-through rates, treatment minus control
    interleaving: Interleaving | None = None
    ranked_events: int = 0  # that both models ranked
    paired: Paired | None = None  # treatment minus control in NDCG@10 of the same events


def experiment_result(connection: Connection, experiment: Experiment) -> ExperimentResult:
    """Compute the results from the stored answers, events and sums.

    Answers that the retention or an erasure removed do not count any more.
    """
    result = ExperimentResult()
    names = {"ab": (CONTROL, TREATMENT), "interleaving": (INTERLEAVED,)}.get(experiment.kind, ())
    arms = {f"{experiment.name}/{name}": ArmResult(name) for name in names}
    for variant, (answers, users) in exposures(connection, list(arms)).items() if arms else ():
        arms[variant].answers, arms[variant].users = answers, users
    if arms:
        result.interleaving = _count_clicks(connection, arms, is_interleaved=experiment.kind == "interleaving")
        for variant, items, item in next_events(connection, list(arms)):
            arms[variant].followed += 1
            arms[variant].hits += item in json.loads(items)
    result.arms = list(arms.values())
    if experiment.kind == "ab":
        control, treatment = result.arms
        result.difference = newcombe((control.clicked, control.answers), (treatment.clicked, treatment.answers))
    sums = experiment_sums(connection, experiment.name)
    result.ranked_events = int(sums.get(RANKED, 0))
    result.paired = paired(result.ranked_events, sums.get(DIFFERENCE, 0.0), sums.get(SQUARES, 0.0))
    return result


def _count_clicks(connection: Connection, arms: dict[str, ArmResult], *, is_interleaved: bool) -> Interleaving | None:
    clicked: dict[str, set[str]] = {}
    answers: dict[str, tuple[str, str]] = {}
    for recommendation_id, variant, request, items, item in clicks(connection, list(arms)):
        if item in json.loads(items):
            clicked.setdefault(recommendation_id, set()).add(item)
            answers[recommendation_id] = variant, request
    wins = Interleaving()
    for recommendation_id, (variant, request) in answers.items():
        arms[variant].clicked += 1
        teams = json.loads(request).get("teams", {})
        picks = [teams[item] for item in clicked[recommendation_id] if item in teams]
        balance = 2 * sum(picks) - len(picks)
        wins.treatment_wins += balance > 0
        wins.control_wins += balance < 0
        wins.ties += balance == 0
    return wins if is_interleaved else None
