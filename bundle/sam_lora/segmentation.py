"""What is asked of a volume in, one label map out: the way of every mask, from a click to a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sam_lora.embedding import Embedder
from sam_lora.propagation import Masks, OnSlice, Propagation, PropagationRules
from sam_lora.requests import ObjectPrompts
from sam_lora.volumes import Volume


def segment(
    embedder: Embedder,
    volume: Volume,
    objects: Sequence[ObjectPrompts],
    propagated: bool = False,
    rules: PropagationRules | None = None,
    on_slice: OnSlice | None = None,
) -> np.ndarray:
    """Segment objects of a volume.

    The answer follows from the arguments alone: what the embedder has cached only saves time. (Where some objects of a
    slice are cached and others are not, the decoder's batches differ, and logits with them by rounding.)

    Args:
        embedder: the network and its caches.
        volume: the slices.
        objects: what is asked.
        propagated: whole objects instead of their prompted slices.
        rules: of the propagation.
        on_slice: told how many slices are done, and of how many; what it raises stops the work.

    Returns:
        Label map ``(I, J, K)`` on the stored grid, uint8, or int32 for values above 255; where objects overlap, the
        one with the higher logit wins.
    """
    propagation = Propagation(embedder, volume, objects, rules, on_slice)
    masks = propagation.whole_objects() if propagated else propagation.prompted_slices()
    return label_map(embedder, volume, [one.value for one in objects], masks)


@torch.no_grad()
def label_map(embedder: Embedder, volume: Volume, values: Sequence[int], masks: Sequence[Masks]) -> np.ndarray:
    """Bring each object's logits to the stored grid and join them, a slice at a time."""
    label = volume.empty_label(max(values, default=0))
    for k in sorted({k for found in masks for k in found}):
        there = [n for n, found in enumerate(masks) if k in found]
        low_res = torch.stack([masks[n][k] for n in there])[None].float()
        highest, which = embedder.network.upscale(low_res, volume.size)[0].max(0)
        named = torch.tensor([values[n] for n in there], device=which.device)[which]
        volume.slice_of(label, k)[...] = torch.where(highest > 0, named, 0).cpu().numpy()
    return label
