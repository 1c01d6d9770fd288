"""From prompted slices to a volume: every slice's mask prompts the next one, up and down.

On the next slice a classifier of embedding cells (:mod:`sam_lora.appearance`), fitted on the prompted slice and on
the last one that went well, says where the object is; the box around that prompts the network, whose mask is taken on.
Between two prompted slices the chains from both sides are blended by distance. What was decoded is kept under a key
that holds all it came from, so that after a correction only slices whose chain changed are decoded again.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sam_lora.appearance import EXPECTED, Moments, fit_appearance, learn_appearance, score_appearance
from sam_lora.chains import Known, PropagationRules, Step
from sam_lora.embedding import Embedder
from sam_lora.frame import OUTSIDE, Frame, without_clicked, without_islands
from sam_lora.prompts import Point, corners
from sam_lora.requests import ObjectPrompts
from sam_lora.volumes import Volume

Masks = dict[int, Tensor]  # slice -> logits (n, n) of the network's frame, float16
OnSlice = Callable[[int, int], None]  # told how many slices are done, and of how many; what it raises stops the work


class Propagation:
    """The chains of several objects through one volume.

    Args:
        embedder: the network and its caches.
        volume: the slices.
        objects: what is asked. A background click on a slice without other prompts holds there: what it hits is not
            the object.
        rules: where chains end.
        on_slice: told of the progress.

    Attributes:
        confidence: for each object, slice -> 0 to 1, once it was segmented: the predicted IoU; on slices that a chain
            came to, times the IoU of mask and expectation, the lower one where two chains meet.
    """

    def __init__(
        self,
        embedder: Embedder,
        volume: Volume,
        objects: Sequence[ObjectPrompts],
        rules: PropagationRules | None = None,
        on_slice: OnSlice | None = None,
    ) -> None:
        self.embedder, self.volume, self.objects = embedder, volume, objects
        self.rules, self._on_slice = rules or PropagationRules(), on_slice
        self.confidence: list[dict[int, float]] = [{} for _ in objects]
        self._frame = Frame(embedder.network, volume.size)
        self._prompted = sorted({k for one in objects for k in one.prompted})

    def prompted_slices(self) -> list[Masks]:
        """Segment the prompted slices and no others: for each object, slice -> logits."""
        seeds = self._seeds(self._teller(len(self._prompted)))
        return [{k: step.logits for k, step in one.items()} for one in seeds]

    def whole_objects(self) -> list[Masks]:
        """Segment whole objects: for each, slice -> logits; slices that it does not reach are missing."""
        tell = self._teller(len(self._prompted) + 2 * len(self.volume))
        seeds = self._seeds(tell)
        up = self._sweep(seeds, list(range(len(self.volume))), tell)
        down = self._sweep(seeds, list(range(len(self.volume) - 1, -1, -1)), tell)
        return [blended(sorted(s), u, d) for s, u, d in zip(seeds, up, down, strict=True)]

    def _teller(self, total: int) -> Callable[[], None]:
        done = itertools.count(1)
        return lambda: None if self._on_slice is None else self._on_slice(next(done), total)

    def _seeds(self, tell: Callable[[], None]) -> list[dict[int, Step]]:
        """Every prompted slice, all its objects in one pass of the decoder."""
        seeds: list[dict[int, Step]] = [{} for _ in self.objects]
        for place, k in enumerate(self._prompted):
            asked = [n for n, one in enumerate(self.objects) if k in one.prompted]
            some = [self.objects[n] for n in asked]
            keys = [self._key(self.embedder.identity, k, one.points[k], one.masks.get(k)) for one in some]

            def decode(missing: list[int], place: int = place, some: list[ObjectPrompts] = some) -> list:
                k, embedding = self._prompted[place], self._embed(self._prompted[place:])
                masks = [some[n].masks.get(k) for n in missing]
                previous = [None if mask is None else self._frame.logits_of(mask) for mask in masks]
                return self._frame.decode(embedding, [some[n].points[k] for n in missing], previous)

            for n, key, (logits, iou) in zip(asked, keys, self.embedder.steps.get_many(keys, decode), strict=True):
                mask = self._frame.mask_of(logits)
                seeds[n][k] = Step(k, key, logits, mask, float(iou), Known(k, mask))
                self.confidence[n][k] = float(iou)
            tell()
        return seeds

    def _sweep(self, seeds: Sequence[dict[int, Step]], order: list[int], tell: Callable[[], None]) -> list[Masks]:
        """All chains in one direction."""
        found: list[Masks] = [{k: step.logits for k, step in one.items()} for one in seeds]
        chains: dict[int, Step] = {}
        for place, k in enumerate(order):
            chains = {n: step for n, step in chains.items() if self._reaches(n, k)}
            arriving = [n for n in chains if k not in seeds[n]]  # a prompted slice ends the chain that comes to it
            if arriving:
                before = {n: chains.pop(n) for n in arriving}
                for n, step in zip(arriving, self._next(before, order[place:]), strict=True):
                    if self.rules.holds(step, before[n]):
                        chains[n], found[n][k] = step, step.logits
                        self.confidence[n][k] = min(step.confidence, self.confidence[n].get(k, 1.0))
            chains |= {n: one[k] for n, one in enumerate(seeds) if k in one and one[k].mask.any()}
            tell()
        return found

    def _reaches(self, n: int, k: int) -> bool:
        bounds = self.objects[n].bounds
        return bounds is None or bounds[0] <= k <= bounds[1]

    def _next(self, chains: dict[int, Step], coming: list[int]) -> list[Step]:
        """The step of each chain onto the first of the coming slices, decoded in one pass."""
        k, before = coming[0], list(chains.values())
        clicks = [list(self.objects[n].points.get(k, [])) for n in chains]
        keys = [self._key(step.key, k, points, self.rules) for step, points in zip(before, clicks, strict=True)]

        def decode(missing: list[int]) -> list[tuple[Tensor, Tensor]]:
            ahead = [k for k in coming if any(self._reaches(n, k) for n in chains)]
            return self._decode_next(self._embed(ahead), [before[n] for n in missing], [clicks[n] for n in missing])

        steps = []
        for last, key, found in zip(before, keys, self.embedder.steps.get_many(keys, decode), strict=True):
            mask = self._frame.mask_of(found[0])
            step = Step(k, key, found[0], mask, float(found[1]), last.seed, last.latest, last.doubts + 1)
            if step.confidence >= self.rules.trust:
                step.latest, step.doubts = Known(k, mask), 0
            steps.append(step)
        return steps

    def _decode_next(
        self, embedding: Tensor, before: Sequence[Step], clicks: Sequence[list[Point]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Logits and confidence of each chain on the slice of an embedding; nothing where nothing is expected."""
        frame = self._frame
        regions = [self._expected(step, embedding) for step in before]
        there = [n for n, region in enumerate(regions) if int(region.sum()) >= self.rules.min_area]
        prompts = [corners(frame.box_of(regions[n])) + clicks[n] for n in there]
        decoded = dict(zip(there, frame.decode(embedding, prompts, [None] * len(there)), strict=True))
        results = []
        for n, region in enumerate(regions):
            logits, iou = decoded.get(n, (torch.full_like(before[n].logits, OUTSIDE), torch.zeros(())))
            logits = without_clicked(logits, [frame.pixel_of(point) for point in clicks[n]])
            mask = frame.mask_of(logits)
            results.append((logits, iou * (mask & region).sum() / (mask | region).sum().clamp(min=1)))
        return results

    def _expected(self, before: Step, embedding: Tensor) -> Tensor:
        """Where the object of a chain is expected on the slice of an embedding: ``(n, n)``, bool."""
        learned = [before.seed] if before.latest is None else [before.seed, before.latest]
        score = score_appearance(fit_appearance([self._moments(one) for one in learned]), embedding)
        near = self._frame.grown(before.mask, self.rules.max_move)
        return without_islands((score.to(near.device) > EXPECTED) & near, before.mask)

    def _moments(self, known: Known) -> Moments:
        if known.moments is None:
            embedding = self.embedder.embed(self.volume, [known.k])[0]
            known.moments = learn_appearance(embedding, known.mask, self._frame.inside)
        return known.moments

    def _embed(self, coming: list[int]) -> Tensor:
        """The embedding of the first of the coming slices; where it is new, made in a batch with those after it."""
        count = 1 if self.embedder.holds(self.volume, coming[0]) else self.embedder.batch_size
        return self.embedder.embed(self.volume, coming[:count])[0]

    def _key(self, parent: str, k: int, *parts: object) -> str:
        said = [parent.encode(), self.embedder.digest(self.volume, k).encode()]
        said += [part.tobytes() if hasattr(part, "tobytes") else repr(part).encode() for part in parts]
        return hashlib.sha256(b"|".join(said)).hexdigest()


def blended(seeds: Sequence[int], up: Masks, down: Masks) -> Masks:
    """Both chains of an object as one: between two prompted slices the nearer one weighs more.

    Args:
        seeds: the prompted slices, ascending.
        up: slice -> logits of the chains that go up.
        down: likewise down.
    """
    result = up | down
    for k in up.keys() & down.keys() - set(seeds):
        below, above = max(s for s in seeds if s < k), min(s for s in seeds if s > k)
        share = (k - below) / (above - below)
        result[k] = ((1 - share) * up[k].float() + share * down[k].float()).half()
    return dict(sorted(result.items()))
