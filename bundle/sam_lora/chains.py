"""A chain of an object from slice to slice: its steps, what it learns from, and where it ends."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sam_lora.appearance import Moments


@dataclass(frozen=True)
class PropagationRules:
    """Where a chain ends, and what it learns from.

    Args:
        min_confidence: a chain ends where its confidence falls below this: the predicted IoU, times the IoU of the
            mask with what the classifier expected.
        min_overlap: likewise the IoU of a mask and the one before it.
        max_change: likewise where the area grows or shrinks by more than this factor.
        min_area: likewise where fewer pixels of the network's frame are left: 16 are one cell of the embedding.
        max_move: how far an outline moves between slices at most, as a share of the longest side of a slice.
        trust: a slice is learned from where its confidence is at least this.
        patience: a chain ends after this many slices in a row that were not trusted.
    """

    min_confidence: float = 0.25
    min_overlap: float = 0.1
    max_change: float = 8.0
    min_area: int = 16
    max_move: float = 0.05
    trust: float = 0.7
    patience: int = 10

    def holds(self, step: Step, before: Step) -> bool:
        """Whether a chain goes on with a step."""
        area, area_before = int(step.mask.sum()), int(before.mask.sum())
        if area < self.min_area or step.confidence < self.min_confidence or step.doubts > self.patience:
            return False
        if not 1 / self.max_change <= area / area_before <= self.max_change:
            return False
        common = int((step.mask & before.mask).sum())
        return common >= self.min_overlap * (area + area_before - common)


@dataclass
class Known:
    """A slice that a chain learns from, once something is expected of the next.

    Args:
        k: the slice.
        mask: the object there, ``(n, n)``, bool.
        moments: what it teaches; made when it is first needed.
    """

    k: int
    mask: Tensor
    moments: Moments | None = None


@dataclass
class Step:
    """An object on one slice of a chain.

    Args:
        k: the slice.
        key: of all that the step came from.
        logits: ``(n, n)``.
        mask: ``(n, n)``, bool.
        confidence: 0 to 1.
        seed: the prompted slice at the chain's start.
        latest: the last slice that was trusted.
        doubts: slices in a row up to this one that were not trusted.
    """

    k: int
    key: str
    logits: Tensor
    mask: Tensor
    confidence: float
    seed: Known
    latest: Known | None = None
    doubts: int = 0
