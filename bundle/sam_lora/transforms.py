"""From a slice with its label map to what the network is trained and evaluated on; dictionary transforms for configs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

from sam_lora.cases import CaseError
from sam_lora.parts import parts_of
from sam_lora.prompts import MIXED, PADDING, check_mode, sample_prompts

IGNORED = -1.0  # label of an object that does not count: it fills a batch, or was moved out of the picture


class SplitObjectsd(MapTransform):
    """Turn a label map into one binary mask per object.

    ``label`` ``(H, W)`` of integers becomes ``(P, H, W)`` float32, one channel per value above 0, and ``values``
    ``(P,)`` says which; values with too few pixels are left out. Those listed under ``absent`` are objects of the
    slice whatever their size: an empty mask where they are not there.

    Args:
        keys: the label map.
        min_pixels: objects smaller than this, in pixels of the slice, are left out.

    Raises:
        CaseError: if no object is left.
    """

    def __init__(self, keys: KeysCollection = "label", min_pixels: int = 1) -> None:
        super().__init__(keys)
        self.min_pixels = min_pixels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the label map of one sample."""
        d = dict(data)
        for key in self.key_iterator(d):
            label = np.asarray(d[key])
            values = sorted({*object_values(label, self.min_pixels), *d.get("absent", ())})
            if not values:
                raise CaseError(f"{d.get('name', 'The slice')} has no object of at least {self.min_pixels} pixels.")
            d[key] = torch.from_numpy(np.stack([label == v for v in values]).astype(np.float32))
            d["values"] = torch.tensor(values)
        return d


def object_values(label: np.ndarray, min_pixels: int) -> list[int]:
    """Label values above 0 in a slice ``(H, W)`` that have at least ``min_pixels`` pixels, ascending."""
    values, counts = np.unique(label, return_counts=True)
    return [int(v) for v, n in zip(values, counts, strict=True) if v > 0 and n >= min_pixels]


class RandPromptsd(RandomizableTransform, MapTransform):
    """Simulate prompts for every object: ``points`` ``(P, N, 2)`` and ``point_labels`` ``(P, N)`` join the sample.

    It comes last, after every spatial augmentation, so that no transform has to move points. An object that was moved
    out of the picture, and whose label has no tokens, gets no prompt and the label -1: it does not count.

    In mode "mix" an object that is there and whose label has tokens is asked for twice, by them and by a person's prompt:
    it joins the masks and ``values`` once more, behind all others. The image is encoded once for both.

    With ``min_part`` a click or box is about one connected part of an object, as evaluation by parts has it: each part joins
    the masks and ``values`` in place of the whole. Whatever has no place (tokens, the whole frame) asks for the whole.

    Args:
        keys: the binary masks ``(P, H, W)``.
        mode: see :func:`sam_lora.prompts.sample_prompts`.
        jitter: how far the sides of a box move, in and out, relative to its length; 0 keeps the exact box.
        num_points: foreground clicks per object.
        tokens: the label values that have tokens, in their order.
        min_part: see :func:`sam_lora.parts.parts_of`; 0 asks for whole objects.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        mode: str = "pt_box",
        jitter: float = 0.0,
        num_points: int = 1,
        tokens: Sequence[int] = (),
        min_part: int = 0,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self)
        if jitter < 0:
            raise ValueError(f"box_jitter must be at least 0, got {jitter}.")
        if num_points < 1:
            raise ValueError(f"num_points must be at least 1, got {num_points}.")
        self.mode, self.jitter, self.num_points = check_mode(mode), jitter, num_points
        self.tokens, self.min_part = list(tokens), min_part

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the prompts of one sample, drawn from the transform's own random state."""
        d = dict(data)
        for key in self.key_iterator(d):
            masks, values = np.asarray(d[key]), d["values"].tolist()
            tokens = [self.tokens.index(v) if v in self.tokens else None for v in values] if self.tokens else None
            if self.mode == "mix" and tokens is not None:
                twice = [p for p, mask in enumerate(masks) if tokens[p] is not None and mask.any()]
                masks, tokens = np.concatenate([masks, masks[twice]]), [*tokens, *[None] * len(twice)]
                d["values"] = torch.cat([d["values"], d["values"][twice]])
            if self.min_part:
                placed = [self.mode in MIXED or (self.mode == "mix" and (tokens is None or tokens[p] is None))
                          for p in range(len(masks))]  # fmt: skip
                parts = [parts_of(m, self.min_part) if placed[p] and m.any() else [m] for p, m in enumerate(masks)]
                whose = [p for p, some in enumerate(parts) for _ in some]
                masks, d["values"] = np.stack([m for some in parts for m in some]), d["values"][whose]
                tokens = None if tokens is None else [tokens[p] for p in whose]
            lost = [not mask.any() and (tokens is None or tokens[p] is None) for p, mask in enumerate(masks)]
            asked = np.where(np.array(lost)[:, None, None], 1, masks)  # a stand-in: its prompt asks for nothing
            prompts = sample_prompts(asked, self.mode, self.R, self.jitter, self.num_points, tokens)
            d["points"], d["point_labels"] = prompts.points, prompts.point_labels
            d["point_labels"][torch.tensor(lost)] = PADDING
            d[key] = torch.where(torch.tensor(lost)[:, None, None], IGNORED, torch.as_tensor(masks))
        d["draw"] = self.R.randint(2**31 - 1)
        return d
