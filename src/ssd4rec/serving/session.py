"""The growing history of one user: each event is read once, and recommendations always include the last one."""

import copy
import json
import stat
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from ssd4rec._csr import IntArray
from ssd4rec._io import atomic_write, digest_of
from ssd4rec.array_types import States
from ssd4rec.errors import ArtifactError
from ssd4rec.layers.step import Cache
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.serving.arguments import Ids, Moment, as_ids, unknown_ids
from ssd4rec.serving.recommender import Recommendations, Recommender, UnknownItems
from ssd4rec.serving.topk import at_times, top_items_from_states

FORMAT = "ssd4rec session 2"
# Sums without decay (backward_sum, log_decay) stay in float32: their rounding errors would add up from snapshot to snapshot.
HALF_PRECISION_PARTS = ("ssm_state", "conv_state", "first_conv", "first_gate")


class Session:
    """The history of one user, which grows event by event.

    If the model supports incremental states (`Recommender.supports_incremental`), the session keeps a state of constant size and
    reads each event exactly once, at a cost that does not depend on the length of the history. Otherwise the complete history is
    encoded again for each request. In both cases the results equal those of `Recommender.recommend`.

    A session may be used by one thread at a time; several sessions can share a recommender.

    Args:
        recommender: a trained model.
        history: item ids so far, oldest first. Unknown ids are stored, but not read by the model.

    Raises:
        DataError: the history is not a list of ids.
    """

    def __init__(self, recommender: Recommender, history: Ids = ()) -> None:
        self.recommender = recommender
        self._ids: list[object] = []
        self._indices = array("q")  # item index of each id, 0 = unknown; grows in place
        self._unknown: list[object] = []
        self._cache: Cache | None = None
        self._states: States | None = None  # [1, D], the output of `encode`
        self._read(self._append(as_ids(history)))

    @property
    def history(self) -> tuple[object, ...]:
        """Item ids so far, oldest first."""
        return tuple(self._ids)

    @property
    def state_bytes(self) -> int:
        """Size of the recurrent state in bytes; 0 if the history is encoded again for each request."""
        return sum(part.nbytes for layer in self._cache or () for part in layer)

    def add(self, item: object) -> None:
        """Append one event to the history.

        Raises:
            DataError: the item is not a valid id.
        """
        self._read(self._append(as_ids([item])))

    def recommend(
        self,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Ids | None = None,
        deny: Ids | None = None,
        unknown_items: UnknownItems = "skip",
        at: Moment | Sequence[Moment] | None = None,
        last_event: Moment | Sequence[Moment] | None = None,
    ) -> Recommendations:
        """Recommend the next items; arguments and errors are those of `Recommender.recommend`."""
        recommender, indices = self.recommender, np.array(self._indices, dtype=np.int64)
        request = recommender.request(k, exclude_seen=exclude_seen, allow=allow, deny=deny, unknown_items=unknown_items)
        if self._unknown and unknown_items == "raise":
            recommender.indices([self._ids], unknown_items)
        times = recommender.request_times(1, at, last_event)
        if self._states is None or (request.require_known_history and self._unknown):
            (top,) = recommender.top_items([indices], request, times)
        else:
            states = at_times(self._model, self._states, times)
            items = torch.from_numpy(indices[indices > 0]).to(states.device)
            packed = items, torch.tensor([0, len(items)])
            (top,) = top_items_from_states(self._model, states, packed, request, recommender.artifact.fusion)
        return recommender.to_recommendations(len(indices), tuple(self._unknown), top, request)

    def copy(self) -> "Session":
        """Return an independent copy; tensors are shared because no operation changes them in place."""
        other = copy.copy(self)
        vars(other).update(_ids=list(self._ids), _indices=self._indices[:], _unknown=list(self._unknown))
        return other

    def save(self, path: str | Path, *, half: bool = False) -> None:
        """Write history and state to a safetensors file; the file is either complete or absent.

        Args:
            path: a file to create or to replace.
            half: store the large parts of the state in float16, at half the size. A session loaded from such a file continues
                from the rounded state: scores change by about 2e-4 of their spread, independent of the number of saves and loads.

        Raises:
            ArtifactError: the file cannot be written, the path is not a regular file, or an id is neither a string nor a number.
        """
        path = Path(path)
        _check_regular(path)
        for item in self._ids:
            if not isinstance(item, str | int | float | None):
                raise ArtifactError(
                    f"cannot write the session to {path}: the history contains {item!r}, but only strings and numbers can be "
                    f"saved; use one of these as item ids"
                )
        parts = {}
        for layer, cache in enumerate(self._cache or ()):
            for name, part in cache._asdict().items():
                parts[f"{layer}.{name}"] = (part.half() if half and name in HALF_PRECISION_PARTS else part).contiguous()
        if self._states is not None:
            parts["states"] = self._states.contiguous()
        history = json.dumps(self._ids)
        metadata = {"format": FORMAT, "model": self.recommender.fingerprint(), "history": history}
        try:
            with atomic_write(path) as partial:
                save_file(parts, partial, metadata={**metadata, "sha256": _checksum(metadata, parts)})
        except (OSError, safetensors.SafetensorError, ValueError) as error:
            raise ArtifactError(f"cannot write the session to {path}: {error}; choose another path or free disk space") from error

    @classmethod
    def load(cls, path: str | Path, recommender: Recommender) -> "Session":
        """Load a session written by `save` and continue it.

        Raises:
            ArtifactError: the file is missing or damaged, is not a session, or belongs to another model.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = dict(file.metadata() or {})
                parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, safetensors.SafetensorError, ValueError, UnicodeError) as error:
            raise ArtifactError(f"cannot read the session {path}: {error}; expected a file written by Session.save") from error
        if metadata.get("format") != FORMAT:
            raise ArtifactError(
                f"{path} has the format {metadata.get('format')!r}, expected {FORMAT!r} (written by Session.save)"
            )
        checksum = metadata.pop("sha256", None)
        if checksum != _checksum(metadata, parts):
            raise ArtifactError(f"{path} is damaged: its SHA-256 does not match; start a new session from the user's history")
        if metadata.get("model") != recommender.fingerprint():
            raise ArtifactError(f"{path} belongs to another model; start a new session: Session(recommender, history)")
        model = recommender.artifact.model
        session = cls(recommender)
        indices = session._append(json.loads(metadata["history"]))
        # A model with data.max_length reads only recent events, so a state of the complete history cannot be used.
        if "states" in parts and recommender.supports_incremental:
            session._states = parts.pop("states").to(model.item_vectors)
            session._cache = _to_cache(parts, model)
        else:
            session._read(indices)
        return session

    @property
    def _model(self) -> NextItemModel:
        return self.recommender.artifact.model

    def _append(self, ids: list[object]) -> IntArray:
        """Store ids and return their item indices."""
        (indices,) = self.recommender.indices([ids])
        self._ids += ids
        self._indices.frombytes(indices.tobytes())
        self._unknown += unknown_ids(ids, indices)
        return indices

    def _read(self, indices: IntArray) -> None:
        """Update the recurrent state with new events."""
        known_items = indices[indices > 0]
        if not self.recommender.supports_incremental or not len(known_items):
            return
        items = torch.from_numpy(known_items).to(self._model.item_vectors.device)
        with torch.inference_mode():
            if self._cache is None:
                self._cache, self._states = self._model.prefill(items, torch.tensor([0, len(items)]))
                return
            for item in items:
                self._cache, self._states = self._model.advance(self._cache, item[None])


def _check_regular(path: Path) -> None:
    """Refuse to replace a folder, a symbolic link or a device."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot write the session to {path}: {error}; choose another path") from error
    if not stat.S_ISREG(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise ArtifactError(f"cannot write the session to {path}: it is {kind}; choose another path")


def _checksum(metadata: Mapping[str, Any], parts: Mapping[str, Tensor]) -> str:
    return digest_of(json.dumps(metadata, sort_keys=True), parts)


def _to_cache(parts: dict[str, Tensor], model: NextItemModel) -> Cache:
    """Convert saved tensors to the cache of the model, whose shapes they must have."""
    layers = []
    for layer, empty in enumerate(model.new_cache(1)):
        saved = {name: parts.get(f"{layer}.{name}") for name in empty._fields}
        for name, like in empty._asdict().items():
            part = saved[name]
            if part is None or part.shape != like.shape:
                actual = "missing" if part is None else f"of shape {list(part.shape)}"
                raise ArtifactError(f"the session's {name} of layer {layer} is {actual}, expected shape {list(like.shape)}")
        layers.append(type(empty)(*(part.to(like) for part, like in zip(saved.values(), empty, strict=True) if part is not None)))
    return layers
