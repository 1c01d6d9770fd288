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
    """One encoded slice, ready to be decoded. Masks here are ``(n, n)``, n being 4 times the embedding's side.

    Args:
        network: a :class:`sam_lora.networks.Sam`.
        size: (height, width) of the slice in pixels.
        embedding: of the slice, ``(1, C, h, w)``.
    """

    def __init__(self, network: Sam, size: tuple[int, int], embedding: Tensor) -> None:
        self.network, self.size, self.embedding = network, size, embedding
        self.side = 4 * embedding.shape[-1]
        resized = network.resized(size)
        # pixels of the frame per pixel of the slice, (y, x)
        self.scale = tuple(self.side * r / (network.image_size * s) for r, s in zip(resized, size, strict=True))
        self.extent = tuple(-(-r * self.side // network.image_size) for r in resized)  # rows and columns of the slice
        self.inside = (-(-self.extent[0] // 4), -(-self.extent[1] // 4))

    @torch.no_grad()
    def decode(self, points: Sequence[Sequence[Point]], masks: Sequence[Tensor | None]) -> list[tuple[Tensor, Tensor]]:
        """Decode several objects; those with a previous mask and those without each in one pass.

        Args:
            points: of each object, (x, y, label) in pixels of the slice.
            masks: of each object, logits ``(n, n)`` or None.

        Returns:
            For each object logits ``(n, n)``, float32, :data:`OUTSIDE` beside the slice, and predicted IoU ``()``.
        """
        results: dict[int, tuple[Tensor, Tensor]] = {}
        for has_mask in (False, True):
            some = [n for n, mask in enumerate(masks) if (mask is not None) == has_mask]
            if not some:
                continue
            prompts = Prompts.of([points[n] for n in some])
            device = self.embedding.device
            mask = torch.stack([m.to(device) for m in masks if m is not None])[None] if has_mask else None
            logits, iou = self.network.decode(
                self.embedding, prompts.points[None].to(device), prompts.point_labels[None].to(device), self.size, mask
            )
            logits[..., self.extent[0] :, :] = OUTSIDE
            logits[..., self.extent[1] :] = OUTSIDE
            # clones: a part of the answer would keep all of it in memory
            results |= {n: (logits[0, p, 0].clone(), iou[0, p, 0].clone()) for p, n in enumerate(some)}
        return [results[n] for n in range(len(points))]

    def logits_of(self, mask: np.ndarray) -> Tensor:
        """A drawn mask ``(H, W)`` as logits ``(n, n)`` that prompt the decoder."""
        drawn = torch.from_numpy(np.ascontiguousarray(mask)).float()[None, None]
        extent = (self.extent[0], self.extent[1])
        share = F.interpolate(drawn, size=extent, mode="bilinear", antialias=True, align_corners=False)[0, 0]
        logits = torch.where(share > 0.5, DRAWN, -DRAWN)
        return F.pad(logits, (0, self.side - extent[1], 0, self.side - extent[0]), value=-DRAWN)

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
