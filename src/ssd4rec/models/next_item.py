"""A next-item model: an item table, a backbone that reads histories of its vectors, and the same table to score with."""

import hashlib
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from ssd4rec.array_types import CuSeqlens, Hidden, Items, Packed, Scores, States
from ssd4rec.config import BackboneConfig, Config
from ssd4rec.errors import ConfigError, ShapeError
from ssd4rec.layers.dropout import Dropout
from ssd4rec.layers.fading_sum import FadingCache, FadingSum
from ssd4rec.layers.repeat_logits import RepeatLogits
from ssd4rec.layers.step import Cache
from ssd4rec.models.registry import make_backbone
from ssd4rec.ops import keyed_random
from ssd4rec.ops.cross_entropy import AddedLogits, smoothing_loss
from ssd4rec.ops.dispatch import linear_cross_entropy
from ssd4rec.ops.repeats import PrefixItems, sequence_items
from ssd4rec.ops.sampled_softmax import NegativeSampler, sampled_cross_entropy
from ssd4rec.ops.segments import append, to_device


@runtime_checkable
class Backbone(Protocol):
    """What reads a history; see `ssd4rec.models`."""

    width: int

    def encode(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> States:
        """[T, D] -> [B, D]: what it knows at the end of each history."""
        ...

    def encode_prefixes(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """[T, D] -> [T, D]: the same for the prefix that ends at each position."""
        ...


@runtime_checkable
class MaskedItemEncoder(Protocol):
    """What a backbone that reads both ways in each layer has in place of `encode_prefixes`."""

    def encode_positions(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """[T, D] -> [T, D]: what it knows of each position, from what comes before and after it."""
        ...


@runtime_checkable
class IncrementalEncoder(Protocol):
    """A backbone that can read one more event of a history without the events before it."""

    def new_cache(self, histories: int) -> Cache:
        """What it remembers of histories that have not begun."""
        ...

    def step(self, cache: Cache, embedded: States) -> tuple[Cache, States]:
        """One more event of each history: the new cache, and [B, D] what `encode` gives with it."""
        ...

    def prefill(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> tuple[Cache, States]:
        """The same after whole histories, at once."""
        ...

    @property
    def supports_incremental(self) -> bool:
        """Whether its wiring allows it."""
        ...


class NextItemModel(nn.Module):
    """Scores every item of the catalog as the next one of a history.

    Item numbers run from 1 to V. Number 0 means "masked": it has a trainable row of its own, is read but never scored
    (difference D2).

    Args:
        backbone: reads the item vectors; an `nn.Module` with the methods of `Backbone`.
        catalog_size: V.
        input_dropout: of the item vectors that the backbone reads; the vectors that score are never dropped out.
        input_fade: what the backbone reads is a fading sum of the item vectors, whose decay is learned from this value on; 0.0:
            the item vectors themselves.
        repeat_logits: logits of the items that a sequence already holds; None: nothing is added to their scores.
    """

    def __init__(
        self,
        backbone: nn.Module,
        catalog_size: int,
        *,
        input_dropout: float = 0.0,
        input_fade: float = 0.0,
        repeat_logits: RepeatLogits | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.catalog_size = catalog_size
        self.input_dropout = Dropout(input_dropout)
        self.fading_sum = FadingSum(input_fade) if input_fade else None
        self.repeat_logits = repeat_logits
        self.table = nn.Embedding(catalog_size + 1, self._reader.width)
        nn.init.normal_(self.table.weight, std=0.02)

    @property
    def _reader(self) -> Backbone:
        return cast("Backbone", self.backbone)

    @property
    def item_vectors(self) -> Tensor:
        """[V, D]: row j is the vector of item number j + 1."""
        return self.table.weight[1:]

    def encode(self, items: Items, cu_seqlens: CuSeqlens) -> States:
        """Read packed histories. A backbone that fills in blanks is asked for one: item 0 is appended to each history.

        Args:
            items: int64 [T] item numbers, 0 = masked.
            cu_seqlens: int64 [B + 1]; history u is items[cu_seqlens[u]:cu_seqlens[u + 1]]. They may stay on the CPU while the
                items are on a GPU; nothing then waits for the GPU.

        Returns:
            [B, D]: one state a history.

        Raises:
            ShapeError: items and cu_seqlens do not fit.
        """
        self._check(items, cu_seqlens)
        if isinstance(self.backbone, MaskedItemEncoder):
            with keyed_random.appended(cu_seqlens):
                items, cu_seqlens = append(items, cu_seqlens, items.new_zeros(len(cu_seqlens) - 1))
                return self._reader.encode(self.embed(items, cu_seqlens), cu_seqlens)
        return self._reader.encode(self.embed(items, cu_seqlens), cu_seqlens)

    def encode_prefixes(self, items: Items, cu_seqlens: CuSeqlens) -> Hidden:
        """Read packed histories; row t is the state of the prefix that ends at position t. [T] -> [T, D]."""
        self._check(items, cu_seqlens)
        return self._reader.encode_prefixes(self.embed(items, cu_seqlens), cu_seqlens)

    def encode_masked(self, items: Items, cu_seqlens: CuSeqlens) -> Hidden:
        """Read packed histories with blanks (item 0); row t is what is known of position t. [T] -> [T, D].

        Raises:
            ConfigError: the backbone does not fill in blanks.
            ShapeError: items and cu_seqlens do not fit.
        """
        self._check(items, cu_seqlens)
        if not isinstance(self.backbone, MaskedItemEncoder):
            raise ConfigError(
                f'{type(self.backbone).__name__} does not predict masked items; use the objective "all-positions" or "per-prefix"'
            )
        return self.backbone.encode_positions(self.embed(items, cu_seqlens), cu_seqlens)

    @property
    def supports_incremental(self) -> bool:
        """Whether `new_cache`, `step` and `prefill` work: no layer below the top reads backwards."""
        return isinstance(self.backbone, IncrementalEncoder) and self.backbone.supports_incremental

    def new_cache(self, histories: int) -> Cache:
        """What the model remembers of histories that have not begun.

        Raises:
            ConfigError: the backbone does not read event by event.
        """
        cache = self._stepper.new_cache(histories)
        if self.fading_sum is None:
            return cache
        return [self.fading_sum.new_cache(histories, self._reader.width), *cache]

    def step(self, cache: Cache, items: Items) -> tuple[Cache, Scores]:
        """Read one more event of each history, at a price that does not depend on how many were read before.

        Args:
            cache: of B histories, from `new_cache`, `prefill` or an earlier step; it is not changed.
            items: int64 [B] item numbers.

        Returns:
            The new cache, and [B, V] the scores that `encode` and `score` give for the histories with the new event.

        Raises:
            ConfigError: the backbone does not read event by event; the model has `repeat_logits`, which need the whole history:
                use `advance` and `score`.
        """
        if self.repeat_logits is not None:
            raise ConfigError("the scores of a model with repeat logits depend on the whole history; use advance() and score()")
        new, states = self.advance(cache, items)
        return new, self.score(states)

    def advance(self, cache: Cache, items: Items) -> tuple[Cache, States]:
        """`step` without the scores: the new cache, and [B, D] what `encode` gives."""
        embedded = self.input_dropout(self.table(items))
        if self.fading_sum is None:
            return self._stepper.step(cache, embedded)
        first, *rest = cache
        faded, embedded = self.fading_sum.step(FadingCache(*first), embedded)
        new, states = self._stepper.step(rest, embedded)
        return [faded, *new], states

    def prefill(self, items: Items, cu_seqlens: CuSeqlens) -> tuple[Cache, States]:
        """Read whole histories at once: what `advance` would have come to, event by event.

        Args:
            items: int64 [T] item numbers.
            cu_seqlens: int64 [B + 1].

        Raises:
            ConfigError: the backbone does not read event by event.
            ShapeError: items and cu_seqlens do not fit.
        """
        self._check(items, cu_seqlens)
        embedded = self.embed(items, cu_seqlens)
        cache, states = self._stepper.prefill(embedded, cu_seqlens)
        if self.fading_sum is None:
            return cache, states
        return [FadingCache(embedded[to_device(cu_seqlens[1:] - 1, embedded.device)]), *cache], states

    @property
    def _stepper(self) -> IncrementalEncoder:
        if not isinstance(self.backbone, IncrementalEncoder):
            raise ConfigError(
                f"the backbone {type(self.backbone).__name__} does not read event by event; use ssd4rec or mamba4rec, or encode "
                f"the whole history again"
            )
        return self.backbone

    def embed(self, items: Items, cu_seqlens: CuSeqlens) -> Hidden:
        """Return what the backbone reads: item vectors, or their fading sum. [T] -> [T, D]."""
        embedded: Hidden = self.input_dropout(self.table(items))
        return embedded if self.fading_sum is None else self.fading_sum(embedded, cu_seqlens)

    def score(self, states: States, history: Packed | None = None) -> Scores:
        """[B, D] -> [B, V]: column j scores item number j + 1.

        Args:
            states: [B, D], from `encode`.
            history: (items, cu_seqlens) of the whole sequences; only a model with `repeat_logits` reads them.

        Raises:
            ShapeError: the model has `repeat_logits`, and there is no history.
        """
        scores = states @ self.item_vectors.T
        if self.repeat_logits is None:
            return scores
        if history is None:
            raise ShapeError(
                "a model with repeat logits scores states together with their histories; give history=(items, cu_seqlens)"
            )
        added = self.repeat_logits.added(states, sequence_items(*history))
        added.add_to(scores, slice(0, len(scores)))
        return scores

    def loss(
        self,
        states: States,
        targets: Tensor,
        proposal: NegativeSampler | None = None,
        smoothing: float = 0.0,
        prefixes: PrefixItems | None = None,
    ) -> Tensor:
        """Mean softmax cross-entropy over the catalog, or over a sample of it.

        Args:
            states: [M, D].
            targets: int64 [M] item numbers, 1 … V.
            proposal: how negatives are drawn; None: all items are scored.
            smoothing: share of a target's probability that all items of the catalog are given alike; with negatives too. It is
                taken from the scores without `repeat_logits`.
            prefixes: what the states were read from; a model with `repeat_logits` needs them.

        Raises:
            ShapeError: the model has `repeat_logits`, and there are no prefixes.
        """
        loss = self._cross_entropy(states, targets, proposal, self._added(states, prefixes))
        return loss + smoothing * smoothing_loss(states, self.table(targets), self.item_vectors) if smoothing else loss

    def _added(self, states: States, prefixes: PrefixItems | None) -> AddedLogits | None:
        if self.repeat_logits is None:
            return None
        if prefixes is None:
            raise ShapeError("a model with repeat logits needs the prefixes that its states were read from, found none")
        return self.repeat_logits.added(states, prefixes)

    def _cross_entropy(
        self, states: States, targets: Tensor, proposal: NegativeSampler | None, added: AddedLogits | None
    ) -> Tensor:
        if proposal is None:
            return linear_cross_entropy(states, self.item_vectors, targets - 1, added)
        drawn, log_expected = (to_device(each, states.device) for each in proposal.draw())
        rows = self.table(torch.cat([targets, drawn + 1]))  # one lookup: one gradient of the table
        asked = len(targets)
        return sampled_cross_entropy(states, rows[:asked], targets, rows[asked:], drawn + 1, log_expected, added)

    def _check(self, items: Items, cu_seqlens: CuSeqlens) -> None:
        if items.dim() != 1 or cu_seqlens.dim() != 1 or not len(cu_seqlens) or int(cu_seqlens[-1]) != items.shape[0]:
            raise ShapeError(
                f"items [T] and cu_seqlens [B + 1] must be flat and end together, found shapes {tuple(items.shape)} and "
                f"{tuple(cu_seqlens.shape)}, cu_seqlens ending with {cu_seqlens.flatten()[-1:].tolist()}"
            )


def make_model(config: Config, catalog_size: int) -> NextItemModel:
    """A fresh model of the backbone that the settings name; its initial weights are a function of `training.seed` alone.

    Args:
        config: all settings.
        catalog_size: V.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return build_model(config.backbone, catalog_size)


def build_model(config: BackboneConfig, catalog_size: int) -> NextItemModel:
    """Return a model with initial weights from torch's generator.

    Args:
        config: settings of the backbone, and of what surrounds it.
        catalog_size: V.
    """
    repeat_logits = None if config.repeat_logits == "none" else RepeatLogits(config.width, config.repeat_logits)
    return NextItemModel(
        make_backbone(config),
        catalog_size,
        input_dropout=config.input_dropout,
        input_fade=config.input_fade,
        repeat_logits=repeat_logits,
    )


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's weights."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return found.hexdigest()


def count_parameters(model: nn.Module) -> int:
    """How many trainable numbers a model has."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
