"""Explanations of the library (`Recommender.explain`) as the API writes them: ids as text, the strongest events as reasons."""

from collections.abc import Mapping, Sequence
from typing import Any

from ssd4rec.explain.results import Level
from ssd4rec.service import metrics
from ssd4rec.service.served_model import ServedModel
from ssd4rec.service.user_state import Indices, RequestMoment

REASONS = 5  # events that are named as the reasons of one item


def reasons_of(
    model: ServedModel, indices: Indices, items: Sequence[int], level: Level, moment: RequestMoment | None
) -> list[list[dict[str, Any]]]:
    """Return for each item its reasons: the events that matter most, or the parts of its score."""
    return [_reasons(explanation, level) for explanation in explain(model, indices, items, level, moment)]


def explain(
    model: ServedModel, indices: Indices, items: Sequence[int], level: Level, moment: RequestMoment | None
) -> list[dict[str, Any]]:
    """Explain items after a history of item indices, 0 for unknown items; without a moment the time is not known.

    Raises:
        DataError: the history has no item of the catalog.
        ConfigError: the model has no such explanation.
    """
    ids = model.recommender.artifact.catalog.ids
    history = [ids[index - 1] if index else None for index in indices.tolist()]
    with metrics.STAGE_SECONDS.labels("explain").time():
        times: dict[str, Any] = moment.in_seconds() if moment else {}
        explanations = model.recommender.explain(history, [ids[index - 1] for index in items], level, **times)
    return [_as_text(each.as_dict()) for each in explanations]


def _reasons(explanation: Mapping[str, Any], level: Level) -> list[dict[str, Any]]:
    if level == "parts":
        return [{name: explanation[name] for name in ("model", "co_occurrence", "repeat_bias")}]
    events = list(explanation["events"])
    if level == "effects":
        events = [event for event in events if event["score_change"] is not None]
        events.sort(key=lambda event: event["score_change"])  # without it the score falls most
    else:
        events.sort(key=lambda event: -(event["forward_share"] + event["backward_share"]))
    return events[:REASONS]


def _as_text(value: Any) -> Any:
    """Ids as text, under the name that the API gives them."""
    if isinstance(value, Mapping):
        shown = {name: _as_text(each) for name, each in value.items() if name not in {"item", "unknown_items"}}
        if "item" in value:
            shown = {"item_id": None if value["item"] is None else str(value["item"]), **shown}
        if "unknown_items" in value:
            shown["unknown_items"] = len(value["unknown_items"])
        return shown
    return [_as_text(each) for each in value] if isinstance(value, list | tuple) else value
