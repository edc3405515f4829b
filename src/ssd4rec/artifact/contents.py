"""What an artifact holds: written, and read back."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssd4rec._csr import IntArray
from ssd4rec._io import as_json, escaped, sync
from ssd4rec.artifact.folder import (
    CATALOGUE,
    CONFIG,
    FUSION,
    MANIFEST,
    POPULARITY,
    REPORT,
    WEIGHTS,
    aside_of,
    check_manifest,
    fresh_beside,
    make_manifest,
    rename_over,
    tidy,
)
from ssd4rec.config import Config, dump_config, parse_config
from ssd4rec.data.catalog import Catalog
from ssd4rec.errors import ArtifactError, BackendError, ConfigError, SSD4RecError
from ssd4rec.fusion import ScoreFusion
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.models.registry import make_backbone


@dataclass(frozen=True)
class Artifact:
    """What a folder held."""

    model: NextItemModel
    catalog: Catalog
    config: Config
    report: Mapping[str, Any]
    training_counts: IntArray  # [V + 1] training events of each item number
    fusion: ScoreFusion | None = None  # what is known without learning, added to the model's scores


def save_artifact(
    directory: str | Path,
    model: NextItemModel,
    catalog: Catalog,
    config: Config,
    report: Mapping[str, object],
    training_counts: IntArray,
    fusion: ScoreFusion | None = None,
) -> None:
    """Write a finished model as a folder that is whole or absent.

    An artifact that is already there is replaced by renaming; other files beside it are kept, any other folder is left alone.

    Args:
        directory: the folder to make.
        model: its weights are written.
        catalog: ids and titles.
        config: all settings.
        report: metrics, seconds, training history, versions; see `files.as_json`: a figure that is not a number becomes null.
        training_counts: [V + 1], for users of whom nothing is known.
        fusion: what is known without learning, added to the model's scores wherever it is measured or asked. Where the settings
            ask for one it must be given; one that changes no score is not written.

    Raises:
        ConfigError: the settings ask for a fusion, and none is given.
        ArtifactError: the folder cannot be written, or holds something that is not an artifact; model, catalog and counts
            are not of the same items.
        TypeError: the report holds what JSON cannot say.
    """
    if not len(catalog) == model.catalog_size == len(training_counts) - 1:
        raise ArtifactError(
            f"a model of {model.catalog_size} items, a catalog of {len(catalog)} and training counts of "
            f"{len(training_counts)} (items + 1 expected) do not belong together; save what one training made"
        )
    if fusion is None and (config.fusion.cooccurrence or config.fusion.repeat_bias):
        raise ConfigError(
            f"the settings ask for a fusion (fusion.cooccurrence = {config.fusion.cooccurrence!r}, fusion.repeat_bias = "
            f"{config.fusion.repeat_bias!r}) and none is given; give the one that tune_fusion found, or set both to 0.0"
        )
    target = Path(directory).resolve()
    check_writable(target)
    fresh = fresh_beside(target)
    try:
        tidy(target)
        fresh.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, fresh / WEIGHTS)
        (fresh / CONFIG).write_text(dump_config(config), encoding="utf-8")
        catalog.write(fresh / CATALOGUE)
        np.save(fresh / POPULARITY, training_counts, allow_pickle=False)
        (fresh / REPORT).write_text(f"{as_json(report, indent=2)}\n", encoding="utf-8")
        if fusion:
            fusion.write(fresh / FUSION)
        for name in (WEIGHTS, FUSION) if fusion else (WEIGHTS,):
            shutil.copymode(fresh / CONFIG, fresh / name)  # safetensors lets nobody else read what it writes
        (fresh / MANIFEST).write_text(f"{as_json(make_manifest(fresh), indent=2)}\n", encoding="utf-8")
        sync([*fresh.iterdir(), fresh])
        rename_over(fresh, target)
    except (OSError, safetensors.SafetensorError, pl.exceptions.PolarsError) as error:
        raise ArtifactError(f"cannot write the model to {target}: {error}; give another folder, or free some space") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check_writable(directory: str | Path) -> None:
    """See before a training whether its artifact can be written.

    Raises:
        ArtifactError: it cannot, or the folder holds something that is not an artifact.
    """
    target = Path(directory).resolve()
    if escaped(str(target)) != str(target):
        raise ArtifactError(f"cannot write to {target}: the name is no UTF-8 text, as safetensors needs it; give another folder")
    place = target
    try:
        if target.exists() and not (target.is_dir() and ((target / MANIFEST).is_file() or not any(target.iterdir()))):
            raise ArtifactError(f"{target} exists and is not an ssd4rec model; it is left alone: give another folder")
        place = target.parent
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ArtifactError(f"cannot write to {place}: {error.strerror or error}; give another folder") from error


def finished_model(directory: str | Path, device: str = "cpu") -> Artifact | None:
    """`load_artifact`, or None where it finds no whole model of this version."""
    try:
        return load_artifact(directory, device)
    except ArtifactError:
        return None


def load_artifact(directory: str | Path, device: str = "cpu") -> Artifact:
    """Read a finished model; every file is checked against its hash first.

    Args:
        directory: a folder that `save_artifact` made.
        device: where the model goes.

    Raises:
        ArtifactError: no such folder, a file is missing or changed, another format version, parts that do not fit.
        BackendError: there is no such device.
    """
    _check_device(device)
    folder = Path(directory).resolve()
    try:
        if not folder.exists() and aside_of(folder).is_dir():
            folder = aside_of(folder)
        files = check_manifest(folder)
        config = parse_config((folder / CONFIG).read_text(encoding="utf-8"), source=str(folder / CONFIG))
        catalog = Catalog.read(folder / CATALOGUE)
        counts = np.load(folder / POPULARITY, allow_pickle=False)
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        # copied to where torch would put them: a matrix product of numbers that begin elsewhere may round in another order
        weights = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS, device=device).items()}
        fusion = ScoreFusion.read(folder / FUSION) if FUSION in files else None
    except ArtifactError:
        raise
    except OSError as error:
        advice = "let this account read it" if isinstance(error, PermissionError) else "give another folder"
        raise ArtifactError(f"{error.filename or folder} cannot be read: {error.strerror or error}; {advice}") from error
    except (SSD4RecError, ValueError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{folder} cannot be read: {error}; train the model again with this version") from error
    with torch.device("meta"):  # no initial weights are drawn, only to be replaced
        model = NextItemModel(make_backbone(config.backbone), len(catalog))
    expected = {**model.state_dict(), POPULARITY: model.table.weight[:, 0]}
    found = {**weights, POPULARITY: counts}
    if fusion:
        expected[FUSION], found[FUSION] = model.table.weight[:, 0], fusion.rules.edges
    if misfits := _misfits(expected, found):
        raise ArtifactError(
            f"{folder}: weights, settings and the catalog of {len(catalog)} items do not fit together: {'; '.join(misfits)}; "
            f"copy the model again, or train it again"
        )
    model.load_state_dict(weights, assign=True)
    return Artifact(model.eval(), catalog, config, report, counts, fusion)


def _misfits(expected: Mapping[str, Tensor], found: Mapping[str, Any]) -> list[str]:
    shapes = {name: list(tensor.shape) for name, tensor in found.items()}
    problems = [f"{name} is missing" for name in expected if name not in shapes]
    problems += [f"{name} is not expected" for name in shapes if name not in expected]
    problems += [
        f"{name} has the shape {shapes[name]}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in shapes and shapes[name] != list(tensor.shape)
    ]
    return problems[:4]


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise BackendError(f'the device "{device}" is not available on this machine; use "cpu"') from error
