"""What does it cost to leave out every event of a history, next to reading it once?

One layer, both directions, D = 64, 12,101 items, score fusion, weights as initialized, the item that is recommended first.
`read` is `NextItemModel.encode` of the history; `recommend` adds scores, fusion and the ten best items; `states` is the state
without each event, in one pass; `effects` is `Recommender.explain`, with the score and the rank of the item without each event;
`re-read` is the definition of the states, packed batches of all shortened histories. Measured in turns; medians of CPU seconds,
which a busy machine changes less than the time of day.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import torch

from common import arguments, publish
from ssd4rec import NextItemModel, Recommender
from ssd4rec.artifact import Artifact
from ssd4rec.baselines.sequential_rules import SequentialRules
from ssd4rec.config import Config, SSD4RecConfig
from ssd4rec.data.catalog import Catalog
from ssd4rec.explain.leave_one_out import states_by_rereading, states_in_one_pass
from ssd4rec.fusion import ScoreFusion
from ssd4rec.models.next_item import make_model

EVENTS = (10, 100, 1_000)
REREAD_UP_TO = 100
ITEMS = 12_101


def main() -> None:
    """Print the table."""
    options = arguments(__doc__)
    random = np.random.default_rng(0)
    made = recommender(random)
    rows = []
    with torch.inference_mode():
        for events in EVENTS:
            history = random.integers(1, ITEMS + 1, events)
            ids = history.tolist()
            items, cu_seqlens = torch.from_numpy(history), torch.tensor([0, events])
            model = made.artifact.model
            (best,) = made.recommend(ids, 1).items
            works: dict[str, Callable[[], Any]] = {
                "read": lambda: model.encode(items, cu_seqlens),  # noqa: B023 - called in this turn of the loop only
                "recommend": lambda: made.recommend(ids, 10),  # noqa: B023
                "states": lambda: states_in_one_pass(model, items),  # noqa: B023
                "effects": lambda: made.explain(ids, best.item),  # noqa: B023
            }
            spent = in_turns(works, 10)
            row = {"events": f"{events:,}", **{name: f"{seconds * 1e3:,.1f} ms" for name, seconds in spent.items()}}
            row["states / read"] = f"{spent['states'] / spent['read']:.2f}"
            row["effects / read"] = f"{spent['effects'] / spent['read']:.2f}"
            row["effects / recommend"] = f"{spent['effects'] / spent['recommend']:.2f}"
            if events <= REREAD_UP_TO:
                places = torch.arange(events)
                slow = in_turns({"re-read": lambda: states_by_rereading(model, items, places)}, 1)["re-read"]  # noqa: B023
                row |= {"re-read": f"{slow * 1e3:,.0f} ms", "re-read / states": f"{slow / spent['states']:,.0f}"}
            rows.append(row)
    publish("bench_explain", rows, options)


def recommender(random: np.random.Generator) -> Recommender:
    """A model with initial weights, and 50 random co-occurring items for each item."""
    config = Config(backbone=SSD4RecConfig(dropout=0.0))
    model: NextItemModel = make_model(config, ITEMS).eval()
    columns = np.concatenate([np.sort(random.choice(ITEMS, 50, replace=False)) for _ in range(ITEMS)]).astype(np.int32)
    strengths = random.uniform(0.01, 1.0, len(columns)).astype(np.float32)
    rules = SequentialRules(np.arange(0, len(columns) + 1, 50), columns, strengths)
    catalog = Catalog(pl.Series("id", range(1, ITEMS + 1)))
    return Recommender(Artifact(model, catalog, config, {}, np.ones(ITEMS + 1, np.int64), ScoreFusion(rules, 0.05, -1.0)))


def in_turns(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each, one after the other in every round; a round more comes first and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + (rounds > 1)):
        for name, work in works.items():
            began = time.process_time()
            work()
            if turn or rounds == 1:
                seconds[name].append(time.process_time() - began)
    return {name: statistics.median(each) for name, each in seconds.items()}


if __name__ == "__main__":
    main()
