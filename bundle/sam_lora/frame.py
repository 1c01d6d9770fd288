"""The network's frame: the square its decoder answers in, and how a slice lies in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from sam_lora.networks import Sam
from sam_lora.prompts import Point, Prompts

OUTSIDE = -16.0  # logit of what is certainly not the object
DRAWN = 8.0  # logit of a mask that somebody drew


class Frame:
    """How slices of one size lie in the network's frame. Masks here are ``(n, n)``, n being 4 times an embedding's side.

    Args:
        network: a :class:`sam_lora.networks.Sam`.
        size: (height, width) of a slice in pixels.

    Attributes:
        side: n.
        extent: rows and columns of a mask that show the slice; the rest is padding.
        inside: likewise of an embedding.
    """

    def __init__(self, network: Sam, size: tuple[int, int]) -> None:
        self.network, self.size = network, size
        self.side = 4 * network.image_size // network.image_encoder.stride
        resized = network.resized(size)
        # pixels of the frame per pixel of the slice, (y, x)
        self.scale = tuple(self.side * r / (network.image_size * s) for r, s in zip(resized, size, strict=True))
        rows, columns = (-(-r * self.side // network.image_size) for r in resized)
        self.extent = (rows, columns)
        self.inside = (-(-self.extent[0] // 4), -(-self.extent[1] // 4))

    @torch.no_grad()
    def decode(
        self, embedding: Tensor, points: Sequence[Sequence[Point]], masks: Sequence[Tensor | None]
    ) -> list[tuple[Tensor, Tensor]]:
        """Decode several objects of a slice; those with a previous mask and those without each in one pass.

        Args:
            embedding: of the slice, ``(1, C, h, w)``.
            points: of each object, (x, y, label) in pixels of the slice.
            masks: of each object, logits ``(n, n)`` or None.

        Returns:
            For each object logits ``(n, n)``, float16, half the memory and the same mask, and predicted IoU ``()``.
        """
        results: dict[int, tuple[Tensor, Tensor]] = {}
        for has_mask in (False, True):
            some = [n for n, mask in enumerate(masks) if (mask is not None) == has_mask]
            if not some:
                continue
            prompts = Prompts.of([points[n] for n in some])
            device = embedding.device
            mask = torch.stack([m.to(device) for m in masks if m is not None])[None] if has_mask else None
            logits, iou = self.network.decode(
                embedding, prompts.points[None].to(device), prompts.point_labels[None].to(device), self.size, mask
            )
            # copies: a part of the answer would keep all of it in memory
            results |= {n: (logits[0, p, 0].half().clone(), iou[0, p, 0].clone()) for p, n in enumerate(some)}
        return [results[n] for n in range(len(points))]

    def mask_of(self, logits: Tensor) -> Tensor:
        """The object in logits ``(n, n)``, bool, where they show the slice: beside it, they mean nothing."""
        mask = logits > 0
        mask[self.extent[0] :], mask[:, self.extent[1] :] = False, False
        return mask

    def logits_of(self, mask: np.ndarray) -> Tensor:
        """A drawn mask ``(H, W)`` as logits ``(n, n)`` that prompt the decoder."""
        drawn = torch.from_numpy(np.ascontiguousarray(mask)).float()[None, None]
        share = F.interpolate(drawn, size=self.extent, mode="bilinear", antialias=True, align_corners=False)[0, 0]
        # Half of the most that any pixel has: a line thinner than a pixel of the frame stays a line.
        logits = torch.where(share >= 0.5 * share.max().clamp(min=1e-6), DRAWN, -DRAWN)
        return F.pad(logits, (0, self.side - self.extent[1], 0, self.side - self.extent[0]), value=-DRAWN)

    def box_of(self, mask: Tensor) -> tuple[float, float, float, float]:
        """The box (x0, y0, x1, y1) of a mask ``(n, n)``, in pixels of the slice."""
        rows, columns = (torch.nonzero(mask.any(1 - dim)).flatten() for dim in (0, 1))
        (sy, sx), (height, width) = self.scale, self.size
        x0, x1 = float(columns[0]) / sx, min(float(columns[-1] + 1) / sx, width)
        y0, y1 = float(rows[0]) / sy, min(float(rows[-1] + 1) / sy, height)
        return x0, y0, x1, y1

    def pixel_of(self, point: Point) -> tuple[int, int]:
        """Row and column of a point of the slice in a mask ``(n, n)``."""
        return int(point[1] * self.scale[0]), int(point[0] * self.scale[1])

    def grown(self, mask: Tensor, share: float) -> Tensor:
        """A mask ``(n, n)`` and what is within ``share`` of the slice's longest side of it, on the slice."""
        distance = ndimage.distance_transform_edt(~mask.cpu().numpy())
        near = torch.from_numpy(distance <= share * max(self.extent)).to(mask.device)
        near[self.extent[0] :], near[:, self.extent[1] :] = False, False
        return near


def without_islands(mask: Tensor, touched: Tensor) -> Tensor:
    """The connected parts of a mask ``(n, n)`` that share a pixel with another mask."""
    parts, _ = ndimage.label(mask.cpu().numpy())
    kept = np.unique(parts[touched.cpu().numpy()])
    return torch.from_numpy(np.isin(parts, kept[kept > 0])).to(mask.device)


def without_clicked(logits: Tensor, clicks: Sequence[tuple[int, int]]) -> Tensor:
    """Logits ``(n, n)`` without the connected parts that background clicks (row, column) hit, and their rims."""
    hit = [click for click in clicks if logits[click] > 0]
    if not hit:
        return logits
    parts, _ = ndimage.label((logits > 0).cpu().numpy())
    gone = ndimage.binary_dilation(np.isin(parts, [parts[click] for click in hit]), iterations=2)
    return torch.where(torch.from_numpy(gone).to(logits.device), OUTSIDE, logits)
