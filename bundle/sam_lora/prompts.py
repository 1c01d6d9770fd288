"""Prompts of a slice: points and boxes in its pixels, drawn from masks for training and evaluation.

The only place where voxels become pixels. Voxels (i, j, k) index the stored array; the slice shown to the network is
``volume[:, :, k].T``, so x = i and y = j. Pixel coordinates are continuous: 0 is the image's left or upper edge, and
the centre of voxel i is i + 0.5. A box runs from the first voxel's near edge to the last one's far edge,
``(min, max + 1)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MODES = ("no", "token", "box", "full_box", "point", "pt_box", "mix")
MIXED = ("box", "point", "pt_box")  # what has a place; "mix" draws from these, for each object anew
PADDING, BACKGROUND, FOREGROUND, BOX_START, BOX_END, TOKEN = -2, 0, 1, 2, 3, 4
Point = tuple[float, float, int]  # x, y in pixels of the slice, and what the point means


class PromptError(ValueError):
    """A prompt that cannot be honoured; the sentence says which and why."""


@dataclass(frozen=True)
class Prompts:
    """Prompts for the P objects of one slice.

    Args:
        points: ``(P, N, 2)``, float32, (x, y) in pixels of the slice.
        point_labels: ``(P, N)``, int64: 1 foreground, 0 background, 2 and 3 box corners, -2 padding, from 4 on the
            tokens of labels, see :func:`token`.
    """

    points: Tensor
    point_labels: Tensor

    @staticmethod
    def of(objects: Sequence[Sequence[Point]]) -> Prompts:
        """From one list of (x, y, label) per object, padded to the longest."""
        longest = max(1, *(len(points) for points in objects))
        rows = [[*points, *[(0.0, 0.0, PADDING)] * (longest - len(points))] for points in objects]
        table = torch.tensor(rows, dtype=torch.float32)
        return Prompts(table[..., :2], table[..., 2].long())


def check_mode(mode: str) -> str:
    """The prompt mode, if it is one; PromptError lists them where it is not."""
    if mode not in MODES:
        raise PromptError(f"prompt_mode must be one of {', '.join(MODES)}, got {mode!r}.")
    return mode


def refuse_unprompted_labels(mode: str, labels: Mapping[int, str]) -> None:
    """Refuse mode "no" where it is not clear which of several labels is meant.

    Raises:
        PromptError: naming the labels.
    """
    if mode == "no" and len(labels) > 1:
        raise PromptError(
            f"prompt_mode 'no' cannot tell {len(labels)} labels apart: {', '.join(labels.values())}. Choose one with "
            f"`--label NAME`, or give prompts."
        )


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Smallest box around a mask ``(H, W)``: (x0, y0, x1, y1) in pixels, the far edges exclusive.

    Raises:
        PromptError: if the mask is empty.
    """
    ys, xs = np.nonzero(mask)
    if not len(xs):
        raise PromptError("A mask without a single pixel has no box.")
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def jitter_box(
    box: Sequence[float], amount: float, size: tuple[int, int], rng: np.random.RandomState
) -> tuple[float, float, float, float]:
    """Move each side of a box, inward or outward, by up to ``amount`` times the box's length in that direction.

    Args:
        box: (x0, y0, x1, y1) in pixels.
        amount: 0.1 moves a side by at most a tenth of the box.
        size: (height, width) of the slice; the box stays inside, and at least one pixel wide and high.
        rng: where the four draws come from.
    """
    x0, y0, x1, y1 = box
    moves = rng.uniform(-amount, amount, 4) * [x1 - x0, y1 - y0, x1 - x0, y1 - y0]
    x0, y0, x1, y1 = np.array(box) + moves
    x0, y0 = min(max(x0, 0.0), size[1] - 1.0), min(max(y0, 0.0), size[0] - 1.0)
    return x0, y0, min(max(x1, x0 + 1), float(size[1])), min(max(y1, y0 + 1), float(size[0]))


def sample_prompts(
    masks: np.ndarray,
    mode: str,
    rng: np.random.RandomState,
    jitter: float = 0.0,
    num_points: int = 1,
    tokens: Sequence[int | None] | None = None,
) -> Prompts:
    """Simulate what a person would give for the objects of a slice.

    Args:
        masks: ``(P, H, W)``, one object each. An empty one, a label that is absent, can be asked for by token only.
        mode: "no" nothing; "token" the label's tokens; "full_box" a box around the whole slice; "box" one around the
            object; "point" foreground clicks on it; "pt_box" clicks and box; "mix" the label's tokens where it has
            some, else one of box, point and pt_box, drawn for each object.
        rng: source of every draw.
        jitter: see :func:`jitter_box`; 0 keeps the exact box.
        num_points: foreground clicks per object.
        tokens: for each object the place of its label among those with tokens, or None; None: there are no tokens.

    Raises:
        PromptError: if the mode is unknown, or a mask is empty and there are no tokens.
    """
    if check_mode(mode) == "token" and tokens is None:
        raise PromptError("prompt_mode 'token' needs label tokens: give `--tokens True`.")
    if mode == "token" and tokens is not None and None in tokens:
        raise PromptError(
            f"prompt_mode 'token' cannot ask for object {list(tokens).index(None)} of a slice: its label has no tokens. "
            f"Choose a label that has some with `--label NAME`, or use prompt_mode mix."
        )
    size = (masks.shape[1], masks.shape[2])
    return Prompts.of(
        [
            _sample_object(mask, mode, size, rng, jitter, num_points, None if tokens is None else tokens[p])
            for p, mask in enumerate(masks)
        ]
    )


def _sample_object(
    mask: np.ndarray,
    mode: str,
    size: tuple[int, int],
    rng: np.random.RandomState,
    jitter: float,
    num_points: int,
    label: int | None,
) -> list[Point]:
    if label is not None and (mode in ("token", "mix") or not mask.any()):
        return token(label)
    if mode == "mix":
        mode = MIXED[rng.randint(len(MIXED))]
    box = box_of(mask)  # refuses an empty mask in every mode
    points: list[Point] = []
    if mode in ("point", "pt_box"):
        ys, xs = np.nonzero(mask)
        points += [click(xs[n], ys[n], FOREGROUND) for n in rng.randint(len(xs), size=num_points)]
    if mode == "full_box":
        points += corners((0, 0, size[1], size[0]))
    if mode in ("box", "pt_box"):
        points += corners(jitter_box(box, jitter, size, rng) if jitter else box)
    return points


def corners(box: Sequence[float]) -> list[Point]:
    """The two points that make the prompt of a box (x0, y0, x1, y1)."""
    return [(box[0], box[1], BOX_START), (box[2], box[3], BOX_END)]


def token(n: int) -> list[Point]:
    """What asks for a label itself: its two learned tokens, which have no place.

    Args:
        n: place of the label's value among the adapter's ``tokens``.
    """
    return [(0.0, 0.0, TOKEN + 2 * n), (0.0, 0.0, TOKEN + 2 * n + 1)]


def click(i: int, j: int, point_label: int) -> Point:
    """The point of a click on a voxel, at its centre; i and j count along x and y."""
    return i + 0.5, j + 0.5, point_label


def voxel_box(i0: int, j0: int, i1: int, j1: int) -> tuple[int, int, int, int]:
    """The box (x0, y0, x1, y1) in pixels from the first voxel to the last one, which is in it."""
    return i0, j0, i1 + 1, j1 + 1
