"""The answers of `Recommender.explain`: frozen dataclasses, one for each level; `as_dict` gives plain JSON values."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal, get_args

Level = Literal["parts", "weights", "effects", "counterfactual"]
Method = Literal["one-pass", "re-reading"]
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True)
class Explanation:
    """Common part of the explanations of all levels."""

    level: ClassVar[Level]

    item: object  # its id
    title: str | None
    score: float  # model + co-occurrence + repeat bias
    rank: int | None  # 1-based, in the list that `recommend` gives; None: `recommend` leaves the item out, as seen or untrained
    unknown_items: tuple[object, ...]  # ids of the history that the catalog does not contain; they are not read

    def as_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON values, with its level."""
        return {"level": self.level, **_plain(self)}


@dataclass(frozen=True)
class Parts(Explanation):
    """The score as a sum: score = model + co_occurrence + repeat_bias."""

    level: ClassVar[Level] = "parts"

    model: float  # the state of the sequence times the item vector
    co_occurrence: float  # weight * log(1 + co-occurrence score / floor); 0 without score fusion
    repeat_bias: float  # learned or tuned, added to the score of an item of the history; 0 for any other item


@dataclass(frozen=True)
class Event:
    """One event of the history."""

    position: int  # 0-based, in the history as passed
    item: object
    title: str | None


@dataclass(frozen=True)
class EventWeight(Event):
    """How much one event enters the last y of the top SSD layer."""

    forward: tuple[float, ...]  # exp(S_L - S_s) dt_s (C_L . B_s), one for each head; empty: the event was not read
    backward: tuple[float, ...]  # the same of the backward direction; empty: the direction does not read the event
    forward_share: float  # norm of weight times x, as a share of the sum of these norms over all events
    backward_share: float


@dataclass(frozen=True)
class Weights(Explanation):
    """Where the layer looked: one row of the duality matrix for each direction. It does not depend on the item."""

    level: ClassVar[Level] = "weights"

    layer: int  # 0-based, the top one; with several layers the vector of an event already contains others
    events: tuple[EventWeight, ...]


@dataclass(frozen=True)
class EventEffect(Event):
    """What changes when one event is left out of the history."""

    score_change: float | None  # score without the event, less the score; None: no event would remain
    rank_change: int | None  # rank without the event, less the rank; None: one of the two does not exist


@dataclass(frozen=True)
class Effects(Explanation):
    """The exact change of score and rank when each event is left out, one at a time."""

    level: ClassVar[Level] = "effects"

    method: Method  # "one-pass": all events from one reading; "re-reading": each shortened history was read
    events: tuple[EventEffect, ...]
    omitted: int  # older events that were not left out, because re-reading is limited to the last ones


@dataclass(frozen=True)
class Counterfactual(Explanation):
    """A set of events without which the item is not among the first k; verified by re-reading, not proved smallest."""

    level: ClassVar[Level] = "counterfactual"

    k: int
    success: bool
    removed: tuple[Event, ...]  # in the order of the history; no event of it can be put back. Empty without success
    score_without: float | None  # of the item when these events are left out; None without success
    rank_without: int | None  # the same; the items of the full history are still left out
    method: Method
    note: str | None = None  # why it did not succeed


def _plain(value: object) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
