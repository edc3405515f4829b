"""A next-item model: an item embedding table, a sequence encoder, and scores from the same table."""

import hashlib
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ssd4rec._fork import check_not_forked
from ssd4rec.array_types import CuSeqlens, Hidden, Items, Packed, RequestTimes, Scores, States
from ssd4rec.config import BackboneConfig, Config
from ssd4rec.distributed import World
from ssd4rec.errors import ConfigError, ShapeError
from ssd4rec.layers.dropout import Dropout
from ssd4rec.layers.fading_sum import FadingCache, FadingSum
from ssd4rec.layers.item_features import FeatureProjection, FeatureRows
from ssd4rec.layers.repeat_logits import RepeatLogits
from ssd4rec.layers.request_time import RequestTime
from ssd4rec.layers.step import Cache
from ssd4rec.models.encoders import Backbone, IncrementalEncoder, MaskedItemEncoder
from ssd4rec.models.members import side_by_side
from ssd4rec.models.registry import make_backbone
from ssd4rec.ops import keyed_random
from ssd4rec.ops.cross_entropy import AddedLogits, ScoreFactors, smoothing_loss
from ssd4rec.ops.dispatch import distillation_loss, linear_cross_entropy
from ssd4rec.ops.repeats import PrefixItems, sequence_items
from ssd4rec.ops.sampled_softmax import NegativeSampler, sampled_cross_entropy
from ssd4rec.ops.segments import append_to_each, to_device
from ssd4rec.ops.soft_targets import SoftTargets
from ssd4rec.sharded_table import ShardedTable


class NextItemModel(nn.Module):
    """Score every item of the catalog as the next item of a sequence.

    Item indices run from 1 to V. Index 0 is the mask: it has a trainable embedding and occurs in the input, but is never scored
    (difference D2).

    Args:
        backbone: the sequence encoder, an `nn.Module` with the methods of `Backbone`.
        catalog_size: V.
        members: number M of networks that the backbone consists of, see `Members`. Each has its own columns of states and of the
            item table, and its own softmax in `loss`; a score is the mean of theirs.
        input_dropout: dropout on the item vectors that the backbone reads, not on those that score items; "auto": a training
            sets it for its data.
        input_fade: initial decay, learned in training, of a fading sum of the item vectors that the backbone reads; 0.0: it
            reads the item vectors themselves.
        input_skip: add LayerNorm of the fading sum, or else of the item vector, at the last position to the backbone's output.
        fade_skip_only: the backbone reads the item vectors themselves, and only `input_skip` uses the fading sum.
        repeat_logits: logits that are added to the scores of items that the sequence already contains; None: none.
        request_time: adapts a state to the time of a request, see `at`; None: the time is not read.
        features: a projection of item features that is added to the rows of the table; None: the rows are the item vectors.
        world: the processes over which the item table is spread; None: it is not.
    """

    def __init__(  # noqa: PLR0913 - the parts of a model
        self,
        backbone: nn.Module,
        catalog_size: int,
        *,
        members: int = 1,
        input_dropout: float | Literal["auto"] = 0.0,
        input_fade: float = 0.0,
        input_skip: bool = False,
        fade_skip_only: bool = False,
        repeat_logits: RepeatLogits | None = None,
        request_time: RequestTime | None = None,
        features: FeatureProjection | None = None,
        world: World | None = None,
    ) -> None:
        super().__init__()
        width = cast("Backbone", backbone).width
        self.backbone = backbone
        self.catalog_size = catalog_size
        self.members = members
        self.chooses_input_dropout = input_dropout == "auto"
        self.input_dropout = Dropout(0.5 if input_dropout == "auto" else input_dropout)
        self.fading_sum = FadingSum(input_fade) if input_fade else None
        self.input_skip: nn.Module | None = None
        if input_skip:  # a LayerNorm of the columns of each member
            self.input_skip = nn.LayerNorm(width) if members == 1 else nn.GroupNorm(members, width)
        self.fade_skip_only = fade_skip_only and input_skip and input_fade > 0
        self.repeat_logits = repeat_logits
        self.request_time = request_time
        self.features = features
        if world is not None:  # a training replaces it by an embedding at its end
            self.table = cast("nn.Embedding", ShardedTable.like_embedding(catalog_size, width, world))
            return
        self.table = nn.Embedding(catalog_size + 1, width)
        nn.init.normal_(self.table.weight, std=0.02)

    @property
    def _encoder(self) -> Backbone:
        return cast("Backbone", self.backbone)

    @property
    def item_vectors(self) -> Tensor:
        """[V, D]: row j is the embedding of item j + 1."""
        if self.features is None:
            return self.table.weight[1:]
        return self.vectors_of(torch.arange(1, self.catalog_size + 1, device=self.table.weight.device))

    def vectors_of(self, items: Tensor) -> Tensor:
        """Return the vectors of items: their rows of the table, plus the projection of their features. [...] -> [..., D]."""
        rows: Tensor = self.table(items)
        return rows if self.features is None else self.features.add_to(rows, items)

    def encode(self, items: Items, cu_seqlens: CuSeqlens) -> States:
        """Encode packed sequences; a masked-item encoder gets item 0, the mask, appended to each sequence.

        Args:
            items: int64 [T] item indices, 0 = masked.
            cu_seqlens: int64 [B + 1]; sequence b is items[cu_seqlens[b]:cu_seqlens[b + 1]]. They may stay on the CPU while the
                items are on a GPU; then nothing synchronizes with the GPU.

        Returns:
            [B, D]: one vector per sequence.

        Raises:
            ShapeError: items and cu_seqlens do not match.
        """
        self._check(items, cu_seqlens)
        if isinstance(self.backbone, MaskedItemEncoder):
            with keyed_random.appended(cu_seqlens):
                items, cu_seqlens = append_to_each(items, cu_seqlens, items.new_zeros(len(cu_seqlens) - 1))
                return self._encode(items, cu_seqlens)
        return self._encode(items, cu_seqlens)

    def _encode(self, items: Items, cu_seqlens: CuSeqlens) -> States:
        embedded, faded = self._inputs(items, cu_seqlens)
        states = self._encoder.encode(embedded, cu_seqlens)
        return self.output(states, faded if self.input_skip is None else _last_of_each(faded, cu_seqlens))

    def output(self, states: Hidden, faded: Hidden) -> Hidden:
        """Return the states that score items from the output of the backbone, row by row.

        Args:
            states: [n, D], from the backbone.
            faded: [n, D], what `input_skip` adds: the fading sum, or else the item vector, at the last position.
        """
        if self.input_skip is not None:
            states = states + self.input_skip(faded)
        return states / self.members if self.members > 1 else states  # so that products with item vectors are means

    def encode_prefixes(self, items: Items, cu_seqlens: CuSeqlens) -> Hidden:
        """Encode every prefix of packed sequences; row t is the prefix that ends at position t. [T] -> [T, D]."""
        self._check(items, cu_seqlens)
        embedded, faded = self._inputs(items, cu_seqlens)
        return self.output(self._encoder.encode_prefixes(embedded, cu_seqlens), faded)

    def encode_masked(self, items: Items, cu_seqlens: CuSeqlens) -> Hidden:
        """Encode every position of packed sequences with masked items (item 0). [T] -> [T, D].

        Raises:
            ConfigError: the backbone does not predict masked items.
            ShapeError: items and cu_seqlens do not match.
        """
        self._check(items, cu_seqlens)
        if not isinstance(self.backbone, MaskedItemEncoder):
            raise ConfigError(
                f'{type(self.backbone).__name__} does not predict masked items; use the objective "all-positions" or "per-prefix"'
            )
        embedded, faded = self._inputs(items, cu_seqlens)
        return self.output(self.backbone.encode_positions(embedded, cu_seqlens), faded)

    @property
    def supports_incremental(self) -> bool:
        """Whether `new_cache`, `step` and `prefill` are available: all layers below the top are causal."""
        return isinstance(self.backbone, IncrementalEncoder) and self.backbone.supports_incremental

    def new_cache(self, sequences: int) -> Cache:
        """Return the cache of empty sequences.

        Raises:
            ConfigError: the backbone does not support incremental inference.
        """
        cache = self._incremental.new_cache(sequences)
        if self.fading_sum is None:
            return cache
        return [self.fading_sum.new_cache(sequences, self._encoder.width), *cache]

    def step(self, cache: Cache, items: Items) -> tuple[Cache, Scores]:
        """Process one new interaction of each sequence, in time independent of its length.

        Args:
            cache: of B sequences, from `new_cache`, `prefill` or an earlier step; it is not modified.
            items: int64 [B] item indices.

        Returns:
            The new cache, and [B, V] the scores of `encode` and `score` for the extended sequences.

        Raises:
            ConfigError: the backbone does not support incremental inference, or the model has `repeat_logits`, which depend on
                the whole history: use `advance` and `score`.
        """
        if self.repeat_logits is not None:
            raise ConfigError("the scores of a model with repeat logits depend on the whole history; use advance() and score()")
        new, states = self.advance(cache, items)
        return new, self.score(states)

    def advance(self, cache: Cache, items: Items) -> tuple[Cache, States]:
        """Do `step` without scores: return the new cache and the output of `encode`, [B, D]."""
        embedded = self.input_dropout(self.vectors_of(items))
        if self.fading_sum is None:
            new, states = self._incremental.step(cache, embedded)
            return new, self.output(states, embedded)
        first, *rest = cache
        sums, faded = self.fading_sum.step(FadingCache(*first), embedded)
        new, states = self._incremental.step(rest, embedded if self.fade_skip_only else faded)
        return [sums, *new], self.output(states, faded)

    def prefill(self, items: Items, cu_seqlens: CuSeqlens) -> tuple[Cache, States]:
        """Process whole sequences at once; equal to calling `advance` for each interaction.

        Args:
            items: int64 [T] item indices.
            cu_seqlens: int64 [B + 1].

        Raises:
            ConfigError: the backbone does not support incremental inference.
            ShapeError: items and cu_seqlens do not match.
        """
        self._check(items, cu_seqlens)
        embedded, faded = self._inputs(items, cu_seqlens)
        last = _last_of_each(faded, cu_seqlens)
        cache, states = self._incremental.prefill(embedded, cu_seqlens)
        states = self.output(states, last)
        return (cache if self.fading_sum is None else [FadingCache(last), *cache]), states

    @property
    def _incremental(self) -> IncrementalEncoder:
        if not isinstance(self.backbone, IncrementalEncoder):
            raise ConfigError(
                f"the backbone {type(self.backbone).__name__} does not support incremental inference; use ssd4rec or mamba4rec, "
                f"or encode the whole history again"
            )
        return self.backbone

    def embed(self, items: Items, cu_seqlens: CuSeqlens) -> Hidden:
        """Return the input of the backbone: item vectors, or their fading sum. [T] -> [T, D]."""
        return self._inputs(items, cu_seqlens)[0]

    def _inputs(self, items: Items, cu_seqlens: CuSeqlens) -> tuple[Hidden, Hidden]:
        """Return the input of the backbone, and the rows that `input_skip` adds to its output, each [T, D]."""
        embedded: Hidden = self.input_dropout(self.vectors_of(items))
        if self.fading_sum is None:
            return embedded, embedded
        faded = self.fading_sum(embedded, cu_seqlens)
        return (embedded if self.fade_skip_only else faded), faded

    def at(self, states: States, times: RequestTimes | None) -> States:
        """Return states at the times of their requests. [B, D] -> [B, D].

        Args:
            states: [B, D], from `encode` or `encode_prefixes`.
            times: int64 [B, 2], gap and moment of each request in seconds; None: not known, the states stay what they are.
        """
        return states if self.request_time is None or times is None else self.request_time(states, times)

    def score(self, states: States, history: Packed | None = None) -> Scores:
        """Score all items; column j is item j + 1. [B, D] -> [B, V].

        Args:
            states: [B, D], from `encode`.
            history: (items, cu_seqlens) of the whole sequences; only a model with `repeat_logits` uses them.

        Raises:
            ShapeError: the model has `repeat_logits`, but history is None.
        """
        scores = states @ self.item_vectors.T
        if self.repeat_logits is None:
            return scores
        if history is None:
            raise ShapeError(
                "a model with repeat logits needs the histories of the states, found None; pass history=(items, cu_seqlens)"
            )
        self.repeat_logits.added(states, sequence_items(*history)).add_to(scores, slice(0, len(scores)))
        return scores

    def loss(
        self,
        states: States,
        targets: Tensor,
        sampler: NegativeSampler | None = None,
        smoothing: float = 0.0,
        prefixes: PrefixItems | None = None,
        soft: SoftTargets | None = None,
    ) -> Tensor:
        """Compute the mean softmax cross-entropy over the catalog, or over sampled negatives.

        Args:
            states: [M, D].
            targets: int64 [M] item indices, 1 … V.
            sampler: of negatives; None: all items are scored.
            smoothing: label smoothing, the target probability that is spread uniformly over the catalog. It uses the scores
                without `repeat_logits`.
            prefixes: the prefixes that the states represent; a model with `repeat_logits` needs them.
            soft: soft targets of a teacher, which have a share of the loss; without a sampler and a sharded table only.

        Raises:
            ShapeError: the model has `repeat_logits`, but prefixes is None.
        """
        if soft is not None:
            smoothing *= 1 - soft.weight
        if sampler is None and isinstance(self.table, ShardedTable):  # in a training with `training.shard_item_table`
            return self.table.cross_entropy(states, targets, self._added(states, prefixes), smoothing)
        losses = self._losses(states, targets, sampler, prefixes)
        loss = losses[0] if self.members == 1 else torch.stack(losses).mean()
        # what soft targets and smoothing add is linear in the scores: for the mean scores it is the mean over the members
        if soft is not None:
            added = self._added(states, prefixes)
            loss = loss + soft.weight * distillation_loss(states, self.item_vectors, targets - 1, soft, added)
        if not smoothing:
            return loss
        if isinstance(self.table, ShardedTable):
            return loss + smoothing * self.table.smoothing_loss(states, targets)
        return loss + smoothing * smoothing_loss(states, self.vectors_of(targets), self.item_vectors)

    def _losses(
        self, states: States, targets: Tensor, sampler: NegativeSampler | None, prefixes: PrefixItems | None
    ) -> list[Tensor]:
        """Return the mean cross-entropy of each member."""
        states_of_each = self._of_each(states * self.members if self.members > 1 else states)
        added_of_each: list[AddedLogits | None] = [None] * self.members
        if self.repeat_logits is not None:
            added_of_each = [*self.repeat_logits.added_of_each(states_of_each, self._needed(prefixes))]
        if sampler is None:
            tables = self._of_each(self.item_vectors)
            return [
                linear_cross_entropy(own, table, targets - 1, added)
                for own, table, added in zip(states_of_each, tables, added_of_each, strict=True)
            ]
        negatives, log_expected = (to_device(each, states.device) for each in sampler.draw())
        rows = self.vectors_of(torch.cat([targets, negatives + 1]))  # one lookup makes one gradient of the table
        count = len(targets)
        if not count:  # a process without targets takes part in the exchange of rows and gradients
            return [0 * (rows.sum() + states.sum())] * self.members
        return [
            sampled_cross_entropy(own, row[:count], targets, row[count:], negatives + 1, log_expected, added)
            for own, row, added in zip(states_of_each, self._of_each(rows), added_of_each, strict=True)
        ]

    def _of_each(self, columns: Tensor) -> tuple[Tensor, ...]:
        """Return the columns of each member. [n, M D] -> M times [n, D]."""
        return columns.unflatten(1, (self.members, -1)).unbind(1) if self.members > 1 else (columns,)

    def soft_targets(self, states: States, prefixes: PrefixItems | None, weight: float) -> SoftTargets:
        """Return the probabilities that this model, as a teacher, gives to all items as the next one.

        Args:
            states: [M, D].
            prefixes: the prefixes that the states represent; a model with `repeat_logits` needs them.
            weight: their share of the loss.

        Raises:
            ShapeError: the model has `repeat_logits`, but prefixes is None.
        """
        return SoftTargets(ScoreFactors(states, self.item_vectors, self._added(states, prefixes)), weight)

    def _added(self, states: States, prefixes: PrefixItems | None) -> AddedLogits | None:
        return None if self.repeat_logits is None else self.repeat_logits.added(states, self._needed(prefixes))

    @staticmethod
    def _needed(prefixes: PrefixItems | None) -> PrefixItems:
        if prefixes is None:
            raise ShapeError("a model with repeat logits needs the prefixes of the states, found None; pass prefixes=…")
        return prefixes

    def _check(self, items: Items, cu_seqlens: CuSeqlens) -> None:
        check_not_forked()
        if items.dim() != 1 or cu_seqlens.dim() != 1 or not len(cu_seqlens) or int(cu_seqlens[-1]) != items.shape[0]:
            raise ShapeError(
                f"items must be [T] and cu_seqlens [B + 1] with last value T, found shapes {tuple(items.shape)} and "
                f"{tuple(cu_seqlens.shape)}, cu_seqlens ending with {cu_seqlens.flatten()[-1:].tolist()}"
            )


def _last_of_each(rows: Hidden, cu_seqlens: CuSeqlens) -> States:
    """Return the row of the last position of each sequence. [T, D] -> [B, D]."""
    return rows[to_device(cu_seqlens[1:] - 1, rows.device)]


def make_model(
    config: Config, catalog_size: int, features: FeatureRows | None = None, world: World | None = None
) -> NextItemModel:
    """Create the configured model; its initial weights depend on `training.seed` only.

    Args:
        config: all settings.
        catalog_size: V.
        features: of the V items and of new items after them, if any; None: no features.
        world: the processes over which the item table is spread; None: it is not.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        model = build_model(config.backbone, catalog_size, world)
        if features is not None:
            model.features = FeatureProjection(features, config.backbone.state_width, config.features.id_dropout)
    return model


def build_model(config: BackboneConfig, catalog_size: int, world: World | None = None) -> NextItemModel:
    """Do `make_model` with initial weights from torch's generator, and without features."""
    width = config.state_width
    repeat_logits = None if config.repeat_logits == "none" else RepeatLogits(width, config.repeat_logits, catalog_size)
    return NextItemModel(
        side_by_side([make_backbone(config) for _ in range(config.members)]),
        catalog_size,
        members=config.members,
        input_dropout=config.input_dropout,
        input_fade=config.input_fade,
        input_skip=config.input_skip,
        fade_skip_only=config.fade_skip_only,
        repeat_logits=repeat_logits,
        request_time=RequestTime(width) if config.request_time else None,
        world=world,
    )


@torch.no_grad()
def fold_features(model: NextItemModel) -> None:
    """Add the projected features to the item table and remove the projection, in place; the scores stay the same."""
    if model.features is not None:
        model.table.weight += model.features(torch.arange(model.catalog_size + 1, device=model.table.weight.device))
        model.features = None


@torch.no_grad()
def append_items(model: NextItemModel, vectors: Tensor) -> None:
    """Append the vectors [n, D] of new items to a model without a projection of features, in place.

    They get the item indices V + 1 … V + n.
    """
    weight = torch.cat([model.table.weight, vectors.to(model.table.weight)])
    model.table = nn.Embedding.from_pretrained(weight, freeze=False)
    model.catalog_size += len(vectors)
    if model.repeat_logits is not None:
        model.repeat_logits.append_items(len(vectors))


def fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of the weights of a model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
