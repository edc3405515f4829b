"""How many users a second get their best items, at the sizes of MovieLens and in catalogs of 12,000 to 1,000,000 items?

Scoring and selection alone, from states that are given: exact (every item is scored), with the index of approximate retrieval,
with implicit's `recommend`, and with the ranker of RecTools' transformers; all of them multiply the same matrices. Items of the
history are excluded by all of them. Item vectors are synthetic, 1,000 clusters in 64 dimensions. "same items" is the share of the
exact items that an engine returns.

python benchmarks/bench_recommend.py --threads 1 --save

implicit and scipy are in the dependency group `bench`. RecTools pins older packages: `pip install --no-deps --target FOLDER
rectools==0.19.0 typeguard`, and PYTHONPATH=FOLDER; without it, it is left out.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from common import arguments, measure, publish
from ssd4rec.config import SSD4RecConfig
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.serving.retrieval import ApproximateIndex, Request, make_index, with_recall
from ssd4rec.serving.topk import top_items_from_states

WIDTH, CLUSTERS = 64, 1000
LARGE = 100_000  # items, from which an index is worth measuring

Ids = list[npt.NDArray[np.int64]]  # 0-based items of each user


class Size(NamedTuple):
    """Users, catalog and events of each history."""

    users: int
    items: int
    events: int
    k: int


SIZES = {
    "ML-100K": Size(943, 1_682, 106, 10),
    "ML-1M": Size(6_040, 3_706, 165, 10),
    "12,000 items": Size(1_024, 12_000, 50, 100),
    "100,000 items": Size(1_024, 100_000, 50, 100),
    "1,000,000 items": Size(256, 1_000_000, 50, 100),
}


def main() -> None:
    """Print the table."""
    options = arguments(__doc__, add_options)
    rows = [row for name in options.sizes for row in compare(name, options.repeats)]
    publish("bench_recommend", rows, options, [f"all users at once, D = {WIDTH}; median of {options.repeats} runs"])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the sizes."""
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--repeats", type=int, default=3)


def compare(name: str, repeats: int) -> list[dict[str, Any]]:
    """Return the rows of one size."""
    size = SIZES[name]
    random = torch.Generator().manual_seed(0)
    model = NextItemModel(SSD4Rec(SSD4RecConfig(width=WIDTH)), size.items).eval()
    centers = torch.randn(CLUSTERS, WIDTH, generator=random)
    with torch.no_grad():
        cluster = torch.randint(CLUSTERS, (size.items + 1,), generator=random)
        model.table.weight.copy_(centers[cluster] + 0.5 * torch.randn(size.items + 1, WIDTH, generator=random))
    cluster = torch.randint(CLUSTERS, (size.users,), generator=random)
    states = centers[cluster] + torch.randn(size.users, WIDTH, generator=random)
    histories = torch.randint(1, size.items + 1, (size.users, size.events), generator=random)
    works = {"exact": exact(model, states, histories, size.k)}
    if size.items >= LARGE and find_spec("faiss"):
        works["approximate"] = approximate(model, states, histories, size.k)
    if find_spec("implicit"):
        works["implicit"] = implicit_recommend(model, states, histories, size.k)
    if find_spec("rectools"):
        works["RecTools"] = rectools_rank(model, states, histories, size.k)
    expected = works["exact"]()
    table = []
    for engine, work in works.items():
        with torch.inference_mode():
            time = measure(work, repeats=repeats)
            shares = [len(np.intersect1d(ours, theirs)) / len(theirs) for ours, theirs in zip(work(), expected, strict=True)]
        row = {"size": name, "users": f"{size.users:,}", "items": f"{size.items:,}", "k": size.k, "engine": engine}
        table.append(
            row | {"users/s": f"{size.users / time.median:,.0f}", "time": str(time), "same items": f"{np.mean(shares):.4f}"}
        )
    return table


def exact(model: NextItemModel, states: torch.Tensor, histories: torch.Tensor, k: int) -> Callable[[], Ids]:
    """Return a function that scores every item."""
    request = Request(k, exclude_seen=True, excluded=None, require_known_history=False)
    users, events = histories.shape
    packed = histories.flatten(), torch.arange(0, users * events + 1, events)
    return lambda: [top.items - 1 for top in top_items_from_states(model, states, packed, request)]


def approximate(model: NextItemModel, states: torch.Tensor, histories: torch.Tensor, k: int) -> Callable[[], Ids]:
    """Return a function that scores what an index finds."""
    request = Request(k, exclude_seen=True, excluded=None, require_known_history=False)
    users, events = histories.shape
    packed = histories.flatten(), torch.arange(0, users * events + 1, events)

    def rank(index: ApproximateIndex) -> Ids:
        return [top.items - 1 for top in top_items_from_states(model, states, packed, replace(request, index=index))]

    index = with_recall(make_index(model.item_vectors, None), rank)
    return lambda: rank(index)


def seen_items(histories: torch.Tensor, items: int) -> Any:
    """Return the seen items as a sparse matrix, one row a user."""
    from scipy.sparse import csr_matrix

    users, events = histories.shape
    rows, columns = np.repeat(np.arange(users), events), histories.flatten().numpy() - 1
    return csr_matrix((np.ones(rows.size, dtype=np.float32), (rows, columns)), shape=(users, items))


def implicit_recommend(model: NextItemModel, states: torch.Tensor, histories: torch.Tensor, k: int) -> Callable[[], Ids]:
    """Return a function that calls implicit's `recommend` with factors that are given."""
    from implicit.cpu.als import AlternatingLeastSquares

    als = AlternatingLeastSquares(factors=WIDTH, num_threads=torch.get_num_threads())
    als.user_factors, als.item_factors = states.numpy(), model.item_vectors.detach().contiguous().numpy()
    seen, users = seen_items(histories, model.catalog_size), np.arange(len(states))
    return lambda: list(als.recommend(users, seen, N=k, filter_already_liked_items=True)[0])


def rectools_rank(model: NextItemModel, states: torch.Tensor, histories: torch.Tensor, k: int) -> Callable[[], Ids]:
    """Return a function that calls the ranker with which RecTools' SASRec and BERT4Rec recommend on a CPU."""
    from rectools.models.rank import Distance, TorchRanker

    ranker = TorchRanker(Distance.DOT, "cpu", states, model.item_vectors.detach())
    seen, users = seen_items(histories, model.catalog_size), np.arange(len(states))
    return lambda: list(ranker.rank(users, k, seen)[1].reshape(len(users), -1))


if __name__ == "__main__":
    main()
