"""What an object looks like: a linear classifier of embedding cells, fitted where the object is known.

The target model of Robinson et al. 2020 ("Learning Fast and Robust Target Models for Video Object Segmentation",
arXiv:2003.00908), solved in closed form as a ridge regression. It tells where the object goes on the next slice; the
mask decoder tells its outline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

REGULARIZATION = 1e-2  # of the mean diagonal of the normal equations
CONTEXT = 1.0  # background counts within this many box lengths of the object: what is next to it matters
EXPECTED = 0.4  # score from which a cell counts: a box a little too large misleads less than one too small
STRIDE = 4  # pixels of the mask decoder's answer per cell of the embedding


@dataclass(frozen=True)
class Moments:
    """What a slice on which the object is known teaches: the normal equations of its cells. They add up.

    Args:
        normal: ``(C + 1, C + 1)``, float64 on the CPU.
        right: ``(C + 1,)``, likewise.
    """

    normal: Tensor
    right: Tensor


def learn_appearance(embedding: Tensor, mask: Tensor, inside: tuple[int, int]) -> Moments:
    """Learn from a slice; object and background weigh the same.

    Args:
        embedding: ``(1, C, h, w)``.
        mask: the object, ``(4 * h, 4 * w)``, bool, not empty.
        inside: rows and columns of the embedding that show the image and not its padding.
    """
    share = F.avg_pool2d(mask[None, None].cpu().float(), STRIDE)[0, 0]
    rows, columns = _window(mask, inside)
    target = share[rows, columns].flatten()
    cells = _cells(embedding[0][:, rows, columns])
    weight = target / target.sum() + (1 - target) / (1 - target).sum().clamp(min=1)
    # Products in single precision, which the ridge forgives and which takes half the time; the rest in double.
    return Moments((cells.T @ (weight[:, None] * cells)).double(), (cells.T @ (weight * target)).double())


def fit_appearance(learned: Sequence[Moments]) -> Tensor:
    """Fit the classifier.

    Args:
        learned: from slices of one network; each weighs the same.

    Returns:
        Weights ``(C + 1,)``, float32 on the CPU; the last is the constant.
    """
    normal = torch.stack([one.normal for one in learned]).sum(0)
    right = torch.stack([one.right for one in learned]).sum(0)
    ridge = REGULARIZATION * normal.diagonal().mean() * torch.eye(len(right), dtype=torch.float64)
    return torch.linalg.solve(normal + ridge, right).float()


def score_appearance(weights: Tensor, embedding: Tensor) -> Tensor:
    """How much each cell of an embedding ``(1, C, h, w)`` looks like the object: ``(4 * h, 4 * w)``, 0 to 1 or nearly."""
    height, width = embedding.shape[-2:]
    cells = embedding[0].flatten(1).cpu().float()  # no copy with a constant: there are many more than are learned from
    cells = (weights[:-1] @ cells + weights[-1]).view(1, 1, height, width)
    return F.interpolate(cells, scale_factor=STRIDE, mode="bilinear", align_corners=False)[0, 0]


def _cells(embedding: Tensor) -> Tensor:
    """``(C, h, w)`` -> ``(h * w, C + 1)`` with a constant, float32 on the CPU."""
    return F.pad(embedding.flatten(1).T.cpu().float(), (0, 1), value=1.0)


def _window(mask: Tensor, inside: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the cells around an object."""
    window = []
    lengths = [torch.nonzero(mask.any(1 - dim)).flatten() for dim in (0, 1)]
    reach = CONTEXT * max(float(found[-1] - found[0]) + 1 for found in lengths) / STRIDE + STRIDE
    for found, side in zip(lengths, inside, strict=True):
        first, last = float(found[0]) / STRIDE, float(found[-1] + 1) / STRIDE
        window.append(slice(max(0, int(first - reach)), min(side, int(last + reach) + 1)))
    return window[0], window[1]
