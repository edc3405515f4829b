"""The description of the data in reports, with the warnings that a reader of the metrics should know."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from ssd4rec.data.interactions import ReadReport
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Split, training_counts

MANY_USERS, LARGE_SHARE = 10, 0.2  # where one user is suspicious


def describe(report: ReadReport, sequences: Sequences) -> dict[str, object]:
    """Return the `data` part of a report: what was read, what was dropped and why, and what remains."""
    filtering = sequences.filtering
    return {
        "read": {name: getattr(report, name) for name in ("source", "rows", "users", "items", "columns", "time", "span")}
        | {"filters": list(report.filters), "notes": [*report.notes, *_notes(sequences, report.columns.get("user", "user"))]},
        "dropped": {
            **asdict(filtering.removed),
            "rounds": filtering.rounds,
            "why": f"users and items with fewer than {filtering.k} interactions, repeatedly until none is left",
        },
        "kept": asdict(sequences.kept),
        "tie_order": {"interactions": sequences.at_same_time, "order": sequences.tie_order},
    }


def describe_split(sequences: Sequences, split: Split, catalog_size: int, *, final_fit: bool = False) -> dict[str, object]:
    """Return the numbers of targets, of items without training events, and of test events without history.

    `final_fit`: the saved model will be trained on all events.
    """
    never_trained = int(np.count_nonzero(training_counts(sequences, split.train, catalog_size)[1:] == 0))
    skipped = split.without_history
    notes = []
    if never_trained:
        outcome = "the final fit trains them" if final_fit else "they are not recommended (training.final_fit trains them)"
        notes.append(
            f"{never_trained:,} of {catalog_size:,} items have no training event, as all their events are validation or test "
            f"targets; {outcome}"
        )
    if skipped.interactions:
        notes.append(
            f"{skipped.users:,} users have their first event in the test set; these {skipped.interactions:,} events have no "
            "history to be predicted from, and are not targets"
        )
    return {
        "protocol": split.protocol,
        "targets": {name: getattr(split, name).targets for name in ("train", "validation", "test")},
        "never_trained_items": never_trained,
        "without_history": {"users": skipped.users, "interactions": skipped.interactions},
        "notes": notes,
    }


def note_on_ties(data: Mapping[str, Any]) -> str | None:
    """Return a warning if no time decides the order of some events of `describe`; None: every event has its own time."""
    same = data["tie_order"]
    if not same["interactions"]:
        return None
    share = same["interactions"] / data["kept"]["interactions"]
    by = "in the file" if same["order"] == "file" else "of the item ids"
    return (
        f"{same['interactions']:,} interactions ({100 * share:.1f} %) have the time of the previous one; "
        f"their order is that {by} (data.tie_order), and metrics depend on it"
    )


def _notes(sequences: Sequences, user_column: str) -> list[str]:
    """Return warnings about a large user, duplicates and repeats."""
    kept, notes = sequences.kept, []
    if kept.users >= MANY_USERS and kept.longest > LARGE_SHARE * kept.interactions:  # it may stand for all unknown users
        user = str(sequences.users[int(np.diff(sequences.offsets).argmax())])[:100]
        notes.append(
            f"{kept.longest / kept.interactions:.1%} of the interactions are of one user, {user!r}; if this id stands for "
            f"several people, choose another column, or leave it out with --where \"{user_column} <> '{user}'\""
        )
    if duplicates := sequences.duplicates:
        notes.append(
            f"{duplicates:,} interactions ({100 * duplicates / kept.interactions:.1f} %) are duplicates: user, item and time "
            "equal those of another one; as test targets they inflate the metrics; drop them with --set data.duplicates=drop"
        )
    if repeated := sequences.repeated:
        notes.append(
            f"{repeated:,} of the remaining interactions ({100 * repeated / kept.interactions:.1f} %) repeat an earlier item of "
            "the user; with seen-item filtering these targets become trivially easy and inflate the metrics"
        )
    return notes
