"""What a model learns from besides the targets: the networks that were trained before it, and the events of other users."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from ssd4rec.array_types import States
from ssd4rec.baselines.left_out_ridge import LeftOutRidge
from ssd4rec.models.next_item import NextItemModel, fingerprint
from ssd4rec.ops.repeats import PrefixItems
from ssd4rec.ops.soft_targets import SoftTargets


@dataclass(frozen=True)
class LeftOutLogits:
    """What score fusion with a sequential ridge adds to the scores of training targets, without the sequence of each."""

    ridge: LeftOutRidge
    weight: float
    events: Tensor  # int64 [M] the targets, on the CPU

    def block(self, rows: slice) -> Tensor:
        """Return the logits of a block of rows, [rows, V]."""
        return self.ridge.raises(self.events[rows].numpy()).mul_(self.weight)


@dataclass(frozen=True)
class Teacher:
    """Gives probabilities to all items as the next one, at every training target.

    Its scores are those of a model, and with `ridge` a score fusion: a network cannot represent an opinion on every pair of
    items, but learns some of it where a ridge says what usually follows. The ridge leaves out the sequence that it scores;
    it would otherwise repeat the targets, which the model is told anyway.
    """

    model: NextItemModel
    ridge: LeftOutRidge | None = None  # fitted on the training set of the model that is taught
    weight: float = 0.0  # of the ridge, as in `ScoreFusion`

    @property
    def fingerprint(self) -> str:
        """A hash of what it teaches; the ridge follows from the training set."""
        return fingerprint(self.model) + (f" + {self.weight!r} ridge" if self.ridge else "")

    def frozen_copy(self, like: Tensor) -> Self:
        """Return a copy on the device and in the type of a tensor, in evaluation mode and without gradients."""
        model = deepcopy(self.model).requires_grad_(requires_grad=False).eval().to(like)
        return type(self)(model, self.ridge and self.ridge.to(like.device), self.weight)

    def soft_targets(self, states: States, prefixes: PrefixItems | None, events: Tensor | None, weight: float) -> SoftTargets:
        """Return its probabilities.

        Args:
            states: [M, D], of its model.
            prefixes: the prefixes that the states represent; a model with `repeat_logits` needs them.
            events: int64 [M] the targets, as indices of events, on the CPU; None: the ridge does not know these positions.
            weight: their share of the loss.
        """
        soft = self.model.soft_targets(states, prefixes, weight)
        if self.ridge is None or events is None:
            return soft
        fixed = LeftOutLogits(self.ridge, self.weight, events)
        return SoftTargets(soft.factors._replace(fixed=fixed), weight)
