"""Results of an experiment: click-through and hit rates of its arms, wins of an interleaving, the paired comparison."""

import json
from collections import Counter
from collections.abc import Mapping

from pydantic import Field
from sqlalchemy import Connection

from ssd4rec.service.experiments import CONTROL, INTERLEAVED, TREATMENT
from ssd4rec.service.intervals import Interval, newcombe, paired, wilson
from ssd4rec.service.live import DIFFERENCE, RANKED, SQUARES
from ssd4rec.service.schemas import Out, StoredTime
from ssd4rec.service.store.experiments import Experiment, clicks, exposures, next_events
from ssd4rec.service.store.live import experiment_sums


class ArmOut(Out):
    """What became of the answers of one arm."""

    arm: str
    answers: int
    users: int
    clicked: int = Field(description="answers with an event of one of their items that names the recommendation_id")
    click_through_interval: Interval = Field(description="95 %, Wilson")
    followed: int = Field(description="answers after which the user had another event")
    hits: int = Field(description="of them: the next event was of one of the items")
    hit_rate_interval: Interval = Field(description="95 %, Wilson")


class InterleavingOut(Out):
    """Answers that one team won: with more of its items clicked."""

    control_wins: int
    treatment_wins: int
    ties: int
    treatment_share_interval: Interval = Field(description="95 %, Wilson, of the answers that one team won")


class PairedOut(Out):
    """Treatment minus control in NDCG@10 of the same incoming events, each ranked before it was read."""

    ranked_events: int
    difference: float | None
    interval: Interval | None = Field(description="95 %")
    p_value: float | None = Field(description="two-sided, paired")


class ExperimentOut(Out):
    """An experiment and its results so far."""

    name: str
    kind: str
    control: str
    treatment: str
    share: float
    started: StoredTime
    ended: StoredTime | None
    arms: list[ArmOut]
    click_through_difference: Interval | None = Field(description="95 % interval (Newcombe), treatment minus control")
    interleaving: InterleavingOut | None
    prequential: PairedOut


def no_results(experiment: Experiment) -> ExperimentOut:
    """Return an experiment that begins."""
    return ExperimentOut(
        **experiment._asdict(), arms=[], click_through_difference=None, interleaving=None, prequential=_paired({})
    )


def experiment_result(connection: Connection, experiment: Experiment) -> ExperimentOut:
    """Compute the results from the stored answers, events and sums.

    Answers that the retention or an erasure removed do not count any more.
    """
    result = no_results(experiment)
    result.prequential = _paired(experiment_sums(connection, experiment.name))
    names = {"ab": (CONTROL, TREATMENT), "interleaving": (INTERLEAVED,)}.get(experiment.kind, ())
    if not names:
        return result
    variants = [f"{experiment.name}/{name}" for name in names]
    shown = exposures(connection, variants)
    clicked, interleaving = _count_clicks(connection, variants)
    followed, hits = Counter[str](), Counter[str]()
    for variant, items, item in next_events(connection, variants):
        followed[variant] += 1
        hits[variant] += item in json.loads(items)
    for name, variant in zip(names, variants, strict=True):
        answers, users = shown.get(variant, (0, 0))
        arm = ArmOut(
            arm=name,
            answers=answers,
            users=users,
            clicked=clicked[variant],
            click_through_interval=wilson(clicked[variant], answers),
            followed=followed[variant],
            hits=hits[variant],
            hit_rate_interval=wilson(hits[variant], followed[variant]),
        )
        result.arms.append(arm)
    if experiment.kind == "interleaving":
        result.interleaving = interleaving
    else:
        control, treatment = result.arms
        result.click_through_difference = newcombe((control.clicked, control.answers), (treatment.clicked, treatment.answers))
    return result


def _count_clicks(connection: Connection, variants: list[str]) -> tuple[Counter[str], InterleavingOut]:
    """Return how many answers of each variant were clicked, and which teams won them."""
    items_of: dict[str, set[str]] = {}
    answers: dict[str, tuple[str, str]] = {}
    for recommendation_id, variant, request, items, item in clicks(connection, variants):
        if item in json.loads(items):
            items_of.setdefault(recommendation_id, set()).add(item)
            answers[recommendation_id] = variant, request
    control = treatment = 0
    for recommendation_id, (_, request) in answers.items():
        teams = json.loads(request).get("teams", {})
        picks = [teams[item] for item in items_of[recommendation_id] if item in teams]
        balance = 2 * sum(picks) - len(picks)
        control, treatment = control + (balance < 0), treatment + (balance > 0)
    wins = InterleavingOut(
        control_wins=control,
        treatment_wins=treatment,
        ties=len(answers) - control - treatment,
        treatment_share_interval=wilson(treatment, control + treatment),
    )
    return Counter(variant for variant, _ in answers.values()), wins


def _paired(sums: Mapping[str, float]) -> PairedOut:
    count = int(sums.get(RANKED, 0))
    test = paired(count, sums.get(DIFFERENCE, 0.0), sums.get(SQUARES, 0.0))
    mean, interval, p_value = test or (None, None, None)
    return PairedOut(ranked_events=count, difference=mean, interval=interval, p_value=p_value)
