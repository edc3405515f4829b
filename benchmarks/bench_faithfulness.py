"""Are the explanations true to the model? Orders of events by effect and by seven other methods, on two data sets.

For each user the first recommendation is explained: events are ordered by how much each method says that they support it, and
removed or kept in this order (`faithfulness.py` defines the metrics). The models are small ones of the preset `quick`:

    ssd4rec train ml-100k.inter.gz --config quick --set training.max_epochs=12 --out MODEL
    ssd4rec train amazon-video-games.inter.gz --config quick --set training.max_epochs=8 --set training.softmax=sampled \
        --set training.negatives=1024 --out MODEL
    python bench_faithfulness.py ml-100k=MODEL,FILE amazon-video-games=MODEL,FILE --users 700 --threads 1 --save
"""

import argparse
import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from common import arguments, publish
from faithfulness import METRICS, measure_orders
from ssd4rec import Recommender, build_sequences, read_interactions
from ssd4rec.artifact import Artifact
from ssd4rec.explain.effects import changed_by_each
from ssd4rec.explain.reading import Reading
from ssd4rec.explain.weights import event_weights
from ssd4rec.models.next_item import make_model

USERS, LEAST, MOST = 1_200, 10, 50  # of a data set; events of a history: fewer are left out, of more the last are read
RANDOMIZED_USERS = 200
GRADIENT_STEPS = 16  # of the path from zero vectors to the item vectors


def main() -> None:
    """Print the table."""
    options = arguments(__doc__, _add)
    rows, notes = [], []
    for place in options.data:
        name, _, paths = place.partition("=")
        directory, _, file = paths.partition(",")
        recommender = Recommender.load(directory)
        recommender.artifact.model.requires_grad_(requires_grad=False)
        histories = draw_histories(recommender.artifact, file, options.users)
        rows += _measure(name, recommender, histories)
        notes.append(_randomized(name, recommender.artifact, histories[:RANDOMIZED_USERS]))
    publish("bench_faithfulness", rows, options, notes, study="faithfulness")


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="+", metavar="NAME=MODEL,FILE")
    parser.add_argument("--users", type=int, default=USERS, help="of each data set at most")


def draw_histories(artifact: Artifact, file: str, users: int) -> list[npt.NDArray[np.int64]]:
    """The last events of random users with enough of them, without the held-out last event."""
    sequences, catalog = build_sequences(read_interactions(file), artifact.config.data.min_interactions)[:2]
    index = artifact.catalog.indices(catalog.ids)  # of each item of these sequences, in the model's catalog
    edges = sequences.offsets.tolist()
    histories = [index[sequences.items[start : stop - 1].astype(np.int64) - 1] for start, stop in pairwise(edges)]
    histories = [each[each > 0][-MOST:] for each in histories]
    histories = [each for each in histories if len(each) >= LEAST]
    sampled_users = np.random.default_rng(0).permutation(len(histories))[:users]
    return [histories[place] for place in sampled_users]


def _measure(name: str, recommender: Recommender, histories: list[npt.NDArray[np.int64]]) -> list[dict[str, object]]:
    artifact, random = recommender.artifact, np.random.default_rng(1)
    results: dict[str, list[list[float]]] = {}
    for done, history in enumerate(histories):
        with torch.inference_mode():
            reading = Reading(artifact, history, history)
            item = int(reading.parts.total.masked_fill(reading.excluded, -torch.inf).argmax()) + 1
        orders = {method: np.argsort(-support, kind="stable") for method, support in supports(reading, item, random).items()}
        for method, row in measure_orders(artifact, history, item, orders).items():
            results.setdefault(method, []).append([row[metric] for metric in METRICS])
        if done % 100 == 0:
            print(f"{name}: {done} of {len(histories)} users", flush=True)
    rows = []
    for method, values in results.items():
        table = np.array(values)
        mean, error = table.mean(0), 1.96 * table.std(0, ddof=1) / np.sqrt(len(table))
        cells = {metric: f"{middle:.3f} ±{half:.3f}" for metric, middle, half in zip(METRICS, mean, error, strict=True)}
        rows.append({"data": name, "users": len(table), "order": method, **cells})
    return rows


def supports(reading: Reading, item: int, random: np.random.Generator) -> dict[str, npt.NDArray[np.float64]]:
    """How much each event supports the item, by method."""
    events = len(reading.items)
    with torch.inference_mode():
        changed = changed_by_each(reading, reading.without_each(events), item)
        _, weights = event_weights(reading)
        vectors = torch.nn.functional.normalize(reading.vectors, dim=1)
        cosine = vectors[torch.from_numpy(reading.items) - 1] @ vectors[item - 1]
        beta = reading.artifact.config.backbone.backward_weight  # type: ignore[union-attr]  # of SSD4Rec
    gradient, integrated = _gradients(reading, item)
    return {
        "effects": reading.parts.of(item) - changed.scores,
        "integrated gradients": integrated,
        "gradient x input": gradient,
        "weights": np.array([each.forward_share + beta * each.backward_share for each in weights]),
        "item cosine": cosine.double().numpy(),
        "recency": np.arange(events, dtype=np.float64),
        "random": random.random(events),
    }


def _gradients(reading: Reading, item: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Gradient times input at the item vectors, and along the path to them from zero."""
    model, events = reading.artifact.model, len(reading.items)
    embedded = model.table(torch.from_numpy(reading.items)).detach()
    scales = (torch.arange(GRADIENT_STEPS) + 0.5) / GRADIENT_STEPS
    path = (torch.cat([scales, torch.ones(1)])[:, None, None] * embedded).flatten(0, 1).requires_grad_()
    states = model.backbone.encode(path, torch.arange(0, len(path) + 1, events))
    (states @ model.item_vectors[item - 1].detach()).sum().backward()
    assert path.grad is not None
    products = (path.grad.view(-1, events, embedded.shape[1]) * embedded).sum(2).double().numpy()
    return products[-1], products[:-1].mean(0)


def _randomized(name: str, artifact: Artifact, histories: list[npt.NDArray[np.int64]]) -> str:
    """Rank correlation of the effects, without fusion, with those of a model with random weights; near 0 if weights matter."""
    trained = replace(artifact, fusion=None)
    other = copy.deepcopy(artifact.config)
    other = other.model_copy(update={"training": other.training.model_copy(update={"seed": 1})})
    fresh = make_model(other, len(artifact.catalog)).eval()
    fresh.table.weight.data *= artifact.model.table.weight.std() / fresh.table.weight.std()
    untrained = replace(trained, model=fresh)
    correlations = []
    with torch.inference_mode():
        for history in histories:
            item = int(Reading(trained, history, history).parts.total.argmax()) + 1
            effects = []
            for each in (trained, untrained):
                reading = Reading(each, history, history)
                effects.append(changed_by_each(reading, reading.without_each(len(history)), item).scores)
            ranks = [np.argsort(np.argsort(each)) for each in effects]
            correlations.append(np.corrcoef(*ranks)[0, 1])
    mean, error = np.mean(correlations), 1.96 * np.std(correlations, ddof=1) / np.sqrt(len(correlations))
    return (
        f"Parameter randomization, {name}: rank correlation of the effects (model alone) with those of the same network with "
        f"random weights {mean:+.3f} ±{error:.3f}, {len(correlations)} users"
    )


if __name__ == "__main__":
    main()
