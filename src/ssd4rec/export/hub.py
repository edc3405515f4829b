"""Models on the Hugging Face hub: save_pretrained, push_to_hub and from_pretrained. Needs the extra `hub`."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, snapshot_download

from ssd4rec.artifact import Artifact, load_artifact
from ssd4rec.serving.recommender import Recommender

DOWNLOAD_OPTIONS = ("revision", "cache_dir", "force_download", "local_files_only", "token")


class HubRecommender(  # type: ignore[call-arg]  # arguments of the mixin, which mypy does not see
    Recommender,
    ModelHubMixin,  # type: ignore[misc]
    library_name="ssd4rec",
    tags=["recommender-system", "sequential-recommendation"],
):
    """A recommender that is shared through the hub.

    HubRecommender.load("artifacts/model").push_to_hub("me/my-model")
    HubRecommender.from_pretrained("me/my-model").recommend(history)

    The files are those of a saved model, next to a model card; `ssd4rec recommend` reads the folder as well.
    """

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self._hub_mixin_config = None  # the artifact is not a set of JSON values; its own files hold everything

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the files of the model; the mixin made the folder."""
        self.save(save_directory)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        map_location: str = "cpu",
        **options: Any,
    ) -> "HubRecommender":
        """Read a local folder, or download one; other options are for the download."""
        download = {name: options[name] for name in DOWNLOAD_OPTIONS}
        folder = model_id if Path(model_id).is_dir() else snapshot_download(model_id, **download)
        return cls(load_artifact(folder, map_location))
