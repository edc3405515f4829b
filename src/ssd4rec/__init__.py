"""SSD4Rec: sequential recommendation with structured state space duality.

The names below are the path from a file to a recommendation, and what its signatures ask for; `ssd4rec.pipeline` draws it on
one page. Each is imported when it is first asked for: torch takes seconds, which `ssd4rec --help` must not wait for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssd4rec.artifact import load_artifact, save_artifact
    from ssd4rec.config import load_config
    from ssd4rec.data.columns import Columns
    from ssd4rec.data.interactions import read_interactions
    from ssd4rec.data.sequences import build_sequences
    from ssd4rec.data.split import leave_last_out, make_split, split_by_time, training_counts
    from ssd4rec.errors import SSD4RecError
    from ssd4rec.evaluation.evaluate import evaluate
    from ssd4rec.models.next_item import NextItemModel, make_model
    from ssd4rec.models.registry import make_backbone
    from ssd4rec.serving.batch import recommend_users
    from ssd4rec.serving.recommender import Recommender, as_frame
    from ssd4rec.serving.session import Session
    from ssd4rec.serving.session_store import SessionStore
    from ssd4rec.training.fit import fit

    __version__: str

__all__ = [
    "Columns",
    "NextItemModel",
    "Recommender",
    "SSD4RecError",
    "Session",
    "SessionStore",
    "__version__",
    "as_frame",
    "build_sequences",
    "evaluate",
    "fit",
    "leave_last_out",
    "load_artifact",
    "load_config",
    "make_backbone",
    "make_model",
    "make_split",
    "read_interactions",
    "recommend_users",
    "save_artifact",
    "split_by_time",
    "training_counts",
]

# Said three times, and held together by a test: mypy reads names of a literal __all__ and imports, none of them made at run time.
_HOMES = {
    "Columns": "data.columns",
    "NextItemModel": "models.next_item",
    "Recommender": "serving.recommender",
    "SSD4RecError": "errors",
    "Session": "serving.session",
    "SessionStore": "serving.session_store",
    "as_frame": "serving.recommender",
    "build_sequences": "data.sequences",
    "evaluate": "evaluation.evaluate",
    "fit": "training.fit",
    "leave_last_out": "data.split",
    "load_artifact": "artifact",
    "load_config": "config",
    "make_backbone": "models.registry",
    "make_model": "models.next_item",
    "make_split": "data.split",
    "read_interactions": "data.interactions",
    "recommend_users": "serving.batch",
    "save_artifact": "artifact",
    "split_by_time": "data.split",
    "training_counts": "data.split",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # noqa: PLC0415 - the command would wait for it too

        return metadata.version("ssd4rec")
    if name not in _HOMES:
        raise AttributeError(f"module 'ssd4rec' has no attribute {name!r}")
    return getattr(import_module(f"ssd4rec.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
