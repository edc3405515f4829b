"""How many users a second get their 100 best items, in catalogs of 12,000 to 1,000,000 items?

Scoring and selection alone, from states that are given: exact (every item is scored), with the index of approximate retrieval,
and with implicit's `recommend`, which multiplies the same matrices. Items of the history are excluded by all of them. Item
vectors are synthetic, 1,000 clusters in 64 dimensions; the recall of the index is measured on the same states.

python benchmarks/bench_recommend.py --threads 1 --save     # implicit: pip install implicit
"""

import argparse
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from common import arguments, measure, publish
from ssd4rec.config import SSD4RecConfig
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.serving.retrieval import make_index
from ssd4rec.serving.topk import Request, rank_candidates, top_items_from_states

WIDTH, USERS, K, EVENTS, CLUSTERS = 64, 1024, 100, 50, 1000


def main() -> None:
    """Print the table."""
    options = arguments(__doc__, add_options)
    rows = [row for items in options.items for row in compare(items, options)]
    notes = [f"{USERS} users at once, {K} items each, histories of {EVENTS} events, D = {WIDTH}"]
    publish("bench_recommend", rows, options, notes)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the sizes of the catalog."""
    parser.add_argument("--items", type=int, nargs="+", default=[12_000, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=3)


def compare(items: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of one catalog."""
    random = torch.Generator().manual_seed(0)
    model = NextItemModel(SSD4Rec(SSD4RecConfig(width=WIDTH)), items).eval()
    centers = torch.randn(CLUSTERS, WIDTH, generator=random)
    with torch.no_grad():
        model.table.weight.copy_(
            centers[torch.randint(CLUSTERS, (items + 1,), generator=random)]
            + 0.5 * torch.randn(items + 1, WIDTH, generator=random)
        )
    states = centers[torch.randint(CLUSTERS, (USERS,), generator=random)] + torch.randn(USERS, WIDTH, generator=random)
    histories = torch.randint(1, items + 1, (USERS, EVENTS), generator=random)
    packed = histories.flatten(), torch.arange(0, USERS * EVENTS + 1, EVENTS)
    exact = Request(K, exclude_seen=True, excluded=None, require_known_history=False)
    index = make_index(model, states, None, None)
    rows = list(histories.numpy())
    works = {
        "exact": lambda: top_items_from_states(model, states, *packed, exact),
        "approximate": lambda: rank_candidates(model, states, rows, exact, index),
    }
    if find_spec("implicit"):
        works["implicit"] = implicit_recommend(model, states, histories)
    table = []
    for name, work in works.items():
        with torch.inference_mode():
            time = measure(work, repeats=options.repeats)
        result = {"items": f"{items:,}", "engine": name, "users/s": f"{USERS / time.median:,.0f}", "1,024 users": str(time)}
        if name == "approximate":
            result["recall@100"] = f"{index.recall:.4f}"
            result["lists visited"] = f"{index.probes} of {index.index.nlist}"
        table.append(result)
    return table


def implicit_recommend(model: NextItemModel, states: torch.Tensor, histories: torch.Tensor) -> Any:
    """Return implicit's `recommend` for factors that are given."""
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    als = AlternatingLeastSquares(factors=WIDTH, num_threads=torch.get_num_threads())
    als.user_factors, als.item_factors = states.numpy(), model.item_vectors.detach().contiguous().numpy()
    rows = np.repeat(np.arange(USERS), EVENTS)
    shape = (USERS, model.catalog_size)
    seen = csr_matrix((np.ones(rows.size, dtype=np.float32), (rows, histories.flatten().numpy() - 1)), shape=shape)
    return lambda: als.recommend(np.arange(USERS), seen, N=K, filter_already_liked_items=True)


if __name__ == "__main__":
    main()
