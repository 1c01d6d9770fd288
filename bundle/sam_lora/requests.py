"""What a client asks for, read and checked: one object per request, with its prompts slice by slice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from sam_lora.prompts import BACKGROUND, FOREGROUND, Point, PromptError, click, corners, token, voxel_box

REQUEST_KEYS = ("label", "foreground", "background", "roi", "automatic")


@dataclass(frozen=True)
class ObjectPrompts:
    """What is asked for one object of a volume.

    Args:
        value: what the object is in the label map.
        name: its label's name.
        points: slice -> its (x, y, label), box corners among them; an empty list asks for what the network sees
            without a prompt.
        bounds: first and last slice that a propagated object may reach, its prompted ones included; None where nothing
            bounds it.
        masks: slice -> a mask drawn there, ``(H, W)``, bool.
    """

    value: int
    name: str
    points: Mapping[int, list[Point]]
    bounds: tuple[int, int] | None = None
    masks: Mapping[int, np.ndarray] = field(default_factory=dict)

    @property
    def prompted(self) -> list[int]:
        """The slices that are segmented by their own prompts, ascending; background clicks alone ask for nothing."""
        return [k for k, points in sorted(self.points.items()) if not points or not only_background(points)]


def only_background(points: Sequence[Point]) -> bool:
    """Whether there is nothing among the points but background clicks."""
    return all(label == BACKGROUND for *_, label in points)


def read_requests(
    requests: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    shape: Sequence[int],
    labels: Mapping[int, str],
    axis: int = 2,
    needs_foreground: bool = True,
    tokens: Sequence[int] = (),
) -> list[ObjectPrompts]:
    """Read what a MONAI Label client sends.

    Args:
        requests: ``{"label": "spleen", "foreground": [[i, j, k]], "background": [[i, j, k]],
            "roi": [i0, i1, j0, j1, k0, k1]}``, or a list of them, one object each. Voxels of the stored array; the
            ends of a box are inclusive, in any order, clipped to the volume. A box prompts its middle slice and
            bounds a propagation, unless it is one slice thick; a click prompts its own slice. ``roi`` may be a list of
            boxes of one object, on slices of their own. ``"automatic": true`` asks for the label itself, by its learned
            tokens on every slice; clicks and boxes beside it correct it on theirs.
        shape: (I, J, K) of the volume; an image is a volume of one slice, and (I, J) and 2D points do for it.
        labels: value -> name of the labels that may be asked for; empty: any name, values in order of appearance.
        axis: the slice axis. The other two, in order, are x and y.
        needs_foreground: refuse an object with background clicks only; False where a mask says what it is.
        tokens: the label values that the network has tokens for, in their order.

    Returns:
        One object per request, in their order.

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
    objects = []
    for number, request in enumerate(requests):
        where = f"request {number}" if len(requests) > 1 else "the request"
        if not isinstance(request, Mapping):
            raise PromptError(f"{where} must be an object with foreground, background or roi, got {request!r}.")
        _refuse_misspelt(request, where)
        value = _label_value(request.get("label"), names, bool(labels), where)
        name = next(known for known, one in names.items() if one == value)
        one = _object(request, (value, name), shape, axis, where)
        if _is_automatic(request, where):
            if not labels:
                raise PromptError(
                    f"{where} is automatic, and the network's labels have no names: give clicks or a box."
                )
            one = by_token(one, tokens, shape[axis])
        if not one.points or (needs_foreground and not one.prompted):
            raise PromptError(f"{where} has neither foreground points nor a roi: there is nothing to segment.")
        objects.append(one)
    return objects


def _is_automatic(request: Mapping[str, Any], where: str) -> bool:
    asked = request.get("automatic", False)
    if not isinstance(asked, bool):
        raise PromptError(f"automatic of {where} must be true or false, got {asked!r}.")
    return asked


def by_token(one: ObjectPrompts, tokens: Sequence[int], slices: int) -> ObjectPrompts:
    """Ask for an object by its label's learned tokens on every slice, its own prompts beside them.

    Args:
        one: the object.
        tokens: see :func:`read_requests`.
        slices: of the volume.

    Raises:
        PromptError: if its label has no tokens.
    """
    if one.value not in tokens:
        raise PromptError(
            f"Label {one.name!r} cannot be segmented without a prompt: the adapter has no tokens for it. Train one with "
            f"`--tokens True`, or give clicks or a box."
        )
    learned = token(list(tokens).index(one.value))
    return replace(one, points={k: [*learned, *one.points.get(k, [])] for k in range(slices)})


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


def _object(
    request: Mapping[str, Any], label: tuple[int, str], shape: Sequence[int], axis: int, where: str
) -> ObjectPrompts:
    x_axis, y_axis = (a for a in range(3) if a != axis)
    points: dict[int, list[Point]] = {}
    foreground = _voxels(request, "foreground", shape, where)
    background = _voxels(request, "background", shape, where)
    for voxels, point_label in ((foreground, FOREGROUND), (background, BACKGROUND)):
        for voxel in voxels:
            points.setdefault(voxel[axis], []).append(click(voxel[x_axis], voxel[y_axis], point_label))
    rois = _listed_boxes(request.get("roi"))
    bounds: list[int] = []
    boxed: set[int] = set()
    for roi in rois:
        first, last = _box(roi, shape, where)
        middle = (first[axis] + last[axis]) // 2
        if middle in boxed:
            raise PromptError(f"roi of {where} holds two boxes on slice {middle}: an object has one box on a slice.")
        boxed.add(middle)
        points.setdefault(middle, []).extend(
            corners(voxel_box(first[x_axis], first[y_axis], last[x_axis], last[y_axis]))
        )
        bounds += [first[axis], last[axis]] if first[axis] < last[axis] else []
    prompted = [*(voxel[axis] for voxel in foreground), *boxed]
    return ObjectPrompts(*label, points, (min(bounds + prompted), max(bounds + prompted)) if bounds else None)


def _listed_boxes(roi: Any) -> list[Any]:
    """The boxes of one object: none, one, or a list of them."""
    if roi is None or (isinstance(roi, Sequence | np.ndarray) and not len(roi)):
        return []
    roi = roi.tolist() if isinstance(roi, np.ndarray) else roi
    several = (
        isinstance(roi, Sequence)
        and not isinstance(roi, str)
        and all(isinstance(one, Sequence) and not isinstance(one, str) for one in roi)
    )
    return list(roi) if several else [roi]


def _voxels(request: Mapping[str, Any], key: str, shape: Sequence[int], where: str) -> list[tuple[int, ...]]:
    given = request.get(key)
    listed = [] if given is None else given.tolist() if isinstance(given, np.ndarray) else given
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
    if isinstance(numbers, str):
        raise PromptError(f"{what} must be a list of numbers, got {numbers!r}.")
    try:
        values = [float(n) for n in numbers]
    except (TypeError, ValueError) as error:
        raise PromptError(f"{what} must be a list of numbers, got {numbers!r}.") from error
    if not all(map(math.isfinite, values)):
        raise PromptError(f"{what} must be finite, got {numbers!r}.")
    return values


def _by(shape: Sequence[int]) -> str:
    return " x ".join(str(side) for side in shape)
