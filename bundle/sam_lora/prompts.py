"""Prompts: drawn from masks for training and evaluation, read from requests for serving.

The only place where voxels become pixels. Voxels (i, j, k) index the stored array; the slice shown to the network is
``volume[:, :, k].T``, so x = i and y = j. Pixel coordinates are continuous: 0 is the image's left or upper edge, and
the centre of voxel i is i + 0.5. A box runs from the first voxel's near edge to the last one's far edge,
``(min, max + 1)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor

MODES = ("no", "box", "full_box", "point", "pt_box", "mix")
MIXED = ("box", "point", "pt_box")  # what "mix" draws from, for each object anew
REQUEST_KEYS = ("label", "foreground", "background", "roi")
PADDING, BACKGROUND, FOREGROUND, BOX_START, BOX_END = -2, 0, 1, 2, 3


class PromptError(ValueError):
    """A prompt that cannot be honoured; the sentence says which and why."""


@dataclass(frozen=True)
class Prompts:
    """Prompts for the P objects of one slice.

    Args:
        points: ``(P, N, 2)``, float32, (x, y) in pixels of the slice.
        point_labels: ``(P, N)``, int64: 1 foreground, 0 background, 2 and 3 box corners, -2 padding.
    """

    points: Tensor
    point_labels: Tensor

    @staticmethod
    def of(objects: Sequence[Sequence[tuple[float, float, int]]]) -> Prompts:
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
    masks: np.ndarray, mode: str, rng: np.random.RandomState, jitter: float = 0.0, num_points: int = 1
) -> Prompts:
    """Simulate what a person would give for the objects of a slice.

    Args:
        masks: ``(P, H, W)``, one object each, none empty.
        mode: "no" nothing; "full_box" a box around the whole slice; "box" one around the object; "point"
            foreground clicks on it; "pt_box" clicks and box; "mix" draws box, point or pt_box for each object.
        rng: source of every draw.
        jitter: see :func:`jitter_box`; 0 keeps the exact box.
        num_points: foreground clicks per object.

    Raises:
        PromptError: if the mode is unknown or a mask is empty.
    """
    check_mode(mode)
    size = (masks.shape[1], masks.shape[2])
    return Prompts.of([_sample_object(mask, mode, size, rng, jitter, num_points) for mask in masks])


def _sample_object(
    mask: np.ndarray, mode: str, size: tuple[int, int], rng: np.random.RandomState, jitter: float, num_points: int
) -> list[tuple[float, float, int]]:
    if mode == "mix":
        mode = MIXED[rng.randint(len(MIXED))]
    box = box_of(mask)  # refuses an empty mask in every mode
    points: list[tuple[float, float, int]] = []
    if mode in ("point", "pt_box"):
        ys, xs = np.nonzero(mask)
        points += [(xs[n] + 0.5, ys[n] + 0.5, FOREGROUND) for n in rng.randint(len(xs), size=num_points)]
    if mode == "full_box":
        points += corners((0, 0, size[1], size[0]))
    if mode in ("box", "pt_box"):
        points += corners(jitter_box(box, jitter, size, rng) if jitter else box)
    return points


def corners(box: Sequence[float]) -> list[tuple[float, float, int]]:
    """The two points that make the prompt of a box (x0, y0, x1, y1)."""
    return [(box[0], box[1], BOX_START), (box[2], box[3], BOX_END)]


@dataclass(frozen=True)
class SlicePrompts:
    """What is asked of one slice: the label value each of P objects will get, and their prompts, None for none."""

    values: tuple[int, ...]
    prompts: Prompts | None


def prompts_from_requests(
    requests: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    shape: Sequence[int],
    labels: Mapping[int, str],
    axis: int = 2,
) -> dict[int, SlicePrompts]:
    """Read what a MONAI Label client sends, one object per request.

    Args:
        requests: ``{"label": "spleen", "foreground": [[i, j, k]], "background": [[i, j, k]],
            "roi": [i0, i1, j0, j1, k0, k1]}``, or a list of them. Voxels of the stored array; the ends of a box are
            inclusive, in any order, clipped to the volume. A box prompts its middle slice; a click prompts its own.
        shape: (I, J, K) of the volume; an image is a volume of one slice, and (I, J) and 2D points do for it.
        labels: value -> name of the labels that may be asked for; empty: any name, values in order of appearance.
        axis: the slice axis. The other two, in order, are x and y.

    Returns:
        Slice index -> its prompts.

    Raises:
        PromptError: naming the request, the rule and the value.
    """
    if not isinstance(requests, Mapping | Sequence) or isinstance(requests, str):
        raise PromptError(f"Prompts must be a request or a list of requests, got {requests!r}.")
    requests = [requests] if isinstance(requests, Mapping) else list(requests)
    if not requests:
        raise PromptError("There is no prompt: give at least one request with foreground points or a roi.")
    shape = (*shape, 1)[:3] if len(shape) == 2 else tuple(shape)
    names = {name: value for value, name in labels.items()}
    found: dict[int, list[tuple[int, list[tuple[float, float, int]]]]] = {}
    for number, request in enumerate(requests):
        where = f"request {number}" if len(requests) > 1 else "the request"
        if not isinstance(request, Mapping):
            raise PromptError(f"{where} must be an object with foreground, background or roi, got {request!r}.")
        _refuse_misspelt(request, where)
        value = _label_value(request.get("label"), names, bool(labels), where)
        for index, points in _by_slice(request, shape, axis, where).items():
            found.setdefault(index, []).append((value, points))
    return {
        index: SlicePrompts(tuple(v for v, _ in objects), Prompts.of([points for _, points in objects]))
        for index, objects in sorted(found.items())
    }


def _refuse_misspelt(request: Mapping[str, Any], where: str) -> None:
    """A client sends more than prompts, and that is ignored; what is nearly the name of a prompt is not."""
    for key in request:
        near = get_close_matches(str(key), REQUEST_KEYS, 1, 0.8)
        if key not in REQUEST_KEYS and near:
            raise PromptError(f"{where} has the key {key!r}; {near[0]!r} is meant?")


def _label_value(label: Any, names: dict[str, int], closed: bool, where: str) -> int:
    if not isinstance(label, str | None):
        raise PromptError(f"label of {where} must be a name, got {label!r}.")
    if label is None and closed and len(names) == 1:
        return next(iter(names.values()))
    if label is None and not closed:
        label = "object"
    if label in names:
        return names[label]
    if closed:
        raise PromptError(f"{where} asks for label {label!r}; known are {', '.join(names)}.")
    return names.setdefault(str(label), len(names) + 1)


def _by_slice(
    request: Mapping[str, Any], shape: Sequence[int], axis: int, where: str
) -> dict[int, list[tuple[float, float, int]]]:
    x_axis, y_axis = (a for a in range(3) if a != axis)
    slices: dict[int, list[tuple[float, float, int]]] = {}
    foreground = _voxels(request, "foreground", shape, where)
    background = _voxels(request, "background", shape, where)
    for voxels, point_label in ((foreground, FOREGROUND), (background, BACKGROUND)):
        for voxel in voxels:
            point = (voxel[x_axis] + 0.5, voxel[y_axis] + 0.5, point_label)
            slices.setdefault(voxel[axis], []).append(point)
    roi = request.get("roi")
    if roi:
        first, last = _box(roi, shape, where)
        box = (first[x_axis], first[y_axis], last[x_axis] + 1, last[y_axis] + 1)
        slices.setdefault((first[axis] + last[axis]) // 2, []).extend(corners(box))
    if not foreground and not roi:
        raise PromptError(f"{where} has neither foreground points nor a roi: there is nothing to segment.")
    # A background click alone, on a slice of its own, asks for nothing there.
    return {k: points for k, points in slices.items() if any(label != BACKGROUND for *_, label in points)}


def _voxels(request: Mapping[str, Any], key: str, shape: Sequence[int], where: str) -> list[tuple[int, ...]]:
    listed = request.get(key) or []
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise PromptError(f"{key} of {where} must be a list of voxels, got {listed!r}.")
    voxels = []
    for point in listed:
        numbers = _finite(point, f"a {key} point of {where}")
        if len(numbers) == 2 and shape[2] == 1:
            numbers.append(0)
        if len(numbers) != 3:
            raise PromptError(f"A {key} point of {where} must have 3 numbers, i, j, k, got {point!r}.")
        voxel = tuple(math.floor(n + 0.5) for n in numbers)
        if not all(0 <= v < side for v, side in zip(voxel, shape, strict=True)):
            raise PromptError(f"{key} point {point} of {where} lies outside the volume of {_by(shape)} voxels.")
        voxels.append(voxel)
    return voxels


def _box(roi: Any, shape: Sequence[int], where: str) -> tuple[list[int], list[int]]:
    numbers = _finite(roi, f"roi of {where}")
    if len(numbers) == 4 and shape[2] == 1:
        numbers += [0, 0]
    if len(numbers) != 6:
        raise PromptError(f"roi of {where} must be i0, i1, j0, j1, k0, k1, got {roi!r}.")
    first, last = [], []
    for a, side in enumerate(shape):
        low, high = sorted(math.floor(n + 0.5) for n in numbers[2 * a : 2 * a + 2])
        if high < 0 or low >= side:
            raise PromptError(f"roi {roi} of {where} lies outside the volume of {_by(shape)} voxels.")
        first.append(max(low, 0))
        last.append(min(high, side - 1))
    return first, last


def _finite(numbers: Any, what: str) -> list[float]:
    try:
        values = [float(n) for n in numbers]
    except (TypeError, ValueError) as error:
        raise PromptError(f"{what} must be a list of numbers, got {numbers!r}.") from error
    if not all(map(math.isfinite, values)):
        raise PromptError(f"{what} must be finite, got {numbers!r}.")
    return values


def _by(shape: Sequence[int]) -> str:
    return " x ".join(str(side) for side in shape)
