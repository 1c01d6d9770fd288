"""The interactive interface: set an image or a volume once, ask it as often as one likes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam_lora.adapter import DEFAULT_INTENSITY
from sam_lora.arrays import requests_of_arrays
from sam_lora.cases import read_image, to_uint8
from sam_lora.datalist import label_value
from sam_lora.embedding import Embedder
from sam_lora.frame import Frame
from sam_lora.networks import Sam
from sam_lora.prompts import Point, PromptError, Prompts, token
from sam_lora.propagation import OnSlice, PropagationRules
from sam_lora.reading import CaseError
from sam_lora.requests import read_requests
from sam_lora.segmentation import segment
from sam_lora.volumes import Volume


@dataclass(frozen=True)
class Prediction:
    """Masks of P objects on one slice, M candidates each.

    Args:
        masks: ``(P, M, H, W)``, bool.
        iou: predicted IoU, ``(P, M)``.
        low_res_logits: ``(P, M, n, n)``, float32: what :meth:`Predictor.predict` takes as ``mask``.
        k: the slice.
    """

    masks: np.ndarray
    iou: np.ndarray
    low_res_logits: Tensor
    k: int


class Predictor:
    """Answers prompts on one image or volume; embeddings are made once and kept.

    Points and boxes are voxels of the stored image, (i, j) or (i, j, k): in a picture i is the column and j the row.

    Args:
        network: base, adapted or merged; or an :class:`Embedder`, to share caches.
        labels: value -> name of what :meth:`segment` may be asked for; None takes the adapter's.
        intensity: of raw images, see :func:`sam_lora.cases.to_uint8`; None takes the adapter's.
    """

    def __init__(
        self,
        network: Sam | Embedder,
        labels: Mapping[int, str] | None = None,
        intensity: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self._labels, self._intensity = labels, intensity
        self._volume: Volume | None = None
        self._given: tuple[np.ndarray | str | Path, int] | None = None
        self.intensity: dict[str, Sequence[float]] = {}
        self.use(network)

    def use(self, network: Sam | Embedder) -> None:
        """Answer with another network, an adapter say, from now on; the image stays set, with its intensity setting."""
        self.embedder = network if isinstance(network, Embedder) else Embedder(network)
        spec = getattr(self.embedder.network, "spec", None)
        self.labels = dict((spec.labels if spec else {}) if self._labels is None else self._labels)
        before = self.intensity
        self.intensity = dict(self._intensity or (spec.intensity if spec else {}) or DEFAULT_INTENSITY)
        if self._given is not None and self.intensity != before:
            self.set_volume(*self._given)

    def set_image(self, image: np.ndarray | str | Path) -> None:
        """Set a picture.

        Args:
            image: ``(H, W)`` or ``(H, W, 3)``, rows first, or a file; what is not uint8 passes the intensity setting.

        Raises:
            CaseError: if it has another shape, holds NaN, or cannot be read.
        """
        if isinstance(image, np.ndarray):
            if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
                raise CaseError(f"An image must have the shape (H, W) or (H, W, 3), got {image.shape}.")
            self.set_volume(np.swapaxes(image, 0, 1)[:, :, None])
            return
        self.set_volume(image)
        if len(self.volume) > 1:
            self._volume = self._given = None
            raise CaseError(f"{image} is a volume: set_volume takes it.")

    def set_volume(self, volume: np.ndarray | str | Path, axis: int = 2) -> None:
        """Set a volume.

        Args:
            volume: ``(I, J, K)`` or ``(I, J, K, 3)`` in voxel order, or a file or a folder with one DICOM series.
            axis: the slice axis.

        Raises:
            CaseError: likewise.
        """
        if isinstance(volume, np.ndarray):
            volume = volume.astype(np.uint8) * np.uint8(255) if volume.dtype == bool else volume.copy()
            ready = volume.dtype == np.uint8 or not volume.size
            array = volume if ready else to_uint8(volume, self.intensity)
        else:
            array, _ = read_image(Path(volume), self.intensity)
        self._volume, self._given = Volume(array, axis), (volume, axis)

    @property
    def volume(self) -> Volume:
        """What is set; PromptError if nothing is."""
        if self._volume is None:
            raise PromptError("There is no image yet: call set_image or set_volume first.")
        return self._volume

    @torch.no_grad()
    def predict(
        self,
        points: Any = None,
        point_labels: Any = None,
        boxes: Any = None,
        mask: Any = None,
        multimask: bool = False,
        k: int | None = None,
        label: str | int | None = None,
    ) -> Prediction:
        """Segment objects of one slice, all in one pass of the decoder.

        Args:
            points: clicks on one object ``(N, 2)`` or ``(N, 3)``, or on P objects ``(P, N, 2)`` or ``(P, N, 3)``.
            point_labels: ``(N,)`` or ``(P, N)``: 1 foreground, 0 background; None: all foreground.
            boxes: ``(4,)`` or ``(6,)``, or one for each of P objects: i0, i1, j0, j1[, k0, k1], the ends included.
            mask: to refine: logits of a previous answer ``(n, n)`` or ``(P, n, n)``, floats, or a mask ``(H, W)`` or
                ``(P, H, W)``, bool. With it, background clicks alone are enough.
            multimask: three candidates for an ambiguous prompt instead of one.
            k: the slice; needed where no point or box says.
            label: name or value of a label that the adapter has tokens for: alone it is segmented without a prompt, with
                clicks or a box it is corrected.

        Raises:
            PromptError: if nothing is asked, prompts are not in the volume, or lie on several slices.
        """
        volume = self.volume
        learned = [] if label is None else self._token(label)
        objects, k = self._on_one_slice(points, point_labels, boxes, mask, k, label)
        objects = [[*learned, *one] for one in objects]
        (embedding,) = self.embedder.embed(volume, [k])
        previous = _previous(mask, len(objects), Frame(self.embedder.network, volume.size))
        prompts = Prompts.of(objects)
        device = embedding.device
        low_res, iou = self.embedder.network.decode(
            embedding, prompts.points[None].to(device), prompts.point_labels[None].to(device), volume.size,
            None if previous is None else previous[None].to(device), multimask,
        )  # fmt: skip
        masks = self.embedder.network.upscale(low_res[0], volume.size) > 0
        return Prediction(masks.cpu().numpy(), iou[0].cpu().numpy(), low_res[0], k)

    def segment(
        self,
        requests: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        propagated: bool = False,
        rules: PropagationRules | None = None,
        on_slice: OnSlice | None = None,
    ) -> np.ndarray:
        """Segment what a MONAI Label client asks for, see :func:`sam_lora.requests.read_requests`.

        Returns:
            Label map ``(I, J, K)``, see :func:`sam_lora.segmentation.segment`.
        """
        volume = self.volume
        tokens = self.embedder.network.tokens
        objects = read_requests(requests, volume.shape, self.labels, volume.axis, tokens=tokens)
        return segment(self.embedder, volume, objects, propagated, rules, on_slice)

    def _token(self, label: str | int) -> list[Point]:
        tokens, value = self.embedder.network.tokens, label_value(label, self.labels)
        if value not in tokens:
            raise PromptError(f"label {label!r} has no tokens in this network: give points, boxes or a mask.")
        return token(tokens.index(value))

    def _on_one_slice(
        self, points: Any, point_labels: Any, boxes: Any, mask: Any, k: int | None, label: str | int | None
    ) -> tuple[list[list[Point]], int]:
        volume = self.volume
        if k is not None and not (isinstance(k, int | np.integer) and 0 <= k < len(volume)):
            raise PromptError(f"k must be a slice, a whole number from 0 to {len(volume) - 1}, got {k!r}.")
        if points is None and boxes is None:
            if mask is None and label is None:
                raise PromptError("Nothing is asked: give points, boxes, a mask or a label.")
            if k is None and len(volume) > 1:
                what = "label" if mask is None else "mask"
                raise PromptError(f"A {what} alone does not say its slice: give k, from 0 to {len(volume) - 1}.")
            count = len(mask) if np.ndim(mask) == 3 else 1
            return [[] for _ in range(count)], int(k or 0)
        requests = requests_of_arrays(points, point_labels, boxes)
        needs_foreground = mask is None and label is None
        asked = read_requests(requests, volume.shape, {}, volume.axis, needs_foreground)
        slices = sorted({found for one in asked for found in one.points})
        if k not in (None, *slices):
            raise PromptError(f"k is {k}, and the prompts lie on slice {slices[0]}: give one or the other.")
        if len(slices) > 1:
            listed = ", ".join(map(str, slices))
            raise PromptError(f"predict answers for one slice, these prompts lie on slices {listed}: use segment.")
        return [list(one.points[slices[0]]) for one in asked], slices[0]


def _previous(mask: Any, count: int, frame: Frame) -> Tensor | None:
    """The mask to refine as logits ``(P, n, n)``."""
    if mask is None:
        return None
    given = torch.as_tensor(np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask))
    given = given[None] if given.ndim == 2 else given
    drawn = given.dtype == torch.bool
    if not drawn and not given.is_floating_point():
        raise PromptError(f"mask must be bool (a mask) or float (logits of an answer), got {given.dtype}.")
    shape = (count, *(frame.size if drawn else (frame.side, frame.side)))
    if tuple(given.shape) != shape:
        raise PromptError(f"mask must have the shape {shape} for {count} objects, got {tuple(given.shape)}.")
    if drawn:
        return torch.stack([frame.logits_of(one.numpy()) for one in given])
    if not torch.isfinite(given).all():
        raise PromptError("mask must be finite: it holds NaN or infinite logits.")
    return given.float()
