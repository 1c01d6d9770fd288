"""What to label next: where the network contradicts itself, and what looks like nothing that was labelled.

Disagreement is that of one network with itself, asked for the same slice by another prompt, and mirrored. Diversity is
the k-centre greedy choice of Sener and Savarese 2018 ("Active Learning for Convolutional Neural Networks: A Core-Set
Approach", arXiv:1708.00489) on mean embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sam_lora.embedding import Embedder
from sam_lora.frame import Frame
from sam_lora.prompts import corners, token
from sam_lora.volumes import Volume

SLICES = 12  # of a volume that are looked at, evenly spread


@dataclass(frozen=True)
class Seen:
    """What a network makes of a volume that nobody has labelled.

    Args:
        uncertainty: 0 to 1: one minus the mean of predicted IoU and agreement, over slices where a label is found; 1
            where none is found at all; None where the network finds no label without a prompt.
        features: ``(C,)``, float32, of length 1: the mean embedding.
    """

    uncertainty: float | None
    features: np.ndarray


def look_at(
    embedder: Embedder,
    volume: Volume,
    tokens: Sequence[int],
    slices: int = SLICES,
    mirrored: Volume | None = None,
) -> Seen:
    """Look at a volume.

    Args:
        embedder: the network.
        volume: the slices.
        tokens: places of the labels' tokens that are asked for; none for a network that has none.
        slices: how many are looked at.
        mirrored: the volume with its slices mirrored, x from its end, whose embeddings then join the cache; without it
            mirrored slices pass the encoder alone.
    """
    chosen = np.unique(np.linspace(0, len(volume) - 1, min(slices, len(volume))).round().astype(int)).tolist()
    frame = Frame(embedder.network, volume.size)
    rows, columns = frame.inside
    means, doubts = [], []
    for k in chosen:
        (embedding,) = embedder.embed(volume, [k])
        means.append(embedding[0, :, :rows, :columns].mean((1, 2)).float().cpu().numpy())
        doubts += _doubts(embedder, frame, volume, k, embedding, tokens, mirrored)
    mean = np.mean(means, 0)
    uncertainty = None if not tokens else float(np.mean(doubts)) if doubts else 1.0
    return Seen(uncertainty, mean / max(float(np.linalg.norm(mean)), 1e-12))


def _doubts(
    embedder: Embedder, frame: Frame, volume: Volume, k: int, embedding: Tensor, tokens: Sequence[int],
    mirrored: Volume | None,
) -> list[float]:  # fmt: skip
    """For each label that is found on a slice, how little its answers are to be trusted, 0 to 1."""
    if not tokens:
        return []
    asked = [token(place) for place in tokens]
    alone = frame.decode(embedding, asked, [None] * len(asked))
    masks = [frame.mask_of(logits) for logits, _ in alone]
    found = [n for n, mask in enumerate(masks) if mask.any()]
    if not found:
        return []
    boxed = frame.decode(embedding, [corners(frame.box_of(masks[n])) for n in found], [None] * len(found))
    if mirrored is None:
        image = volume.slice(k, embedder.network.neighbours).flip(-1)[None].to(embedder.device)
        with torch.no_grad():
            turned = embedder.network.encode(image)
    else:
        (turned,) = embedder.embed(mirrored, [k])
    by_mirrored = frame.decode(turned, [asked[n] for n in found], [None] * len(found))
    width = frame.extent[1]
    doubts = []
    for n, (by_box, _), (by_mirror, _) in zip(found, boxed, by_mirrored, strict=True):
        back = frame.mask_of(by_mirror)
        back[:, :width] = back[:, :width].flip(1)
        agreement = (_dice(masks[n], frame.mask_of(by_box)) + _dice(masks[n], back)) / 2
        sure = min(max(float(alone[n][1]), 0.0), 1.0)
        doubts.append(1 - (sure + agreement) / 2)
    return doubts


def _dice(one: Tensor, other: Tensor) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()).clamp(min=1))


def by_uncertainty(seen: Mapping[str, Seen]) -> list[str]:
    """Ids, the most uncertain first; those without a value come last, in the order of the alphabet."""
    doubts = {name: -1.0 if one.uncertainty is None else one.uncertainty for name, one in seen.items()}
    return sorted(seen, key=lambda name: (-doubts[name], name))


def by_diversity(seen: Mapping[str, Seen], labelled: Sequence[str], count: int | None = None) -> list[str]:
    """Ids without a label, each the farthest from all that were labelled or chosen before it.

    Args:
        seen: of all cases, labelled ones too.
        labelled: ids that count as chosen; where there is none, the case nearest to the mean of all comes first.
        count: how many; None for all.
    """
    names = sorted(set(seen) - set(labelled))
    if not names:
        return []
    features = np.stack([seen[name].features for name in names])
    known = [seen[name].features for name in labelled if name in seen]
    distance = np.full(len(names), np.inf)
    for one in known:
        distance = np.minimum(distance, np.linalg.norm(features - one, axis=1))
    order: list[int] = []
    for _ in range(len(names) if count is None else min(count, len(names))):
        if not known and not order:
            best = int(np.linalg.norm(features - features.mean(0), axis=1).argmin())
        else:
            best = int(distance.argmax())
        order.append(best)
        distance = np.minimum(distance, np.linalg.norm(features - features[best], axis=1))
        distance[order] = -np.inf
    return [names[n] for n in order]


def by_both(seen: Mapping[str, Seen], labelled: Sequence[str], count: int | None = None) -> list[str]:
    """Ids without a label: of the more uncertain half, each the farthest from what was labelled or chosen; then the rest.

    Where the network finds no label without a prompt, no half is more uncertain: all are chosen from.

    Args:
        seen: of all cases, labelled ones too.
        labelled: ids that count as chosen.
        count: how many; None for all.
    """
    open_ones = {name: one for name, one in seen.items() if name not in set(labelled)}
    ranked = by_uncertainty(open_ones)
    doubted = any(one.uncertainty is not None for one in open_ones.values())
    half = set(ranked[: max(-(-len(ranked) // 2), count or 0)] if doubted else ranked)
    known = {name: one for name, one in seen.items() if name in half or name in set(labelled)}
    first = by_diversity(known, labelled, count)
    return (first + [name for name in ranked if name not in set(first)])[: count or len(ranked)]
