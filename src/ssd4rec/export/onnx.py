"""ONNX graphs of a saved model, checked in onnxruntime against the library when they are written."""

import importlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssd4rec._io import atomic_write
from ssd4rec.artifact import Artifact
from ssd4rec.errors import BackendError, ConfigError, DivergedError
from ssd4rec.export.dense import ReadOutGraph, StepGraph, cache_names
from ssd4rec.fusion import ScoreFusion
from ssd4rec.models.next_item import NextItemModel

OPSET = 20
TOLERANCE = 1e-5  # largest difference of a score between onnxruntime and the library
CHECKED_LENGTHS = (1, 2, 3, 7, 50, 200)
CHECKED_STEPS = 12


def export_read_out(artifact: Artifact, path: str | Path, k: int | None = None, *, with_fusion: bool = True) -> float:
    """Write the graph that scores the next item of one history of any length, and check it.

    Input: items int64 [T], item indices, oldest first; for a model with `backbone.request_time` also times int64 [1, 2], the gap
    since the last event and the moment of the request in seconds, [[-1, 0]] where they are not known.
    Output: scores float32 [V]; with k, items int64 [k] and scores [k].
    The metadata has the settings and where item ids are found.

    Args:
        artifact: a loaded model of the backbone ssd4rec or mamba4rec.
        path: the file to write; it appears complete or not at all.
        k: write a graph that returns the k best items only.
        with_fusion: the graph includes the score fusion of the model; False: it gives the scores of the network alone.

    Returns:
        The largest difference to the library's scores over histories of 1 to 200 random items.

    Raises:
        ConfigError: the model cannot be exported.
        BackendError: onnx, onnxscript or onnxruntime is not installed.
        DivergedError: a score differs by more than 1e-5.
    """
    model, max_length = artifact.model, artifact.config.data.max_length
    repeat_bias = 0.0
    if with_fusion and artifact.fusion:
        _check_weight(artifact.fusion)
        repeat_bias = artifact.fusion.repeat_bias
    graph = ReadOutGraph(model, max_length, k, repeat_bias)
    rng = np.random.default_rng(0)
    example = torch.from_numpy(rng.integers(1, model.catalog_size + 1, 5))
    outputs = ["scores"] if k is None else ["items", "scores"]
    times = [] if model.request_time is None else [_random_times(rng, 1)]
    inputs = ["items" if k is None else "history", *("times" for _ in times)]
    shapes = ({0: torch.export.Dim("events")}, *({} for _ in times))

    def differences(session: Any) -> Iterator[float]:
        for length in CHECKED_LENGTHS:
            items, moment = rng.integers(1, model.catalog_size + 1, length), _random_times(rng, 1)
            *best, actual = session.run(None, dict(zip(inputs, (items, *(moment.numpy() for _ in times)), strict=True)))
            scores = _library_scores(model, items, max_length, moment)
            scores[np.unique(items) - 1] += np.float32(repeat_bias)
            yield np.abs(actual - (scores[best[0] - 1] if best else scores)).max()
            if best:
                yield np.abs(actual - np.sort(scores)[::-1][: len(actual)]).max()

    metadata = _metadata(artifact, "read-out")
    return _export(graph, (example, *times), inputs, outputs, shapes, Path(path), metadata, differences)


def export_step(artifact: Artifact, path: str | Path, *, with_fusion: bool = True) -> float:
    """Do `export_read_out` for the graph that reads one more event of each history.

    Inputs: items int64 [B], for a model with `backbone.request_time` times int64 [B, 2], and the caches of all layers, zero
    before the first event. Outputs: scores [B, V] and new caches. The scores are compared over some steps of three histories.

    A model with score fusion, or one that does not read event by event, is refused with a ConfigError; with `with_fusion=False`
    the graph gives the scores of the network alone.
    """
    model = artifact.model
    if with_fusion and artifact.fusion:
        _check_weight(artifact.fusion)
        raise ConfigError(
            f"a state does not list the items of the history, which the repeat bias of the model "
            f"({artifact.fusion.repeat_bias:g}) needs; add --without-fusion and add the bias to the scores yourself, or "
            f"export the read-out graph alone"
        )
    if artifact.config.data.max_length is not None:
        raise ConfigError("a state stands for the whole history, and data.max_length cuts it; export the read-out graph alone")
    graph = StepGraph(model)
    names = cache_names(graph.layers)
    caches = _empty_caches(model, 2)
    batch = torch.export.Dim("histories")
    outputs = ["scores", *(f"new_{name}" for name in names)]
    rng = np.random.default_rng(0)
    times = [] if model.request_time is None else [_random_times(rng, 2)]
    inputs = ["items", *("times" for _ in times), *names]
    shapes = ({0: batch}, tuple({0: batch} for _ in (*times, *caches)))

    def differences(session: Any) -> Iterator[float]:
        state = [each.numpy() for each in _empty_caches(model, 3)]
        past = np.zeros((3, 0), dtype=np.int64)
        for _ in range(CHECKED_STEPS):
            items = rng.integers(1, model.catalog_size + 1, 3)
            past = np.concatenate([past, items[:, None]], axis=1)
            moments = _random_times(rng, 3)
            values = [items, *(moments.numpy() for _ in times), *state]
            scores, *state = session.run(None, dict(zip(inputs, values, strict=True)))
            expected = np.stack([_library_scores(model, row, None, moments[[at]]) for at, row in enumerate(past)])
            yield np.abs(scores - expected).max()

    metadata = _metadata(artifact, "state step")
    return _export(graph, (torch.tensor([1, 2]), *times, *caches), inputs, outputs, shapes, Path(path), metadata, differences)


def _check_weight(fusion: ScoreFusion) -> None:
    if fusion.weight:
        raise ConfigError(
            f"co-occurrence counts cannot be part of a graph, and the score fusion of this model has them with a weight of "
            f"{fusion.weight:g}; add --without-fusion to export the scores of the network alone, or train with "
            f"--set fusion.cooccurrence=0.0 (a repeat bias can be exported)"
        )


def _empty_caches(model: NextItemModel, histories: int) -> list[Tensor]:
    return [tensor.cpu() for layer in model.new_cache(histories) for tensor in layer]


def _random_times(rng: np.random.Generator, count: int) -> Tensor:
    """Return gaps and moments at the edges of bins and hours, before and after 1970; a tenth of them is not known."""
    gaps = np.ceil(2 ** (rng.integers(0, 70, count) / 2)) - rng.integers(0, 3, count)
    gaps = np.where(rng.random(count) < 0.1, -1, gaps.clip(min=0)).astype(np.int64)
    moments = 3600 * rng.integers(-(10**6), 10**6, count) - rng.integers(0, 2, count)
    return torch.from_numpy(np.stack([gaps, moments], axis=1))


def _library_scores(
    model: NextItemModel, items: np.ndarray[Any, Any], max_length: int | None, times: Tensor
) -> np.ndarray[Any, Any]:
    history = torch.from_numpy(items).to(model.item_vectors.device)
    recent = history if max_length is None else history[-max_length:]
    with torch.inference_mode():
        states = model.at(model.encode(recent, torch.tensor([0, len(recent)])), times.to(history.device))
        scores = model.score(states, (history, torch.tensor([0, len(history)])))
    result: np.ndarray[Any, Any] = scores[0].cpu().numpy()
    return result


def _metadata(artifact: Artifact, kind: str) -> dict[str, str]:
    about_times = "seconds since the last event (-1: not known) and seconds since 1970, in the time zone of the training data"
    return {
        "graph": kind,
        "items": "item index j is row j - 1 of catalog.parquet; index 0 is the mask",
        **({} if artifact.model.request_time is None else {"times": about_times}),
        "settings": json.dumps(artifact.config.model_dump(mode="json")),
    }


def _export(
    graph: torch.nn.Module,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    shapes: Any,
    path: Path,
    metadata: dict[str, str],
    differences: Callable[[Any], Iterator[float]],
) -> float:
    """Write a graph, unless its scores in a session of onnxruntime differ; return the largest difference."""
    onnx, _, runtime = (_import(package) for package in ("onnx", "onnxscript", "onnxruntime"))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it reports that torchvision is not installed
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own deprecated functions
        program: Any = torch.onnx.export(
            graph.eval(),
            example,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    onnx.helper.set_model_props(program.model_proto, metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        onnx.save_model(program.model_proto, partial)
        onnx.checker.check_model(str(partial))
        worst = float(np.max([*differences(runtime.InferenceSession(str(partial), providers=["CPUExecutionProvider"]))]))
        if not worst <= TOLERANCE:
            raise DivergedError(
                f"the exported graph differs from the model by {worst:.1e}, expected at most {TOLERANCE:.0e}; "
                "nothing was written: please report it with the versions that `ssd4rec doctor` shows"
            )
    return worst


def _import(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise BackendError(f"{package} is not installed; pip install 'ssd4rec[onnx]'") from error
