"""One user's history as it grows: events in, recommendations out, no event read twice by the model."""

import copy
import json
from array import array
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from ssd4rec._csr import IntArray
from ssd4rec._io import atomic_write
from ssd4rec.array_types import States
from ssd4rec.errors import ArtifactError
from ssd4rec.layers.step import Cache, LayerCache
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.serving.recommender import Ids, Recommendations, Recommender, UnknownItems, as_ids, unknown_of
from ssd4rec.serving.topk import best_of_states

FORMAT = "ssd4rec session 1"
# Sums from which nothing fades, "settled" and "decay", stay in float32: their rounding would grow from snapshot to snapshot.
IN_HALF = ("scan", "recent", "first", "first_gate")


class Session:
    """A history that grows event by event.

    A model that reads event by event (`Recommender.supports_incremental`) keeps a state of constant size and never reads an
    event twice: one more costs the same whatever came before. An answer scores the catalog and goes once over the item numbers
    so far, eight bytes an event, to leave out what was seen. Any other model reads the whole history again when it is asked. The
    answers are those of `Recommender.recommend`.

    A session is for one thread at a time; several sessions of one recommender may each have theirs.

    Args:
        recommender: of a finished model.
        history: item ids so far, oldest first; unknown ones are remembered, and not read.

    Raises:
        DataError: the history is no list of ids.
    """

    def __init__(self, recommender: Recommender, history: Ids = ()) -> None:
        self.recommender = recommender
        self._ids: list[object] = []
        self._numbers = array("q")  # of the ids, 0 = unknown; looked up once, as they come; grows without being copied each time
        self._unknown: list[object] = []
        self._cache: Cache | None = None
        self._states: States | None = None  # [1, D] what `encode` gives
        self._catch_up(self._append(as_ids(history)))

    @property
    def history(self) -> tuple[object, ...]:
        """Item ids so far, oldest first."""
        return tuple(self._ids)

    @property
    def bytes(self) -> int:
        """The size of the state, in bytes; 0 where the history is read again instead."""
        return sum(part.nbytes for layer in self._cache or () for part in layer)

    def add(self, item: object) -> None:
        """One more event."""
        self._catch_up(self._append(as_ids([item])))

    def recommend(
        self,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Ids | None = None,
        deny: Ids | None = None,
        unknown_items: UnknownItems = "skip",
    ) -> Recommendations:
        """What comes next; arguments and errors are those of `Recommender.recommend`."""
        recommender, numbers = self.recommender, np.array(self._numbers, dtype=np.int64)
        request = recommender.request(k, exclude_seen=exclude_seen, allow=allow, deny=deny, unknown_items=unknown_items)
        if self._unknown and unknown_items == "raise":
            recommender.numbers([self._ids], unknown_items)
        if self._states is None or (request.trust_only_known and self._unknown):
            (best,) = recommender.best([numbers], request)
        else:
            items = torch.from_numpy(numbers[numbers > 0]).to(self._states.device)
            fusion = recommender.artifact.fusion
            (best,) = best_of_states(self._model, self._states, items, torch.tensor([0, len(items)]), request, fusion)
        return recommender.answer(len(numbers), tuple(self._unknown), best, request)

    def copy(self) -> "Session":
        """The same session once more; each goes on by itself, at the price of a list of ids and one of their numbers."""
        other = copy.copy(self)
        # these grow in place, the rest does not
        vars(other).update(_ids=list(self._ids), _numbers=self._numbers[:], _unknown=list(self._unknown))
        return other

    def save(self, path: str | Path, *, half: bool = False) -> None:
        """Write history and state as a safetensors file, whole or not at all.

        Args:
            path: the file.
            half: the large parts of the state in float16, in half the bytes. Who loads it goes on from the rounded state; what
                that does to scores stays at 2e-4 of their spread, however often it is saved and loaded (docs/log.md).

        Raises:
            ArtifactError: the file cannot be written, or ids are neither texts nor numbers.
        """
        path = Path(path)
        if strange := [item for item in self._ids if not isinstance(item, str | int | float | None)]:
            raise ArtifactError(
                f"cannot write the session to {path}: its history holds {strange[0]!r}, and a file holds texts and numbers; give "
                f"item ids as one of these"
            )
        parts = {}
        for place, layer in enumerate(self._cache or ()):
            for name, part in layer._asdict().items():
                parts[f"{place}.{name}"] = (part.half() if half and name in IN_HALF else part).contiguous()
        if self._states is not None:
            parts["states"] = self._states.contiguous()
        try:
            about = {"format": FORMAT, "model": self.recommender.fingerprint(), "history": json.dumps(self._ids)}
            with atomic_write(path) as partial:
                save_file(parts, partial, metadata=about)
        except (OSError, safetensors.SafetensorError) as error:
            raise ArtifactError(f"cannot write the session to {path}: {error}; give another path, or free some space") from error

    @classmethod
    def load(cls, path: str | Path, recommender: Recommender) -> "Session":
        """Go on with a session that was saved.

        Raises:
            ArtifactError: the file is missing or damaged, is no session, or is one of another model.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except (OSError, safetensors.SafetensorError) as error:
            raise ArtifactError(f"cannot read the session {path}: {error}; give a file that Session.save wrote") from error
        if about.get("format") != FORMAT:
            raise ArtifactError(f"{path} holds {about.get('format')!r}, expected {FORMAT!r}; give a file that Session.save wrote")
        model = recommender.artifact.model
        if about["model"] != recommender.fingerprint():
            raise ArtifactError(f"{path} is a session of another model; begin a new one: Session(recommender, history)")
        session = cls(recommender)
        numbers = session._append(json.loads(about["history"]))
        if "states" in parts and recommender.supports_incremental:  # else it is of the whole history, of which a part is read
            session._states = parts.pop("states").to(model.item_vectors)
            session._cache = _layers(parts, model)
        else:
            session._catch_up(numbers)
        return session

    @property
    def _model(self) -> NextItemModel:
        return self.recommender.artifact.model

    def _append(self, ids: list[object]) -> IntArray:
        """Remember more ids; their item numbers."""
        (numbers,) = self.recommender.numbers([ids])
        self._ids += ids
        self._numbers.frombytes(numbers.tobytes())
        self._unknown += unknown_of(ids, numbers)
        return numbers

    def _catch_up(self, numbers: IntArray) -> None:
        known = numbers[numbers > 0]
        if not self.recommender.supports_incremental or not len(known):
            return
        items = torch.from_numpy(known).to(self._model.item_vectors.device)
        with torch.inference_mode():
            if self._cache is None:
                self._cache, self._states = self._model.prefill(items, torch.tensor([0, len(items)]))
                return
            for item in items:
                self._cache, self._states = self._model.advance(self._cache, item[None])


def _layers(parts: dict[str, Tensor], model: NextItemModel) -> Cache:
    """The saved parts as the model's own state; each must have the shape that the model expects."""
    layers = []
    for place, empty in enumerate(model.new_cache(1)):
        saved = {name: parts.get(f"{place}.{name}") for name in LayerCache._fields}
        for name, like in empty._asdict().items():
            part = saved[name]
            if part is None or part.shape != like.shape:
                found = "nothing" if part is None else list(part.shape)
                raise ArtifactError(f"the session's {name} of layer {place} is {found}, expected {list(like.shape)}")
        layers.append(LayerCache(*(part.to(like) for part, like in zip(saved.values(), empty, strict=True) if part is not None)))
    return layers
