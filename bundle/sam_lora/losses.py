"""Loss over objects rather than over channels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_lora.interaction import true_iou


class PerObjectLoss(nn.Module):
    """A binary segmentation loss on each object of each answer, and on the IoU that the network predicts for it.

    MONAI's losses read the channels of ``(B, P, H, W)`` as classes that exclude one another; objects do not. Objects
    of an image weigh alike, and so do images, whatever their number of objects: a batch of two is the mean of two
    batches of one, on one process or two.

    Args:
        loss: takes ``(N, 1, H, W)`` logits and labels; a mean over N.
        iou_weight: of the squared error of the predicted IoU; 0 leaves the head alone.
    """

    def __init__(self, loss: nn.Module, iou_weight: float = 0.0) -> None:
        super().__init__()
        self.loss, self.iou_weight = loss, iou_weight

    def forward(self, answer: Mapping[str, Tensor], label: Tensor) -> Tensor:
        """``logits`` ``(B, P, R, H, W)`` and ``iou`` ``(B, P, R)`` of R rounds, labels ``(B, P, H, W)`` -> scalar.

        Objects whose label is negative do not count, nor do images without another.
        """
        images = [answer["logits"].sum() * 0]  # where nothing counts, there are gradients all the same: zeros
        for logits, iou, truth in zip(answer["logits"], answer["iou"], label, strict=True):
            counts = truth[:, 0, 0] >= 0
            if not counts.any():
                continue
            logits, iou = logits[counts].flatten(0, 1), iou[counts].flatten()
            truth = truth[counts].repeat_interleave(answer["logits"].shape[2], 0)
            value = self.loss(logits[:, None], truth[:, None])
            if self.iou_weight:
                value = value + self.iou_weight * F.mse_loss(iou, true_iou(logits, truth))
            images.append(value)
        return torch.stack(images).sum() / max(1, len(images) - 1)
