"""A saved model: a folder that is either complete or absent, without pickle.

    weights.safetensors   weights of the network and the item table
    config.toml           all settings
    catalog.parquet       item ids and titles
    popularity.npy        training interactions per item
    report.json           data, metrics and their protocol, training history, versions
    fusion.safetensors    score fusion, if any (see fusion.py)
    report.html           the report as a page, if `ssd4rec train` wrote the model; not part of it
    features.safetensors  projection of item features, if any (see features.py)
    manifest.json         format version, package version, SHA-256 of each file and of the manifest itself

DIR is written as .DIR.new-PID next to it and renamed at the end; an existing artifact is first renamed to .DIR.old.
If the process is killed between the two renames, .DIR.old is read instead of DIR, and the next save restores it.
Other files that a user has put into the folder are moved to the new one.
"""

from ssd4rec.artifact.contents import (
    Artifact,
    add_items,
    append_new_items,
    check_writable,
    load_artifact,
    load_artifact_or_none,
    save_artifact,
)
from ssd4rec.artifact.features import TrainedFeatures
from ssd4rec.artifact.folder import FEATURES, FILES, FORMAT, FUSION, MANIFEST, REPORT, REPORT_PAGE

__all__ = [
    "FEATURES",
    "FILES",
    "FORMAT",
    "FUSION",
    "MANIFEST",
    "REPORT",
    "REPORT_PAGE",
    "Artifact",
    "TrainedFeatures",
    "add_items",
    "append_new_items",
    "check_writable",
    "load_artifact",
    "load_artifact_or_none",
    "save_artifact",
]
