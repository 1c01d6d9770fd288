"""What a person asks of a volume, click by click, and the masks that follow from it; knows no window."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sam_lora.predictor import Predictor
from sam_lora.prompts import BACKGROUND, FOREGROUND, Point, PromptError, click, corners, voxel_box
from sam_lora.propagation import OnSlice
from sam_lora.requests import read_requests
from sam_lora.segmentation import segment

Voxel = tuple[int, int, int]


@dataclass(frozen=True)
class Asked:
    """What is asked for one object: a MONAI Label request without its label.

    Args:
        foreground: voxels of clicks on the object.
        background: voxels of clicks beside it.
        roi: i0, i1, j0, j1, k0, k1 of its box, the ends included, one slice thick.
    """

    foreground: tuple[Voxel, ...] = ()
    background: tuple[Voxel, ...] = ()
    roi: tuple[int, ...] | None = None

    @property
    def is_request(self) -> bool:
        """Whether there is something to segment: background clicks alone ask for nothing."""
        return bool(self.foreground or self.roi)

    def on(self, k: int, axis: int) -> Asked:
        """The part that lies on one slice."""
        here = self.roi if self.roi and self.roi[2 * axis] == k else None
        foreground, background = (
            tuple(v for v in voxels if v[axis] == k) for voxels in (self.foreground, self.background)
        )
        return Asked(foreground, background, here)

    def request(self, label: str) -> dict[str, Any]:
        """As a MONAI Label client sends it."""
        request: dict[str, Any] = {"label": label, "foreground": [list(v) for v in self.foreground],
                                   "background": [list(v) for v in self.background]}  # fmt: skip
        return request if self.roi is None else {**request, "roi": list(self.roi)}


EverythingAsked = dict[int, Asked]  # value of the object -> what is asked for it; never changed in place


class Session:
    """One person, one volume, any number of objects.

    Every mask follows from the prompts, as they are now and as they were at the last propagation: undoing a prompt
    undoes its mask.

    Args:
        predictor: with its volume set. Its labels are the objects; without any, objects are numbered as they come.

    Attributes:
        names: value -> name of the objects.
        value: the object that prompts are for.
        k: the slice that prompts are on.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.volume = predictor, predictor.volume
        self.names = dict(predictor.labels) or {1: "object 1"}
        self._may_grow = not predictor.labels
        self.value, self.k = next(iter(self.names)), len(self.volume) // 2
        self._asked: EverythingAsked = {}
        self._history: list[tuple[EverythingAsked, int, int]] = []
        self._propagated: np.ndarray | None = None
        self._propagated_from: EverythingAsked = {}
        self._decoded: dict[tuple, np.ndarray] = {}
        self._ious: dict[tuple, float] = {}

    # what a person does

    def go_to(self, k: int) -> None:
        """Turn to another slice, the first or last one if there is no such."""
        self.k = min(max(k, 0), len(self.volume) - 1)

    def next_object(self) -> None:
        """Turn to the next object; after the last one to a new one, or to the first where there cannot be another."""
        values = list(self.names)
        place = values.index(self.value) + 1
        if place < len(values):
            self.value = values[place]
        elif self._may_grow and self.value in self._asked:
            self.value = len(values) + 1
            self.names[self.value] = f"object {self.value}"
        else:
            self.value = values[0]

    def click(self, x: float, y: float, foreground: bool = True) -> None:
        """Click on a point of the slice, in its pixels: on the object, or beside it.

        Raises:
            PromptError: if the point is not on the slice.
        """
        height, width = self.volume.size
        if not (0 <= x <= width and 0 <= y <= height):
            raise PromptError(f"A click must be on the slice of {width} x {height} pixels, got {x:g}, {y:g}.")
        voxel = (self._voxel(x, y),)
        asked = self._asked.get(self.value, Asked())
        if foreground:
            self._ask(replace(asked, foreground=asked.foreground + voxel))
        else:
            self._ask(replace(asked, background=asked.background + voxel))

    def box(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Draw the object's box from one corner to the other, in pixels, clipped to the slice.

        It takes the place of the box that the object had, there or on another slice: a request holds one.
        """
        ends = zip(self._voxel(min(x0, x1), min(y0, y1)), self._voxel(max(x0, x1), max(y0, y1)), strict=True)
        self._ask(replace(self._asked.get(self.value, Asked()), roi=tuple(end for pair in ends for end in pair)))

    def undo(self) -> bool:
        """Take the last prompt, or the last clearing, back, and turn to its slice and object; False if there is none."""
        if not self._history:
            return False
        self._asked, self.value, self.k = self._history.pop()
        return True

    def clear(self) -> None:
        """Forget all prompts of the object, and with them its masks."""
        if self.value in self._asked:
            self._change({value: asked for value, asked in self._asked.items() if value != self.value})

    def propagate(self, on_slice: OnSlice | None = None) -> None:
        """Segment whole objects from their prompted slices.

        Args:
            on_slice: told of the progress; what it raises stops the work and leaves everything as it was.

        Raises:
            PromptError: if there is nothing to propagate.
        """
        asked = self._asked
        self._propagated, self._propagated_from = self._segment(self._requests(asked), True, on_slice), asked

    # what follows from it

    @property
    def requests(self) -> list[dict[str, Any]]:
        """All that is asked, as a MONAI Label client sends it; objects with background clicks alone are left out."""
        return self._requests(self._asked)

    @property
    def is_stale(self) -> bool:
        """Whether prompts changed since the last propagation."""
        return self._propagated is not None and self._propagated_from != self._asked

    def points(self, k: int) -> dict[int, list[Point]]:
        """The prompts on a slice in its pixels: value of the object -> points, box corners among them."""
        return {value: self._points(asked) for value, asked in self._on(k, self._asked).items()}

    def mask(self, k: int) -> np.ndarray:
        """The label map of a slice: ``(H, W)``, integers.

        Objects whose prompts on it are those of the last propagation are as that left them; background clicks alone
        wait for the next one.
        """
        decoded = self._decode(k)
        if self._propagated is None:
            return decoded.copy()
        label = self.volume.slice_of(self._propagated, k).copy()
        now, then = (
            {value: one for value, one in self._on(k, asked).items() if one.is_request}
            for asked in (self._asked, self._propagated_from)
        )
        gone = {value for value in self.names if value not in self._asked or now.get(value) != then.get(value)}
        label[np.isin(label, list(gone))] = 0
        return label if now == then else np.where(decoded > 0, decoded, label)

    def iou(self, k: int) -> float | None:
        """What the network thinks of the mask of the object on a slice: its predicted IoU; None without a prompt."""
        asked = self._on(k, self._asked).get(self.value)
        if asked is None or not asked.is_request:
            return None
        if (k, asked) not in self._ious:
            voxels = asked.foreground + asked.background
            labels = [1] * len(asked.foreground) + [0] * len(asked.background)
            answer = self.predictor.predict(voxels or None, labels if voxels else None, asked.roi)
            self._ious[k, asked] = float(answer.iou[0, 0])
        return self._ious[k, asked]

    def label(self) -> np.ndarray:
        """The label map of the volume: ``(I, J, K)`` on the stored grid, integers."""
        label = self.volume.empty_label(max(self.names))
        for k in range(len(self.volume)):
            if self._propagated is not None or self._on(k, self._asked):
                self.volume.slice_of(label, k)[...] = self.mask(k)
        return label

    # how

    def _voxel(self, x: float, y: float) -> Voxel:
        """The voxel under a point of the slice; the nearest one where it is beside."""
        height, width = self.volume.size
        inside = [min(max(math.floor(p), 0), side - 1) for p, side in ((x, width), (y, height))]
        inside.insert(self.volume.axis, self.k)
        return inside[0], inside[1], inside[2]

    def _ask(self, asked: Asked) -> None:
        self._change({**self._asked, self.value: asked})

    def _change(self, asked: EverythingAsked) -> None:
        self._history.append((self._asked, self.value, self.k))
        self._asked = dict(sorted(asked.items()))

    def _on(self, k: int, asked: EverythingAsked) -> EverythingAsked:
        here = {value: one.on(k, self.volume.axis) for value, one in asked.items()}
        return {value: one for value, one in here.items() if one != Asked()}

    def _requests(self, asked: EverythingAsked) -> list[dict[str, Any]]:
        return [one.request(self.names[value]) for value, one in asked.items() if one.is_request]

    def _points(self, asked: Asked) -> list[Point]:
        x, y = (a for a in range(3) if a != self.volume.axis)
        points = [click(v[x], v[y], FOREGROUND) for v in asked.foreground]
        points += [click(v[x], v[y], BACKGROUND) for v in asked.background]
        if asked.roi:
            points += corners(voxel_box(*(asked.roi[2 * a + end] for end in (0, 1) for a in (x, y))))
        return points

    def _decode(self, k: int) -> np.ndarray:
        """The label map of a slice from the prompts on it alone."""
        here = self._on(k, self._asked)
        requests = self._requests(here)
        if not requests:
            return np.zeros(self.volume.size, np.uint8)
        key = (k, *here.items())
        if key not in self._decoded:
            self._decoded[key] = self.volume.slice_of(self._segment(requests), k).copy()
        return self._decoded[key]

    def _segment(
        self, requests: Sequence[Mapping[str, Any]], propagated: bool = False, on_slice: OnSlice | None = None
    ) -> np.ndarray:
        objects = read_requests(requests, self.volume.shape, self.names, self.volume.axis)
        return segment(self.predictor.embedder, self.volume, objects, propagated, on_slice=on_slice)
