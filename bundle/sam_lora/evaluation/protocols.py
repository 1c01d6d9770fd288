"""How the objects of a case are asked for: the protocols of an evaluation, each drawing its prompts from the truth alone.

A prompt follows from the seed, the case's name, the slice and the label's value, and from nothing drawn before: every
method, adapter and order of protocols is asked the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sam_lora.networks import Sam
from sam_lora.parts import parts_of
from sam_lora.prompts import Point, PromptError, box_of, corners, jitter_box, token

BOXES = {"oracle_box": 0.0, "jittered_box": 0.1}  # -> how far a side moves, as a share of the box
CLICKS = re.compile(r"clicks_([1-9]|10)")
WHOLE = ("propagated", "automatic")  # these answer for whole volumes, the others for the slices that hold an object
NAMES = "oracle_box, jittered_box, clicks_1 to clicks_10, propagated, automatic"
MAX_CLICKS = 10


@dataclass(frozen=True)
class EvaluationRules:
    """What is asked and what is measured; two evaluations can be compared where these are equal.

    Args:
        protocols: out of :data:`NAMES`; one name, or several. ``oracle_box`` is the exact box of the truth,
            ``jittered_box`` moves each of its sides by up to 10 %, ``clicks_N`` corrects the answer with N clicks,
            ``propagated`` gives one exact box on the middle slice of the object, ``automatic`` gives the label alone.
        label: only this label, a name or a value.
        min_pixels: objects smaller than this on a slice are neither asked for nor measured, except in protocols that
            answer for whole volumes.
        every: measure every n-th slice of a volume.
        tolerance: of Surface Dice, in mm where the case has a spacing, else in pixels.
        max_clicks: with any ``clicks_N``, count the clicks to Dice 0.85 and 0.90 up to this many; 0 does not count.
        seed: of the jitter.
        parts: a box protocol draws a box around each connected part of an object, of ``min_pixels`` or more, and the
            answer is all that is found in them; else one box around all parts. An object of one part is asked alike.

    Raises:
        PromptError: if a protocol is unknown or there is none.
        ValueError: if ``max_clicks`` is no whole number from 0 to 10, or another number is out of its range.
    """

    protocols: Sequence[str] = ("jittered_box",)
    label: str | int | None = None
    min_pixels: int = 1
    every: int = 1
    tolerance: float = 1.0
    max_clicks: int = MAX_CLICKS
    seed: int = 0
    parts: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "protocols", check_protocols(self.protocols))
        for name in ("min_pixels", "every"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be a number above 0, got {self.tolerance!r}.")
        if type(self.max_clicks) is not int or not 0 <= self.max_clicks <= MAX_CLICKS:
            raise ValueError(f"max_clicks must be a whole number from 0 to {MAX_CLICKS}, got {self.max_clicks!r}.")

    @property
    def clicks(self) -> list[int]:
        """After how many clicks the answer is measured, ascending."""
        return sorted(int(found[1]) for found in map(CLICKS.fullmatch, self.protocols) if found)


def check_protocols(protocols: Any) -> tuple[str, ...]:
    """Names of protocols, each once; PromptError lists the known ones where one is unknown."""
    names = [protocols] if isinstance(protocols, str) else list(protocols)
    if not names:
        raise PromptError(f"protocols must name at least one of {NAMES}.")
    for name in names:
        if name not in BOXES and name not in WHOLE and not CLICKS.fullmatch(str(name)):
            raise PromptError(f"protocols must be out of {NAMES}, got {name!r}.")
    return tuple(dict.fromkeys(names))


def object_boxes(
    protocol: str, mask: np.ndarray, case: str, k: int, value: int, rules: EvaluationRules
) -> list[tuple[float, float, float, float]]:
    """The boxes (x0, y0, x1, y1), in pixels, by which a box protocol asks for an object; one unless the rules have parts.

    Args:
        protocol: "oracle_box" or "jittered_box".
        mask: the object's truth on the slice, ``(H, W)``, not empty.
        case: name of the case.
        k: the slice.
        value: of the label.
        rules: their ``parts``, ``min_pixels`` and ``seed``.
    """
    boxes: list[tuple[float, float, float, float]]
    boxes = [box_of(part) for part in (parts_of(mask, rules.min_pixels) if rules.parts else [mask])]
    if not BOXES[protocol]:
        return boxes
    drawn = hashlib.sha256(f"{rules.seed}|{case}|{k}|{value}".encode()).digest()
    rng = np.random.RandomState(int.from_bytes(drawn[:4], "big"))
    return [jitter_box(box, BOXES[protocol], (mask.shape[0], mask.shape[1]), rng) for box in boxes]


def box_points(
    protocol: str, masks: Mapping[int, np.ndarray], case: str, k: int, rules: EvaluationRules
) -> list[tuple[int, list[Point]]]:
    """The prompts of a slice's objects in a box protocol, see :func:`object_boxes`.

    Args:
        protocol: "oracle_box" or "jittered_box".
        masks: value -> ``(H, W)``.
        case: name of the case.
        k: the slice.
        rules: of the evaluation.

    Returns:
        For each box the value of its object and the two corners.
    """
    return [
        (value, corners(box))
        for value, mask in masks.items()
        for box in object_boxes(protocol, mask, case, k, value, rules)
    ]


def automatic_points(network: Sam, labels: Mapping[int, str]) -> dict[int, list[Point]]:
    """The prompts by which labels are asked for on any slice: their tokens, or nothing where there is one label only.

    Args:
        network: a :class:`sam_lora.networks.Sam`; its ``tokens`` are the label values that have some.
        labels: value -> name of what is asked for.

    Raises:
        PromptError: if labels cannot be told apart without tokens, or one has no token.
    """
    tokens = network.tokens
    if not tokens:
        if len(labels) > 1:
            raise PromptError(
                f"The protocol 'automatic' cannot tell {len(labels)} labels apart without label tokens: "
                f"{', '.join(labels.values())}. Choose one with `--label NAME`, or train with `--tokens True`."
            )
        return {value: [] for value in labels}
    for value, name in labels.items():
        if value not in tokens:
            known = ", ".join(map(str, tokens))
            raise PromptError(f"The adapter has no tokens for label {name!r}; it has them for values {known}.")
    return {value: token(tokens.index(value)) for value in labels}
