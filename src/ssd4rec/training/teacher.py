"""Teachers: networks that are trained first, and a regression, whose predictions a model learns (knowledge distillation)."""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from ssd4rec.array_types import States
from ssd4rec.baselines.left_out_ease import LeftOutEASE
from ssd4rec.baselines.left_out_ridge import LeftOutRidge
from ssd4rec.config import PairModel
from ssd4rec.errors import ShapeError
from ssd4rec.models.next_item import NextItemModel, fingerprint
from ssd4rec.ops.repeats import PrefixItems
from ssd4rec.ops.soft_targets import SoftTargets

LeftOut = LeftOutRidge | LeftOutEASE
LEFT_OUT: dict[PairModel, type[LeftOutRidge] | type[LeftOutEASE]] = {"sequential-ridge": LeftOutRidge, "ease": LeftOutEASE}


def frozen_copy(model: NextItemModel) -> NextItemModel:
    """Return a copy without gradients."""
    return deepcopy(model).requires_grad_(requires_grad=False)


@dataclass(frozen=True)
class LeftOutLogits:
    """The logits of a regression for training targets, each without the sequence that it belongs to."""

    pairs: LeftOut
    weight: float
    events: Tensor  # int64 [M] the targets, on the CPU

    def block(self, rows: slice) -> Tensor:
        """Return the logits of a block of rows, [rows, V]."""
        return self.pairs.raises(self.events[rows].numpy()).mul_(self.weight)


@dataclass(frozen=True)
class Teacher:
    """A model, and possibly a regression whose scores are added to its scores as in `ScoreFusion`.

    The regression has a weight for every pair of items, which a network has no room for, so the network can learn from it. At
    each training target it leaves out the sequence of the target; otherwise its predictions would contain the targets themselves.
    """

    model: NextItemModel
    pairs: LeftOut | None = None  # fitted on the training set of the model that is taught
    weight: float = 0.0  # of the regression, as in `ScoreFusion`
    cooccurrence_model: PairModel | None = None  # the kind of the regression

    @property
    def fingerprint(self) -> str:
        """A hash of the model, and kind and weight of the regression, which follows from the training set."""
        return fingerprint(self.model) + (f" + {self.weight!r} {self.cooccurrence_model}" if self.pairs else "")

    def frozen_copy(self, like: Tensor) -> Self:
        """Return a copy on the device and in the type of a tensor, in evaluation mode and without gradients."""
        return replace(self, model=frozen_copy(self.model).eval().to(like), pairs=self.pairs and self.pairs.to(like))

    def soft_targets(self, states: States, prefixes: PrefixItems | None, events: Tensor | None, weight: float) -> SoftTargets:
        """Return its probabilities.

        Args:
            states: [M, D], of its model.
            prefixes: the prefixes that the states represent; a model with `repeat_logits` needs them.
            events: int64 [M] the targets, as indices of events, on the CPU; only a regression needs them.
            weight: their share of the loss.

        Raises:
            ShapeError: there is a regression, but events is None.
        """
        soft = self.model.soft_targets(states, prefixes, weight)
        if self.pairs is None:
            return soft
        if events is None:
            raise ShapeError("a teacher with a regression needs to know the events that are predicted, found None")
        return soft._replace(fixed=LeftOutLogits(self.pairs, self.weight, events))
