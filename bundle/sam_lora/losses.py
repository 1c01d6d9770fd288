"""Loss over objects rather than over channels."""

from __future__ import annotations

from torch import Tensor, nn


class PerObjectLoss(nn.Module):
    """Apply a binary segmentation loss to each object of each image, and average over objects.

    MONAI's losses read the channels of ``(B, P, H, W)`` as classes that exclude one another; objects do not.

    Args:
        loss: takes ``(P, 1, H, W)`` logits and labels.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Logits and labels ``(B, P, H, W)`` -> scalar; objects whose label is negative fill the batch and do not count."""
        logits, label = logits.flatten(0, 1)[:, None], label.flatten(0, 1)[:, None]
        counts = label[:, 0, 0, 0] >= 0
        return self.loss(logits[counts], label[counts])
