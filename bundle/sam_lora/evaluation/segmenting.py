"""Answers to the protocols of a case, decoded as serving decodes them; each slice is encoded once for all protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sam_lora.embedding import Embedder
from sam_lora.evaluation.clicks import first_click, next_click
from sam_lora.evaluation.protocols import BOXES, EvaluationRules, automatic_points, box_points
from sam_lora.evaluation.truth import CaseTruth
from sam_lora.frame import Frame
from sam_lora.metrics import dice
from sam_lora.prompts import Point, box_of, corners
from sam_lora.propagation import Masks, Propagation
from sam_lora.requests import ObjectPrompts
from sam_lora.segmentation import label_map
from sam_lora.volumes import Volume

GOALS = (0.85, 0.90)  # Dice to which clicks are counted


@dataclass
class Answer:
    """What was segmented of a case under one protocol, by whatever method.

    Args:
        masks: value -> slice -> ``(H, W)``, bool; a slice that is missing is empty.
        iou: (value, slice) -> predicted IoU, where the method predicts one.
        clicks: (value, slice) -> for each Dice of :data:`GOALS` the clicks it took, None where it was not reached.
    """

    masks: dict[int, dict[int, np.ndarray]] = field(default_factory=dict)
    iou: dict[tuple[int, int], float] = field(default_factory=dict)
    clicks: dict[tuple[int, int], tuple[int | None, ...]] = field(default_factory=dict)

    def add(self, value: int, k: int, mask: np.ndarray, iou: float) -> None:
        """Keep an object's mask on a slice."""
        self.masks.setdefault(value, {})[k] = mask
        self.iou[value, k] = iou

    def add_parts(self, value: int, k: int, parts: Sequence[tuple[np.ndarray, float]]) -> None:
        """Keep all that was found of an object on a slice; its predicted IoU is the parts' own, weighed by their pixels."""
        masks, ious = zip(*parts, strict=True)
        weights = [max(1, int(mask.sum())) for mask in masks]
        self.add(value, k, np.logical_or.reduce(masks), float(np.average(ious, weights=weights)))


class SliceDecoder:
    """Decodes the objects of a slice in one pass, as they are served when each is asked for alone.

    Args:
        embedder: the network and its cache.
        volume: the slices.
        coming: slices that will be asked for, in order; where the device gains by it, they are encoded in batches.
    """

    def __init__(self, embedder: Embedder, volume: Volume, coming: Sequence[int]) -> None:
        self.embedder, self.volume, self._coming = embedder, volume, list(coming)
        self._frame = Frame(embedder.network, volume.size)

    def decode(
        self, k: int, points: Sequence[Sequence[Point]], previous: Sequence[Tensor | None] | None = None
    ) -> list[tuple[Tensor, float]]:
        """For each object its logits ``(n, n)`` and predicted IoU; ``previous``: logits that prompt, or None."""
        if not self.embedder.holds(self.volume, k):
            place = self._coming.index(k)
            self.embedder.embed(self.volume, self._coming[place : place + self.embedder.batch_size])
        (embedding,) = self.embedder.embed(self.volume, [k])
        found = self._frame.decode(embedding, points, previous or [None] * len(points))
        return [(logits, float(iou)) for logits, iou in found]

    @torch.no_grad()
    def masks(self, logits: Sequence[Tensor]) -> list[np.ndarray]:
        """Logits of objects as masks ``(H, W)``, bool."""
        high = self.embedder.network.upscale(torch.stack(list(logits))[None].float(), self.volume.size)[0]
        return list((high > 0).cpu().numpy())


def segment_case(
    embedder: Embedder, truth: CaseTruth, rules: EvaluationRules, feed_back: bool = False
) -> dict[str, Answer]:
    """Segment a case under every protocol.

    Args:
        embedder: the network and its caches.
        truth: where prompts come from.
        rules: which protocols.
        feed_back: prompt each correction with the logits before it too; serving does not.

    Returns:
        Protocol -> its answer.

    Raises:
        PromptError: if ``automatic`` cannot tell the labels apart.
    """
    answers = {protocol: Answer() for protocol in rules.protocols}
    volume = Volume(np.moveaxis(truth.case.image, (0, 1, 2), (2, 1, 0)))
    labels = automatic_points(embedder.network, truth.asked) if "automatic" in answers else {}
    one_by_one = bool(rules.clicks) or any(protocol in BOXES for protocol in answers)
    holding = {k for value in truth.slices for k in truth.measured(value)} if one_by_one else set()
    coming = [k for k in truth.chosen if labels or k in holding]
    decoder = SliceDecoder(embedder, volume, coming)
    everywhere: dict[int, Masks] = {value: {} for value in labels}
    for k in coming:
        if k in holding:
            _ask_one_by_one(decoder, k, truth, answers, rules, feed_back)
        found = decoder.decode(k, list(labels.values())) if labels else []
        for value, (logits, iou) in zip(labels, found, strict=True):
            everywhere[value][k] = logits
            answers["automatic"].iou[value, k] = iou
    if labels:
        answers["automatic"].masks = _joined(embedder, volume, list(labels), list(everywhere.values()))
    if "propagated" in answers:
        answers["propagated"].masks = _propagated(embedder, volume, truth)
    return answers


def _ask_one_by_one(
    decoder: SliceDecoder,
    k: int,
    truth: CaseTruth,
    answers: Mapping[str, Answer],
    rules: EvaluationRules,
    feed_back: bool,
) -> None:
    """The protocols that ask for each object of a slice by itself."""
    objects = truth.objects(k)
    for protocol in answers.keys() & BOXES.keys():
        asked = box_points(protocol, objects, truth.case.name, k, rules)
        found = decoder.decode(k, [points for _, points in asked])
        masks = decoder.masks([logits for logits, _ in found])
        for value in objects:
            mine = [n for n, (whose, _) in enumerate(asked) if whose == value]
            answers[protocol].add_parts(value, k, [(masks[n], found[n][1]) for n in mine])
    if rules.clicks:
        _click(decoder, k, objects, answers, rules, feed_back)


def _joined(
    embedder: Embedder, volume: Volume, values: Sequence[int], masks: Sequence[Masks]
) -> dict[int, dict[int, np.ndarray]]:
    """Labels that were asked for together, as they are served together: a pixel belongs to the highest logit."""
    label = label_map(embedder, volume, values, masks)
    result: dict[int, dict[int, np.ndarray]] = {}
    for k in sorted({k for found in masks for k in found}):
        mine = volume.slice_of(label, k)
        for value in np.unique(mine[mine > 0]).tolist():
            result.setdefault(value, {})[k] = mine == value
    return result


def _propagated(embedder: Embedder, volume: Volume, truth: CaseTruth) -> dict[int, dict[int, np.ndarray]]:
    """Each object from one box on its middle slice, as a request with k0 = k1 has it."""
    asked = []
    for value, slices in truth.slices.items():
        middle = slices[len(slices) // 2]
        asked.append(ObjectPrompts(value, truth.names[value], {middle: corners(box_of(truth.mask(value, middle)))}))
    result: dict[int, dict[int, np.ndarray]] = {}
    for one, found in zip(asked, Propagation(embedder, volume, asked).whole_objects(), strict=True):
        kept = {k: logits for k, logits in found.items() if k in set(truth.chosen)}
        result |= _joined(embedder, volume, [one.value], [kept])
    return result


def _click(
    decoder: SliceDecoder,
    k: int,
    objects: Mapping[int, np.ndarray],
    answers: Mapping[str, Answer],
    rules: EvaluationRules,
    feed_back: bool,
) -> None:
    """Click on each object of a slice, and correct it until all is known that is asked."""
    clicked = {value: ObjectClicks(truth) for value, truth in objects.items()}
    last = max(rules.clicks[-1], rules.max_clicks)
    for count in range(1, last + 1):
        counting = count <= rules.max_clicks
        active = [
            one
            for one in clicked.values()
            if (count <= rules.clicks[-1] or (counting and not one.is_good)) and one.click_next()
        ]
        if active:
            previous = [one.logits if feed_back else None for one in active]
            found = decoder.decode(k, [one.points for one in active], previous)
            for one, mask, (logits, iou) in zip(active, decoder.masks([f[0] for f in found]), found, strict=True):
                one.answer(mask, logits, iou, counting)
        if count in rules.clicks:
            for value, one in clicked.items():
                answers[f"clicks_{count}"].add(value, k, one.mask, one.iou)
    if rules.max_clicks:
        for count in rules.clicks:
            answers[f"clicks_{count}"].clicks |= {(value, k): tuple(one.reached) for value, one in clicked.items()}


class ObjectClicks:
    """The clicks on one object of a slice, each where the answer to those before it is most wrong.

    Args:
        truth: ``(H, W)``, bool, not empty.

    Attributes:
        points: the clicks so far.
        mask: the answer to them.
        logits: likewise ``(n, n)``; None before the first.
        iou: its predicted IoU.
        reached: for each Dice of :data:`GOALS` the clicks it took; None so far.
    """

    def __init__(self, truth: np.ndarray) -> None:
        self._truth = truth
        self.points: list[Point] = []
        self.mask, self.iou = np.zeros_like(truth), float("nan")
        self.logits: Tensor | None = None
        self.reached: list[int | None] = [None] * len(GOALS)

    @property
    def is_good(self) -> bool:
        """Whether the last goal is reached."""
        return self.reached[-1] is not None

    def click_next(self) -> bool:
        """Place the next click; False where nothing is wrong any more."""
        point = next_click(self.mask, self._truth) if self.points else first_click(self._truth)
        if point is not None:
            self.points.append(point)
        return point is not None

    def answer(self, mask: np.ndarray, logits: Tensor, iou: float, counting: bool) -> None:
        """Take the network's answer to the clicks."""
        self.mask, self.logits, self.iou = mask, logits, iou
        value = dice(mask, self._truth) if counting else 0.0
        for n, goal in enumerate(GOALS):
            if self.reached[n] is None and value >= goal:
                self.reached[n] = len(self.points)
