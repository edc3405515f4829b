"""What a report says of its data, and what a person should know who reads figures made from them."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line imports this module for every command: it must not wait for polars
    from ssd4rec.data.interactions import Interactions
    from ssd4rec.data.sequences import Sequences


def describe(interactions: "Interactions", histories: "Sequences") -> dict[str, object]:
    """The `data` part of a report: what was read, what was dropped and why, what was kept."""
    read, filtering = interactions.read, histories.filtering
    return {
        "read": {
            "source": read.source,
            "rows": read.rows,
            "users": read.users,
            "items": read.items,
            "columns": read.columns,
            "time": read.time,
            "notes": [*read.notes, *_note_on_repeats(histories)],
        },
        "dropped": {
            **asdict(filtering.removed),
            "rounds": filtering.rounds,
            "why": f"users and items with fewer than {filtering.k} interactions, again and again until none is left",
        },
        "kept": asdict(histories.kept),
        "tie_order": {"interactions": histories.at_same_time, "order": histories.tie_order},
    }


def note_on_ties(data: Mapping[str, Any]) -> str | None:
    """How many events' places in their histories no time decides; None: each has its own.

    Args:
        data: from `describe`.
    """
    same = data["tie_order"]
    if not same["interactions"]:
        return None
    share = same["interactions"] / data["kept"]["interactions"]
    by = "in the file" if same["order"] == "file" else "of the items' ids"
    return (
        f"{same['interactions']:,} interactions ({100 * share:.1f} %) are at the same time as the one before; "
        f"their order is that {by} (data.tie_order), and figures depend on it"
    )


def _note_on_repeats(histories: "Sequences") -> list[str]:
    if not (repeated := histories.repeated):
        return []
    share = repeated / histories.kept.interactions
    return [
        f"{repeated:,} of the interactions kept ({100 * share:.1f} %) are of an item that the user had before; where seen items "
        f"are removed from the candidates, such a target is the only seen one left, and figures say less of the model"
    ]
