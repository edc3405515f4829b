"""SSD4Rec: sequential recommendation with structured state space duality.

The names below are the path from a file to a recommendation; `ssd4rec.experiment` draws it on one page. Each is imported when it
is first asked for: torch takes seconds, which `ssd4rec --help` must not wait for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssd4rec.artefact import save_artefact
    from ssd4rec.backbones.make import make_backbone
    from ssd4rec.config import load_config
    from ssd4rec.data.histories import build_histories
    from ssd4rec.data.interactions import read_interactions
    from ssd4rec.data.split import leave_last_out, training_counts
    from ssd4rec.evaluation.evaluate import evaluate
    from ssd4rec.model import NextItemModel
    from ssd4rec.serving.recommender import Recommender
    from ssd4rec.training.fit import fit

    __version__: str

__all__ = [
    "NextItemModel",
    "Recommender",
    "__version__",
    "build_histories",
    "evaluate",
    "fit",
    "leave_last_out",
    "load_config",
    "make_backbone",
    "read_interactions",
    "save_artefact",
    "training_counts",
]

_HOMES = {
    "NextItemModel": "model",
    "Recommender": "serving.recommender",
    "build_histories": "data.histories",
    "evaluate": "evaluation.evaluate",
    "fit": "training.fit",
    "leave_last_out": "data.split",
    "load_config": "config",
    "make_backbone": "backbones.make",
    "read_interactions": "data.interactions",
    "save_artefact": "artefact",
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
