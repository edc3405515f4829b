"""The folder of an artifact: its manifest, and how a new version replaces an old one."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ssd4rec._io import replace_folder, sha256_of, stale_temp_files, sync
from ssd4rec.errors import ArtifactError

FORMAT = 2  # 1: before settings, reports and files used the current names
MANIFEST = "manifest.json"
WEIGHTS, CONFIG, CATALOG, POPULARITY, REPORT = (
    "weights.safetensors",
    "config.toml",
    "catalog.parquet",
    "popularity.npy",
    "report.json",
)
FILES = (WEIGHTS, CONFIG, CATALOG, POPULARITY, REPORT)
REPORT_PAGE = "report.html"  # optional, for people; not verified, and removed with the model that it is about
FUSION, FEATURES = "fusion.safetensors", "features.safetensors"
OPTIONAL = (FUSION, FEATURES)

RESTORE = "copy the model again, or train it again"


def check_manifest(folder: Path) -> set[str]:
    """Verify a folder against its manifest and return the names of its files.

    Raises:
        ArtifactError: the folder is missing, incomplete, damaged, or of another format version.
        OSError: a file cannot be read.
    """
    if folder.is_file():
        raise ArtifactError(f"{folder} is a file, expected the folder of a model (written by `ssd4rec train --out`)")
    if not folder.is_dir():
        raise ArtifactError(
            f"no model at {folder}: the folder does not exist; train one with `ssd4rec train DATA --out {folder}`"
        )
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(f"{folder} is not a model of ssd4rec: {MANIFEST} is missing; pass a folder written by `train --out`")
    manifest, hashes = _read_manifest(folder / MANIFEST)
    if hashes.pop(MANIFEST, None) != _hash_of_manifest(manifest):
        raise ArtifactError(f"{folder / MANIFEST} is damaged: its SHA-256 does not match; {RESTORE}")
    files = {*FILES, *hashes}
    if unexpected := sorted(files - {*FILES, *OPTIONAL}):
        raise ArtifactError(
            f"{folder} contains {', '.join(unexpected)}, which this version cannot read; train the model again, or use ssd4rec "
            f"{manifest.get('ssd4rec', 'unknown')}, which wrote it"
        )
    for name in sorted(files):
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder} is incomplete: {name} is missing; {RESTORE}")
        if (actual := sha256_of(folder / name)) != hashes.get(name):
            raise ArtifactError(
                f"{folder / name} is damaged: its SHA-256 is {actual[:12]}…, expected {str(hashes.get(name))[:12]}…; {RESTORE}"
            )
    return files


def _read_manifest(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the manifest and the hashes in it."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, hashes = manifest["format"], dict(manifest["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {error}; {RESTORE}") from error
    if version != FORMAT:
        raise ArtifactError(
            f"{path.parent} has format {version}, but this version of ssd4rec reads format {FORMAT}; "
            f"train the model again (`ssd4rec train DATA --out {path.parent}`), "
            f"or use ssd4rec {manifest.get('ssd4rec', 'unknown')}"
        )
    return manifest, hashes


def make_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder, which `check_manifest` verifies."""
    hashes = {name: sha256_of(folder / name) for name in (*FILES, *OPTIONAL) if (folder / name).is_file()}
    manifest = {"format": FORMAT, "ssd4rec": metadata.version("ssd4rec"), "sha256": hashes}
    return {**manifest, "sha256": {**hashes, MANIFEST: _hash_of_manifest(manifest)}}


def _hash_of_manifest(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the manifest without this hash."""
    others = {name: value for name, value in manifest["sha256"].items() if name != MANIFEST}
    return hashlib.sha256(json.dumps({**manifest, "sha256": others}, sort_keys=True).encode()).hexdigest()


def new_folder_of(target: Path) -> Path:
    """Return the temporary folder that this process writes."""
    return target.with_name(f"{_new_prefix(target)}{os.getpid()}")


def _new_prefix(target: Path) -> str:
    return f".{target.name}.new-"


def old_folder_of(target: Path) -> Path:
    """Return the name of the old artifact while the new one is being renamed."""
    return target.with_name(f".{target.name}.old")


def recover(target: Path) -> None:
    """Repair what a killed process has left: restore an old artifact without successor, delete incomplete new ones.

    Folders of processes that are still running are not touched.
    """
    old = old_folder_of(target)
    if old.is_dir() and not target.exists():
        old.rename(target)
    _remove_old(old, target)
    for leftover in stale_temp_files(target.parent, _new_prefix(target)):
        shutil.rmtree(leftover, ignore_errors=True)


def replace_artifact(new: Path, target: Path) -> None:
    """Rename the new artifact to its final name; restore the old one if that fails."""
    old = old_folder_of(target)
    replace_folder(new, target, old)
    sync([target.parent])
    _remove_old(old, target)


def _remove_old(old: Path, target: Path) -> None:
    """Delete a replaced artifact; other files in it are moved to the new one unless the name is taken."""
    if not old.is_dir():
        return
    for entry in list(old.iterdir()):
        if entry.name not in {*FILES, *OPTIONAL, MANIFEST, REPORT_PAGE} and not os.path.lexists(target / entry.name):
            entry.rename(target / entry.name)
    shutil.rmtree(old, ignore_errors=True)
