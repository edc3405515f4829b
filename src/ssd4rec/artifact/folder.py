"""The folder of an artifact: its manifest, and how a new one takes the place of an old one."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ssd4rec._io import sha256_of, stale_temp_files, sync
from ssd4rec.errors import ArtifactError

FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS, CONFIG, CATALOGUE, POPULARITY, REPORT = (
    "weights.safetensors",
    "config.toml",
    "catalog.parquet",
    "popularity.npy",
    "report.json",
)
FILES = (WEIGHTS, CONFIG, CATALOGUE, POPULARITY, REPORT)
FUSION = "fusion.safetensors"  # the one file that need not be there


def check_manifest(folder: Path) -> set[str]:
    """The files of an artifact that is whole; OSError where the system refuses one."""
    if folder.is_file():
        raise ArtifactError(f"{folder} is a file, not the folder of a model; give the folder that `ssd4rec train --out` wrote")
    if not folder.is_dir():
        raise ArtifactError(f"no model at {folder}: there is no such folder; `ssd4rec train DATA --out {folder}` makes one")
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(f"{folder} is not an ssd4rec model: it has no {MANIFEST}; give the folder that `train --out` wrote")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version, hashes = manifest["format"], dict(manifest["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / MANIFEST} is damaged: {error}; copy the model again, or train it again") from error
    if version != FORMAT:
        raise ArtifactError(
            f"{folder} has format {version}, this ssd4rec reads format {FORMAT}; use the ssd4rec that wrote it "
            f"({manifest.get('ssd4rec', 'unknown')}), or train again"
        )
    if hashes.pop(MANIFEST, None) != _hash_of_manifest(manifest):
        raise ArtifactError(f"{folder / MANIFEST} is damaged: it was changed; copy the model again, or train it again")
    files = {*FILES, *hashes}
    if unknown := sorted(files - {*FILES, FUSION}):
        raise ArtifactError(
            f"{folder} holds {', '.join(unknown)}, which this ssd4rec cannot read; use the ssd4rec that wrote it "
            f"({manifest.get('ssd4rec', 'unknown')}), or train again"
        )
    for name in sorted(files):
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder} is incomplete: {name} is missing; copy the model again, or train it again")
        if (found := sha256_of(folder / name)) != hashes.get(name):
            raise ArtifactError(
                f"{folder / name} was changed or cut short: SHA-256 {found[:12]}…, expected {str(hashes.get(name))[:12]}…; "
                f"copy the model again, or train it again"
            )
    return files


def make_manifest(folder: Path) -> dict[str, Any]:
    """What `check_manifest` asks for."""
    hashes = {name: sha256_of(folder / name) for name in (*FILES, FUSION) if (folder / name).is_file()}
    manifest = {"format": FORMAT, "ssd4rec": metadata.version("ssd4rec"), "sha256": hashes}
    return {**manifest, "sha256": {**hashes, MANIFEST: _hash_of_manifest(manifest)}}


def _hash_of_manifest(manifest: Mapping[str, Any]) -> str:
    """Of everything that it says, but for this hash."""
    others = {name: value for name, value in manifest["sha256"].items() if name != MANIFEST}
    return hashlib.sha256(json.dumps({**manifest, "sha256": others}, sort_keys=True).encode()).hexdigest()


def fresh_beside(target: Path) -> Path:
    """Where this process writes the new one."""
    return target.with_name(f"{_fresh_prefix(target)}{os.getpid()}")


def _fresh_prefix(target: Path) -> str:
    return f".{target.name}.new-"


def aside_of(target: Path) -> Path:
    """Where the old one is while the new one takes its name."""
    return target.with_name(f".{target.name}.old")


def tidy(target: Path) -> None:
    """Undo what a save that was killed has left: an old artifact that nothing replaced comes back, half a new one goes.

    What a process that is alive writes is left to it.
    """
    aside = aside_of(target)
    if aside.is_dir() and not target.exists():
        aside.rename(target)
    _clear_away(aside, target)
    for left in stale_temp_files(target.parent, _fresh_prefix(target)):
        shutil.rmtree(left, ignore_errors=True)


def rename_over(fresh: Path, target: Path) -> None:
    """Give the new one its name; what was there comes back where that cannot be."""
    aside = aside_of(target)
    if target.exists():
        target.rename(aside)
    try:
        fresh.rename(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
    sync([target.parent])
    _clear_away(aside, target)


def _clear_away(aside: Path, target: Path) -> None:
    """Remove an artifact that was replaced; what else lies there moves to the new one, unless something has its name by now."""
    if not aside.is_dir():
        return
    for entry in list(aside.iterdir()):
        if entry.name not in {*FILES, FUSION, MANIFEST} and not os.path.lexists(target / entry.name):
            entry.rename(target / entry.name)
    shutil.rmtree(aside, ignore_errors=True)
