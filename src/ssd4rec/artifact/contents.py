"""Write and read the files of an artifact."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssd4rec._csr import IntArray
from ssd4rec._io import as_json, escaped, sync
from ssd4rec.artifact.features import TrainedFeatures
from ssd4rec.artifact.folder import (
    CATALOG,
    CONFIG,
    FEATURES,
    FUSION,
    MANIFEST,
    POPULARITY,
    REPORT,
    WEIGHTS,
    check_manifest,
    make_manifest,
    new_folder_of,
    old_folder_of,
    recover,
    replace_artifact,
)
from ssd4rec.config import Config, dump_config, parse_config
from ssd4rec.data.catalog import Catalog, as_type
from ssd4rec.data.item_features import ItemFeatures
from ssd4rec.errors import ArtifactError, BackendError, ConfigError, DataError, SSD4RecError
from ssd4rec.fusion import ScoreFusion
from ssd4rec.layers.initialization import SkipRandomInitialization
from ssd4rec.layers.item_features import Floats
from ssd4rec.models.next_item import NextItemModel, append_items, build_model

if TYPE_CHECKING:
    from ssd4rec.data.item_table import ItemTable

MAX_PATH = 500  # characters of a path in a message


@dataclass(frozen=True)
class Artifact:
    """A saved model in memory."""

    model: NextItemModel
    catalog: Catalog
    config: Config
    report: Mapping[str, Any]
    training_counts: IntArray  # [V + 1] training interactions per item index
    fusion: ScoreFusion | None = None  # applied to the model's scores
    features: TrainedFeatures | None = None  # for the vectors of new items; the item table contains them already

    @property
    def candidates(self) -> npt.NDArray[np.bool_]:
        """[V + 1]: items that `recommend` may return: those with training events, and new items with features."""
        candidates: npt.NDArray[np.bool_] = self.training_counts > 0
        if self.features is not None:
            candidates[self.features.trained + 1 :] = True
        return candidates

    def save(self, directory: str | Path) -> None:
        """Write the model as a folder; see `save_artifact`."""
        parts = (self.model, self.catalog, self.config, self.report, self.training_counts, self.fusion, self.features)
        save_artifact(directory, *parts)


def append_new_items(artifact: Artifact, features: ItemFeatures) -> Artifact:
    """Append the new items of the features that a model was trained with; the model is changed in place.

    They have no training events, and vectors of features alone.
    """
    if artifact.features is None:
        return artifact
    vectors = artifact.features.project(features.rows(features.trained + 1))
    return _append(artifact, features.new_ids, features.new_titles, vectors)


def add_items(artifact: Artifact, table: "ItemTable") -> Artifact:
    """Return a model whose catalog has the items of a table that it does not have yet, without training.

    Raises:
        ConfigError: the model was trained without features.
        DataError: all items are in the catalog already, or the table lacks a column of the training.
    """
    if artifact.features is None:
        raise ConfigError("the model was trained without item features; train it with `ssd4rec train --items FILE`")
    ids = as_type(table.ids, artifact.catalog.ids.dtype)
    rows = np.flatnonzero((artifact.catalog.indices(ids) == 0) & ids.is_not_null().to_numpy())
    if not len(rows):
        raise DataError(f"{table.source}: all of its {len(ids):,} items are in the catalog already; there is nothing to add")
    vectors = artifact.features.vectors_of(table, rows)
    titles = None if table.titles is None else table.titles.gather(rows)
    return _append(replace(artifact, model=deepcopy(artifact.model)), ids.gather(rows), titles, vectors)


def _append(artifact: Artifact, ids: pl.Series, titles: pl.Series | None, vectors: Floats) -> Artifact:
    if not len(ids):
        return artifact
    append_items(artifact.model, torch.from_numpy(vectors))
    return replace(
        artifact,
        catalog=artifact.catalog.append(ids, titles),
        training_counts=np.concatenate([artifact.training_counts, np.zeros(len(ids), artifact.training_counts.dtype)]),
        fusion=None if artifact.fusion is None else artifact.fusion.with_more_items(len(ids)),
    )


def save_artifact(
    directory: str | Path,
    model: NextItemModel,
    catalog: Catalog,
    config: Config,
    report: Mapping[str, object],
    training_counts: IntArray,
    fusion: ScoreFusion | None = None,
    features: TrainedFeatures | None = None,
) -> None:
    """Write a trained model as a folder that is either complete or absent.

    An existing artifact is replaced by renaming, and other files in it are kept. Any other existing folder is left unchanged.

    Args:
        directory: the folder to create.
        model: its weights are saved.
        catalog: ids and titles.
        config: all settings.
        report: metrics, seconds, training history, versions; a number that is not finite becomes null.
        training_counts: [V + 1], used for users without known items.
        fusion: score fusion applied to the model's scores in evaluation and serving. Required if the settings ask for one; not
            written if it changes no score.
        features: the projection of item features, if the model was trained with any.

    Raises:
        ConfigError: the settings enable score fusion, but none is passed.
        ArtifactError: the folder cannot be written or contains something else; model, catalog and counts have different sizes.
        TypeError: the report contains a value that JSON cannot represent.
    """
    if not len(catalog) == model.catalog_size == len(training_counts) - 1:
        raise ArtifactError(
            f"the model has {model.catalog_size} items, the catalog {len(catalog)} and the training counts "
            f"{len(training_counts)} entries (items + 1 expected); pass the parts of one training run"
        )
    if fusion is None and (config.fusion.cooccurrence or config.fusion.repeat_bias):
        raise ConfigError(
            f"the settings enable score fusion (fusion.cooccurrence = {config.fusion.cooccurrence!r}, fusion.repeat_bias = "
            f"{config.fusion.repeat_bias!r}), but none was passed; pass the result of tune_fusion, or set both to 0.0"
        )
    target = Path(directory).resolve()
    check_writable(target)
    new = new_folder_of(target)
    try:
        recover(target)
        new.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, new / WEIGHTS)
        (new / CONFIG).write_text(dump_config(config), encoding="utf-8")
        catalog.write(new / CATALOG)
        np.save(new / POPULARITY, training_counts, allow_pickle=False)
        (new / REPORT).write_text(f"{as_json(report, indent=2)}\n", encoding="utf-8")
        if fusion:
            fusion.write(new / FUSION)
        if features is not None:
            features.write(new / FEATURES)
        for name in (each for each in (WEIGHTS, FUSION, FEATURES) if (new / each).is_file()):
            shutil.copymode(new / CONFIG, new / name)  # safetensors creates files that only their owner can read
        (new / MANIFEST).write_text(f"{as_json(make_manifest(new), indent=2)}\n", encoding="utf-8")
        sync([*new.iterdir(), new])
        replace_artifact(new, target)
    except (OSError, safetensors.SafetensorError, pl.exceptions.PolarsError) as error:
        raise ArtifactError(f"cannot write the model to {target}: {error}; choose another folder or free disk space") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def check_writable(directory: str | Path) -> None:
    """Check before training that the artifact can be written.

    Raises:
        ArtifactError: it cannot, or the folder contains something that is not an artifact.
    """
    try:
        target = Path(directory).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of symbolic links, a NUL byte
        raise ArtifactError(f"cannot write to {str(directory)!r}: {error}; choose another folder") from error
    if escaped(str(target)) != str(target):
        raise ArtifactError(f"cannot write to {target}: safetensors needs a path in UTF-8; choose another folder")
    location = target
    try:
        if target.exists() and not (target.is_dir() and ((target / MANIFEST).is_file() or not any(target.iterdir()))):
            raise ArtifactError(f"{target} exists and is not a model of ssd4rec, so it is left unchanged; choose another folder")
        location = target.parent
        location.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=location):
            pass
    except OSError as error:
        raise ArtifactError(f"cannot write to {location}: {error.strerror or error}; choose another folder") from error


def load_artifact_or_none(directory: str | Path, device: str = "cpu") -> Artifact | None:
    """Load an artifact, or return None if no complete one of this version exists."""
    try:
        return load_artifact(directory, device)
    except ArtifactError:
        return None


def load_artifact(directory: str | Path, device: str = "cpu") -> Artifact:
    """Load a saved model after checking the hash of each file.

    Args:
        directory: a folder written by `save_artifact`.
        device: the torch device for the model.

    Raises:
        ArtifactError: the folder is missing or of another format version, a file is missing or damaged, or sizes differ.
        BackendError: the device is not available.
    """
    _check_device(device)
    if not isinstance(directory, str | Path):
        raise ArtifactError(f"expected the path of a model folder, found {type(directory).__name__}")
    folder = Path(directory)
    try:
        folder = folder.resolve()
        if not folder.exists() and old_folder_of(folder).is_dir():
            folder = old_folder_of(folder)
        files = check_manifest(folder)
        config = parse_config((folder / CONFIG).read_text(encoding="utf-8"), source=str(folder / CONFIG))
        catalog = Catalog.read(folder / CATALOG)
        counts = np.load(folder / POPULARITY, allow_pickle=False)
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        # Cloning aligns the memory as torch does; with another alignment a matrix product may round differently.
        weights = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS, device=device).items()}
        fusion = ScoreFusion.read(folder / FUSION) if FUSION in files else None
        features = TrainedFeatures.read(folder / FEATURES) if FEATURES in files else None
    except ArtifactError:
        raise
    except OSError as error:
        advice = "check its permissions" if isinstance(error, PermissionError) else "choose another folder"
        where = str(error.filename or folder)[:MAX_PATH]
        raise ArtifactError(f"cannot read {where}: {(error.strerror or str(error))[:MAX_PATH]}; {advice}") from error
    except (SSD4RecError, ValueError, RuntimeError, RecursionError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"cannot read {folder}: {error}; train the model again with this version") from error
    with SkipRandomInitialization():  # the weights are replaced below
        model = build_model(config.backbone, len(catalog))
    expected = {**model.state_dict(), POPULARITY: model.table.weight[:, 0]}
    actual = {**weights, POPULARITY: counts}
    if fusion:
        expected[FUSION], actual[FUSION] = model.table.weight[:, 0], fusion.pairs.edges
    if features:
        expected[FEATURES], actual[FEATURES] = model.table.weight[: features.trained + 1, 0], counts[: features.trained + 1]
    if mismatches := _mismatches(expected, actual):
        raise ArtifactError(
            f"{folder}: weights, settings and the catalog of {len(catalog)} items do not match: {'; '.join(mismatches)}; "
            f"copy the model again, or train it again"
        )
    model.load_state_dict(weights, assign=True)
    return Artifact(model.eval(), catalog, config, report, counts, fusion, features)


def _mismatches(expected: Mapping[str, Tensor], actual: Mapping[str, Any]) -> list[str]:
    shapes = {name: list(tensor.shape) for name, tensor in actual.items()}
    problems = [f"{name} is missing" for name in expected if name not in shapes]
    problems += [f"{name} is unexpected" for name in shapes if name not in expected]
    problems += [
        f"{name} has shape {shapes[name]}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in shapes and shapes[name] != list(tensor.shape)
    ]
    return problems[:4]


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises an AssertionError
        raise BackendError(f'the device "{device}" is not available on this machine; use "cpu"') from error
